// Attention and its gradients as foreign functions of XLA: buffers and attributes -> fv_problem -> the C ABI.
//
// Which operands there are, and all numbers, stand in two vectors of attributes that `foveate.jax._calls` writes. Every
// operand has the same number of leading axes, `batched + lead` of them, each of its own extent or of 1: jax.vmap puts
// the batched ones in front. Nothing here needs Python: XLA calls from threads of its own, several at once.
#include "xla_ffi.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <new>

#include "arrays.hpp"
#include "register.hpp"

namespace foveate::xla {
namespace {

// A view one of whose axes may be made longer.
struct View : python::View {
  // An axis of length 1 becomes one of so many times the same.
  void repeat(int axis, int64_t times) {
    if (shape[axis] != 1 || times == 1) return;
    const_cast<int64_t*>(shape)[axis] = times;
    const_cast<int64_t*>(strides)[axis] = 0;
  }
};

// ---- what is given

// The operands in their order; those that are not given are left out.
enum Operand : int {
  kQuery,
  kKey,
  kValue,
  kMask,
  kOffset,
  kKeyLengths,
  kQuerySegments,
  kKeySegments,
  kLow,
  kHigh,
  kSink,
  kFactors,
  kSeed,
  // of the gradients
  kOutput,
  kLse,
  kDOutput,
  kDLse,
  // how operands move, and of the second order how the answers and their gradients do
  kTQuery,
  kTKey,
  kTValue,
  kTMask,
  kTSink,
  kTOutput,
  kTLse,
  kTDOutput,
  kTDLse,
  kOperands
};
// How many axes stand behind the leading ones.
constexpr int kBehind[kOperands] = {2, 2, 2, 2, 0, 0, 1, 1, 1, 1, 0, 1, 1, 2, 2, 2, 1, 2, 2, 2, 2, 0, 2, 1, 2, 1};
// Those whose rows may stand before the last leading axes, (..., rows, heads, columns).
constexpr uint32_t kOfRows = 1u << kQuery | 1u << kKey | 1u << kValue | 1u << kOutput | 1u << kDOutput | 1u << kDLse |
                             1u << kTQuery | 1u << kTKey | 1u << kTValue | 1u << kTOutput | 1u << kTLse |
                             1u << kTDOutput | 1u << kTDLse;

// The results of attention: the output; where they are wanted, the lse, and it with its parts, for the gradients.
enum Result : int { kAnswer, kAnswerLse, kAnswerParts, kAnswers };
// The results of the gradients, where they are wanted.
enum Gradient : int { kOfQuery, kOfKey, kOfValue, kOfMask, kOfSink, kOfFactors, kGradients };
constexpr int kGradientBehind[kGradients] = {2, 2, 2, 2, 0, 1};

struct Options {
  int64_t given, wanted;  // bits of operands and of results
  int64_t family, left, right, at_end;
  int64_t heads;  // how many leading axes stand between rows and columns
  int64_t lead;   // how many leading axes there are beside those of jax.vmap
  int64_t link;   // 0: none, 1: "power"
};
struct Scalars {
  double scale, softcap, negligible, link_parameter, dropout;
};

bool read(const Frame& frame, Options* options, Scalars* scalars) {
  const Attributes& given = frame.attributes;
  const auto take = [&](int64_t place, const char* name, Dtype dtype, void* to, size_t size) {
    const Text& own = *given.names[place];
    if (given.types[place] != kArrayType || own.length != std::strlen(name) ||
        std::memcmp(own.data, name, own.length) != 0) {
      return false;
    }
    const Numbers& numbers = *static_cast<const Numbers*>(given.items[place]);
    if (numbers.dtype != dtype || numbers.count * 8 != size) return false;
    std::memcpy(to, numbers.data, size);
    return true;
  };
  return given.count == 2 && take(0, "options", kInt64, options, sizeof *options) &&
         take(1, "scalars", kFloat64, scalars, sizeof *scalars);
}

bool dtype_of(Dtype from, fv_dtype* dtype) {
  switch (from) {
    case kBool: *dtype = FV_BOOL; return true;
    case kInt64: *dtype = FV_INT64; return true;
    case kFloat16: *dtype = FV_FLOAT16; return true;
    case kBfloat16: *dtype = FV_BFLOAT16; return true;
    case kFloat32: *dtype = FV_FLOAT32; return true;
    case kFloat64: *dtype = FV_FLOAT64; return true;
    default: return false;
  }
}

int64_t bytes_of(fv_dtype dtype) {
  switch (dtype) {
    case FV_BOOL: return 1;
    case FV_FLOAT16:
    case FV_BFLOAT16: return 2;
    case FV_FLOAT32: return 4;
    case FV_FLOAT64:
    case FV_INT64: break;
  }
  return 8;
}

int64_t count_of(const Buffer& buffer) {
  int64_t count = 1;
  for (int64_t axis = 0; axis < buffer.rank; ++axis) count *= buffer.extents[axis];
  return count;
}

bool is_empty(const fv_array& array) {
  return std::find(array.shape, array.shape + array.ndim, 0) != array.shape + array.ndim;
}

// A view in C order of these extents, whose rows are moved behind the heads.
void look(void* data, fv_dtype dtype, int ndim, const int64_t* extents, int behind, int heads, View* view) {
  int64_t shape[FV_MAX_DIMS], strides[FV_MAX_DIMS], step = bytes_of(dtype);
  for (int axis = ndim - 1; axis >= 0; --axis) {
    shape[axis] = extents[axis];
    strides[axis] = step;
    step *= std::max<int64_t>(extents[axis], 1);
  }
  const int rows = ndim - behind - heads;
  std::rotate(shape + rows, shape + rows + 1, shape + ndim - behind + 1);
  std::rotate(strides + rows, strides + rows + 1, strides + ndim - behind + 1);
  view->take(data, dtype, ndim, shape, strides);
}

// Without its first axes, at these places of them; an axis of length 1 is the same for all.
void at(const View& whole, int axes, const int64_t* places, View* part) {
  char* data = static_cast<char*>(whole.data);
  for (int axis = 0; axis < axes; ++axis) {
    if (whole.shape[axis] > 1) data += places[axis] * whole.strides[axis];
  }
  part->take(data, whole.dtype, whole.ndim - axes, whole.shape + axes, whole.strides + axes);
}

// Without all axes but the last, which are of length 1.
void last_axis(const View& whole, View* part) {
  part->take(whole.data, whole.dtype, 1, whole.shape + whole.ndim - 1, whole.strides + whole.ndim - 1);
}

// ---- one call

struct Refusal {
  Code code;
  const char* message;
};

class Call {
 public:
  explicit Call(const Frame& frame) : frame_(frame) {}

