// One call of a foreign function: buffers and attributes -> fv_problem -> the C ABI.
//
// Samples of jax.vmap are leading axes of one call, except where they differ in what a call has once: factors, random
// numbers, and gradients of what is the same for all. Then each is a call of its own.
#pragma once
#include <cstdio>
#include <deque>
#include <memory>

#include "xla_problem.hpp"

namespace foveate::xla {

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

  // The results are how the output moves, and where it is wanted how the lse moves.
  fv_status move() {
    const Buffers& results = frame_.results;
    const bool with_lse = (options_.wanted >> kAnswerLse & 1) != 0;
    if (!has(kOutput) || results.count != 1 + with_lse) return mistake("results");
    if (!result(*results.items[0], 2, true, &out_)) return mistake("tangent");
    if (with_lse && !result(*results.items[1], 1, true, &out_lse_)) return mistake("lse");
    for (int axis = 0; axis < batched_; ++axis) {  // which only tangents may have
      views_[kQuery].repeat(axis, out_.shape[axis]);
      views_[kOutput].repeat(axis, out_.shape[axis]);
    }
    return each_sample(scalars_.dropout > 0, [&](const fv_problem& problem, const int64_t* places) {
      const Parts given(*this, places);
      const fv_tangents t = tangents_of(given);
      View out, lse;
      at(out_, sample_axes_, places, &out);
      if (with_lse) at(out_lse_, sample_axes_, places, &lse);
      return fv_attention_tangent(&problem, &t, given[kOutput], &out, with_lse ? &lse : nullptr, &error);
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
    problem.score.slope = scalars_.slope;
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
  View views_[kOperands], out_, out_lse_, out_parts_, gradients_[kGradients];
  const Buffer* narrow_[kGradients] = {};
  std::deque<std::unique_ptr<char[]>> scratch_;
};

}  // namespace foveate::xla