  fv_error error;

  // Takes the operands; a refusal is a mistake of the Python that wrote the attributes.
  bool take() {
    if (!read(frame_, &options_, &scalars_)) return wrong("attributes");
    int64_t place = 0;
    for (int i = 0; i < kOperands; ++i) {
      if (!has(i)) continue;
      if (place == frame_.operands.count) return wrong("operands");
      const Buffer& buffer = *frame_.operands.items[place++];
      if (buffer.rank > FV_MAX_DIMS) return wrong("number of axes");
      const int64_t batched = buffer.rank - kBehind[i] - options_.lead;
      if (i == kQuery) batched_ = static_cast<int>(batched);
      if (batched < 0 || batched != batched_ || !view(i, buffer)) return wrong("operand");
    }
    return place == frame_.operands.count || wrong("operands");
  }

  fv_status attend() {
    const int64_t wanted = 1 + (options_.wanted >> kAnswerLse & 1) + (options_.wanted >> kAnswerParts & 1);
    if (frame_.results.count != wanted) return mistake("results");
    const Buffer& answer = *frame_.results.items[0];
    if (!result(answer, 2, true, &out_)) return mistake("output");
    int64_t place = 1;
    const bool with_lse = (options_.wanted >> kAnswerLse & 1) != 0, parts = (options_.wanted >> kAnswerParts & 1) != 0;
    if (with_lse && !result(*frame_.results.items[place++], 1, true, &out_lse_)) return mistake("lse");
    if (parts && !words(*frame_.results.items[place], &out_parts_)) return mistake("parts");
    const fv_status status = each_sample(scalars_.dropout > 0, [&](const fv_problem& problem, const int64_t* places) {
      View out, lse;
      at(out_, sample_axes_, places, &out);
      if (parts || with_lse) at(parts ? out_parts_ : out_lse_, sample_axes_, places, &lse);
      return fv_attention(&problem, &out, parts || with_lse ? &lse : nullptr, &error);
    });
    if (status == FV_OK && parts && with_lse) copy_lse();
    return status;
  }

  // The results are the output, how it moves, and where it is wanted how the lse moves.
  fv_status move() {
    const Buffers& results = frame_.results;
    const bool with_lse = (options_.wanted >> kAnswerLse & 1) != 0;
    if (results.count != 2 + with_lse) return mistake("results");
    if (!result(*results.items[0], 2, true, &out_)) return mistake("output");
    if (!result(*results.items[1], 2, true, &out_moved_)) return mistake("tangent");
    if (with_lse && !result(*results.items[2], 1, true, &out_lse_)) return mistake("lse");
    for (int axis = 0; axis < batched_; ++axis) {  // which only tangents may have
      views_[kQuery].repeat(axis, out_.shape[axis]);
    }
    return each_sample(scalars_.dropout > 0, [&](const fv_problem& problem, const int64_t* places) {
      const Parts tangents(*this, places);
      const fv_tangents t = tangents_of(tangents);
      View out, moved, lse;
      at(out_, sample_axes_, places, &out);
      at(out_moved_, sample_axes_, places, &moved);
      if (with_lse) at(out_lse_, sample_axes_, places, &lse);
      return fv_attention_jvp(&problem, &t, &out, nullptr, &moved, with_lse ? &lse : nullptr, &error);
    });
  }

  fv_status differentiate() {
    return into_gradients([&](const fv_problem& problem, const Parts& given, const fv_gradients& gradients) {
      return fv_attention_backward(&problem, given[kOutput], given[kLse], given[kDOutput], given[kDLse], &gradients,
                                   &error);
    });
  }

  // How the gradients move.
  fv_status differentiate_twice() {
    return into_gradients([&](const fv_problem& problem, const Parts& given, const fv_gradients& gradients) {
      const fv_tangents t = tangents_of(given);
      return fv_attention_backward_jvp(&problem, &t, given[kOutput], given[kLse], given[kDOutput], given[kDLse],
                                       given[kTOutput], given[kTLse], given[kTDOutput], given[kTDLse], &gradients,
                                       &error);
    });
  }

 private:
  bool has(int operand) const { return (options_.given >> operand & 1) != 0; }

  bool wrong(const char* what) {
    std::snprintf(error.message, sizeof error.message, "foveate: XLA gave unexpected %s", what);
    return false;
  }

  fv_status mistake(const char* what) {
    wrong(what);
    return FV_VALUE_ERROR;
  }

  // ---- views

  bool view(int operand, const Buffer& buffer) {
    const int ndim = static_cast<int>(buffer.rank), behind = kBehind[operand];
    const int heads = (kOfRows >> operand & 1) != 0 ? static_cast<int>(options_.heads) : 0;
    if (operand == kLse) return words(buffer, &views_[operand]);
    if (operand == kSeed) {
      if (buffer.dtype != kUint32 || buffer.extents[ndim - 1] != 4) return false;
      int64_t extents[FV_MAX_DIMS];
      std::copy_n(buffer.extents, ndim, extents);
      extents[ndim - 1] = 2;  // of 64 bits
      look(buffer.data, FV_INT64, ndim, extents, behind, 0, &views_[operand]);
      return true;
    }
    fv_dtype dtype;
    void* data = buffer.data;
    if (buffer.dtype == kInt32) {
      data = converted<int32_t, int64_t>(buffer);
      dtype = FV_INT64;
    } else if ((operand == kSink || operand == kTSink) && buffer.dtype == kFloat32) {
      data = converted<float, double>(buffer);
      dtype = FV_FLOAT64;
    } else if (!dtype_of(buffer.dtype, &dtype)) {
      return false;
    }
    look(data, dtype, ndim, buffer.extents, behind, heads, &views_[operand]);
    return true;
  }

  bool result(const Buffer& buffer, int behind, bool of_rows, View* view) const {
    fv_dtype dtype;
    if (!dtype_of(buffer.dtype, &dtype) || buffer.rank != batched_ + options_.lead + behind) return false;
    const int heads = of_rows ? static_cast<int>(options_.heads) : 0;
    look(buffer.data, dtype, static_cast<int>(buffer.rank), buffer.extents, behind, heads, view);
    return true;
  }

  // An lse with its parts, of three numbers a row, which JAX holds as words: it may have no float64.
  bool words(const Buffer& buffer, View* view) const {
    const int ndim = static_cast<int>(buffer.rank);
    if (buffer.dtype != kUint32 || ndim != batched_ + options_.lead + 2 || buffer.extents[ndim - 1] != 6) return false;
    int64_t extents[FV_MAX_DIMS];
    std::copy_n(buffer.extents, ndim, extents);
    extents[ndim - 1] = 3;
    look(buffer.data, FV_FLOAT64, ndim, extents, 2, 0, view);
    return true;
  }

  bool gradient(int i, const Buffer& buffer, bool* apart) {
    const int behind = kGradientBehind[i], ndim = static_cast<int>(buffer.rank);
    const bool wide = i == kOfSink || i == kOfFactors;  // what is summed in float64
    if (ndim != batched_ + options_.lead + behind) return false;
    if (wide && buffer.dtype == kFloat32) {
      double* const sums = room<double>(count_of(buffer));
      look(sums, FV_FLOAT64, ndim, buffer.extents, behind, 0, &gradients_[i]);
      narrow_[i] = &buffer;
    } else if (!result(buffer, behind, i < kOfMask, &gradients_[i])) {
      return false;
    }
    // The gradient of the mask is added to, and where there is no query nothing may be written.
    if (i == kOfMask || is_empty(views_[kDOutput])) {
      std::memset(gradients_[i].data, 0, static_cast<size_t>(count_of(buffer) * bytes_of(gradients_[i].dtype)));
    }
    // Each sample of jax.vmap has a gradient of its own, also of what is the same for all.
    const View* const own = i == kOfMask ? &views_[kMask] : i == kOfFactors ? &views_[kFactors] : nullptr;
    for (int axis = 0; axis < batched_; ++axis) {
      const bool shared = i == kOfKey || i == kOfValue
                              ? views_[kKey].shape[axis] == 1 && views_[kValue].shape[axis] == 1
                              : own != nullptr && own->shape[axis] == 1;
      const bool sums = i == kOfFactors || shared;
      *apart = *apart || (sums && buffer.extents[axis] > 1);
    }
    return true;
  }

  // ---- what goes with a problem, of one sample

  class Parts {
   public:
    Parts(const Call& call, const int64_t* places) {
      for (int i = kOutput; i < kOperands; ++i) {
        if (!call.has(i)) continue;
        at(call.views_[i], call.sample_axes_, places, &views_[i - kOutput]);
        given_[i - kOutput] = &views_[i - kOutput];
      }
    }
    Parts(const Parts&) = delete;
    Parts& operator=(const Parts&) = delete;
    const fv_array* operator[](int operand) const { return given_[operand - kOutput]; }

   private:
    View views_[kOperands - kOutput];
    const fv_array* given_[kOperands - kOutput] = {};
  };

  static fv_tangents tangents_of(const Parts& given) {
    return {given[kTQuery], given[kTKey], given[kTValue], given[kTMask], given[kTSink]};
  }

  template <class F>
  fv_status into_gradients(F&& call) {
    const Buffers& results = frame_.results;
    int64_t place = 0;
    bool apart = scalars_.dropout > 0;
    for (int i = 0; i < kGradients; ++i) {
      if ((options_.wanted >> i & 1) == 0) continue;
      if (place == results.count || !gradient(i, *results.items[place++], &apart)) return mistake("gradients");
    }
    if (place != results.count) return mistake("results");
    for (int axis = 0; axis < batched_; ++axis) {
      int64_t extent = 1;  // of the problem, which has an answer for each part
      for (int i = 0; i <= kSink; ++i) {
        if (has(i)) extent = std::max(extent, views_[i].shape[axis]);
      }
      const int64_t keys = std::max(views_[kKey].shape[axis], views_[kValue].shape[axis]);
      for (int i = kOutput; i < kOperands; ++i) {
        if (!has(i)) continue;
        const bool of_keys = i == kTKey || i == kTValue;
        apart = apart || views_[i].shape[axis] > (of_keys ? keys : extent);
        const bool is_answer = i < kTQuery || i >= kTOutput;
        if (is_answer) views_[i].repeat(axis, extent);
      }
    }
    const fv_status status = each_sample(apart, [&](const fv_problem& problem, const int64_t* places) {
      const Parts given(*this, places);
      View parts[kGradients], factors;
      const fv_array* wanted[kGradients] = {};
      for (int i = 0; i < kGradients; ++i) {
        if ((options_.wanted >> i & 1) == 0) continue;
        at(gradients_[i], sample_axes_, places, &parts[i]);
        wanted[i] = &parts[i];
      }
      if (wanted[kOfFactors] != nullptr) {
        last_axis(parts[kOfFactors], &factors);
        wanted[kOfFactors] = &factors;
      }
      fv_gradients gradients = {};
      gradients.query = wanted[kOfQuery];
      gradients.key = wanted[kOfKey];
      gradients.value = wanted[kOfValue];
      gradients.mask = wanted[kOfMask];
      gradients.sink = wanted[kOfSink];
      gradients.factors = wanted[kOfFactors];
      return call(problem, given, gradients);
    });
    if (status == FV_OK) narrow();
    return status;
  }

  // ---- samples of jax.vmap

  // Calls once, or for each sample: where what a call has once, as factors, differs between them.
  template <class F>
  fv_status each_sample(bool apart, F&& call) {
    int64_t extents[FV_MAX_DIMS], samples = 1;
    for (int axis = 0; axis < batched_; ++axis) {
      extents[axis] = 1;
      for (int i = 0; i < kOperands; ++i) {
        if (!has(i)) continue;
        if (views_[i].shape[axis] == 0) return FV_OK;
        extents[axis] = std::max(extents[axis], views_[i].shape[axis]);
      }
      if (has(kFactors)) apart = apart || views_[kFactors].shape[axis] > 1;
      samples *= extents[axis];
    }
    apart = apart && samples > 1;
    sample_axes_ = apart ? batched_ : 0;
    for (int64_t sample = 0; sample < (apart ? samples : 1); ++sample) {
      int64_t places[FV_MAX_DIMS] = {}, rest = sample;
      for (int axis = sample_axes_ - 1; axis >= 0; --axis) {
        places[axis] = rest % extents[axis];
        rest /= extents[axis];
      }
      const fv_status status = with_problem(places, call);
      if (status != FV_OK) return status;
    }
    return FV_OK;
  }

  template <class F>
  fv_status with_problem(const int64_t* places, F&& call) {
    View parts[kSeed + 1], factors;
    const fv_array* given[kSeed + 1] = {};
    for (int i = 0; i <= kSeed; ++i) {
      if (!has(i)) continue;
      at(views_[i], sample_axes_, places, &parts[i]);
      given[i] = &parts[i];
    }
    fv_problem problem = {};
    problem.query = given[kQuery];
    problem.key = given[kKey];
    problem.value = given[kValue];
    problem.sink = given[kSink];
    problem.score.scale = scalars_.scale;
    problem.score.softcap = scalars_.softcap;
    problem.score.family = static_cast<fv_family>(options_.family);
    problem.score.negligible = scalars_.negligible;
    if (given[kFactors] != nullptr) {
      last_axis(parts[kFactors], &factors);
      problem.score.factors = &factors;
    }
    if (options_.link != 0) {
      problem.score.link = "power";
      problem.score.link_parameter = scalars_.link_parameter;
    }
    problem.reach.mask = given[kMask];
    problem.reach.left = options_.left;
    problem.reach.right = options_.right;
    problem.reach.offset = given[kOffset];
    problem.reach.offset_at_end = options_.at_end != 0;
    problem.reach.key_lengths = given[kKeyLengths];
    problem.reach.query_segments = given[kQuerySegments];
    problem.reach.key_segments = given[kKeySegments];
    problem.reach.low = given[kLow];
    problem.reach.high = given[kHigh];
    problem.dropout = scalars_.dropout;
    if (given[kSeed] != nullptr) std::memcpy(problem.random.key, parts[kSeed].data, sizeof problem.random.key);
    return call(problem, places);
  }

  // ---- conversions, into memory that lives as long as the call

  template <class T>
  T* room(int64_t count) {
    scratch_.emplace_back(new char[sizeof(T) * static_cast<size_t>(count) + 1]);
    return reinterpret_cast<T*>(scratch_.back().get());
  }

  template <class From, class To>
  To* converted(const Buffer& buffer) {
    const int64_t count = count_of(buffer);
    const From* const from = static_cast<const From*>(buffer.data);
    To* const to = room<To>(count);
    std::copy_n(from, count, to);
    return to;
  }

  // The lse from its parts, of which it is the first.
  void copy_lse() {
    const View &from = out_parts_, &to = out_lse_;
    const int ndim = to.ndim;
    int64_t count = 1;
    for (int axis = 0; axis < ndim; ++axis) count *= to.shape[axis];
    for (int64_t i = 0; i < count; ++i) {
      const char* source = static_cast<const char*>(from.data);
      char* target = static_cast<char*>(to.data);
      int64_t rest = i;
      for (int axis = ndim - 1; axis >= 0; --axis) {
        source += rest % to.shape[axis] * from.strides[axis];
        target += rest % to.shape[axis] * to.strides[axis];
        rest /= to.shape[axis];
      }
      double lse;
      std::memcpy(&lse, source, sizeof lse);
      const float narrow = static_cast<float>(lse);
      if (to.dtype == FV_FLOAT64) {
        std::memcpy(target, &lse, sizeof lse);
      } else {
        std::memcpy(target, &narrow, sizeof narrow);
      }
    }
  }

  // Sums of float64 into results of float32.
  void narrow() {
    for (int i = 0; i < kGradients; ++i) {
      if (narrow_[i] == nullptr) continue;
      const double* const sums = static_cast<const double*>(gradients_[i].data);
      std::copy_n(sums, count_of(*narrow_[i]), static_cast<float*>(narrow_[i]->data));
    }
  }

  const Frame& frame_;
  Options options_;
  Scalars scalars_;
  int batched_ = 0;      // leading axes of jax.vmap
  int sample_axes_ = 0;  // those that a call does not have
  View views_[kOperands], out_, out_lse_, out_parts_, out_moved_, gradients_[kGradients];
  const Buffer* narrow_[kGradients] = {};
  std::deque<std::unique_ptr<char[]>> scratch_;
};

// ---- threads

// No more threads than XLA has, for a call on this one.
class WithThreadsOfXla {
 public:
  explicit WithThreadsOfXla(const Frame& frame) {
    const Api& api = *frame.api;
    if (api.size < offsetof(Api, count_threads) + sizeof api.count_threads) return;
    int64_t most = 1;  // where XLA has no pool, its operations run on this thread alone
    ThreadCount count = {sizeof count, nullptr, frame.context, &most};
    if (Error* const refused = api.count_threads(&count)) {
      OldError old = {sizeof old, nullptr, refused};
      api.destroy_error(&old);
      most = 1;
    }
    if (most >= fv_get_num_threads()) return;
    fv_borrow_threads(nullptr, static_cast<int32_t>(std::max<int64_t>(most, 1)));
    limited_ = true;
  }
  ~WithThreadsOfXla() {
    if (limited_) fv_borrow_threads(nullptr, 0);
  }
  WithThreadsOfXla(const WithThreadsOfXla&) = delete;
  WithThreadsOfXla& operator=(const WithThreadsOfXla&) = delete;

 private:
  bool limited_ = false;
};

// ---- handlers

std::atomic<int> minor_version{3};

Error* refuse(const Frame& frame, Code code, const char* message) {
  NewError wanted = {sizeof wanted, nullptr, message, code};
  return frame.api->create_error(&wanted);
}

Code code_of(fv_status status) {
  switch (status) {
    case FV_TYPE_ERROR:
    case FV_VALUE_ERROR: return kInvalidArgument;
    case FV_NO_MEMORY: return kResourceExhausted;
    case FV_INTERRUPTED: return kCancelled;
    case FV_OK: break;
  }
  return kInternal;
}

// Whether XLA only asks what the handler is, and has its answer.
bool describes(Frame& frame) {
  for (Extension* one = frame.extensions; one != nullptr; one = one->next) {
    if (one->kind != kMetadata) continue;
    Metadata& metadata = *reinterpret_cast<MetadataExtension*>(one)->metadata;
    metadata.version.major = 0;
    metadata.version.minor = minor_version;
    metadata.traits = 0;
    return true;
  }
  return false;
}

template <fv_status (Call::*run)()>
Error* handle(Frame* frame) noexcept {
  if (describes(*frame) || frame->stage != kExecute) return nullptr;
  try {
    const std::unique_ptr<Call> call(new Call(*frame));
    if (!call->take()) return refuse(*frame, kInternal, call->error.message);
    const WithThreadsOfXla threads(*frame);
    const python::Uninterrupted uninterrupted;
    const fv_status status = (call.get()->*run)();
    return status == FV_OK ? nullptr : refuse(*frame, code_of(status), call->error.message);
  } catch (const std::bad_alloc&) {
    return refuse(*frame, kResourceExhausted, "foveate: no memory for the arrays of a call");
  }
}

}  // namespace
}  // namespace foveate::xla

namespace foveate::python {

namespace {

py::dict xla_handlers(int minor) {
  xla::minor_version = minor;
  py::dict handlers;
  handlers["foveate_attention"] = py::capsule(reinterpret_cast<void*>(&xla::handle<&xla::Call::attend>));
  handlers["foveate_attention_jvp"] = py::capsule(reinterpret_cast<void*>(&xla::handle<&xla::Call::move>));
  handlers["foveate_attention_backward_jvp"] =
      py::capsule(reinterpret_cast<void*>(&xla::handle<&xla::Call::differentiate_twice>));
  handlers["foveate_attention_backward"] =
      py::capsule(reinterpret_cast<void*>(&xla::handle<&xla::Call::differentiate>));
  return handlers;
}

}  // namespace

void register_xla(py::module_& module) {
  module.def("xla_handlers", &xla_handlers, py::arg("minor"), py::pos_only(),
             "The foreign functions of XLA by name, which say that they are of version 0.minor of its interface.");
}

}  // namespace foveate::python
