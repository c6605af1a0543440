// Kernels for torch's own operators of fused attention on the CPU, forward and backward: while they are registered,
// torch's dispatcher calls them in place of its own, from eager code, from autograd and from compiled graphs, without
// Python and without the GIL. Shapes, dtypes and memory layouts of the results are those of torch's kernels.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "register.hpp"
#include "torch_interface.hpp"

namespace foveate::python {
namespace torch {
namespace {

namespace py = pybind11;

constexpr int kMostAxes = 6;                           // batch, heads in two axes, rows, columns, and one for a split
constexpr std::int64_t kSizes[] = {2, 2, 4, 8, 1, 8};  // of the elements of each fv_dtype

fv_parallel parallel = nullptr;  // where torch has its threads from
std::atomic<std::int64_t> forward_calls{0}, backward_calls{0};

[[noreturn]] void refuse(const std::string& what) {
  throw std::runtime_error("scaled_dot_product_attention (foveate): " + what);
}

double number(Value value) {
  double result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

// A view of a tensor. It keeps shape and strides itself.
struct Operand : fv_array {
  explicit Operand(const Tensor& tensor) {
    std::int64_t axes;
    std::int64_t *sizes, *steps;
    std::int32_t of;
    check(functions.get_dim(tensor.get(), &axes), "count axes");
    check(functions.get_sizes(tensor.get(), &sizes), "read a shape");
    check(functions.get_strides(tensor.get(), &steps), "read strides");
    check(functions.get_dtype(tensor.get(), &of), "read a dtype");
    check(functions.get_data_ptr(tensor.get(), &data), "read memory");
    if (axes >= kMostAxes) refuse("got a tensor of " + std::to_string(axes) + " axes, wanted fewer");
    int number = FV_FLOAT32;  // the usual one first
    if (functions.dtypes[number]() != of) {
      for (number = 0; functions.dtypes[number]() != of; ++number) {
        if (number == FV_BOOL) refuse("got a dtype that is not of float numbers or bool");
      }
    }
    dtype = static_cast<fv_dtype>(number);
    ndim = static_cast<std::int32_t>(axes);
    shape = extents;
    strides = bytes;
    for (int axis = 0; axis < ndim; ++axis) {
      extents[axis] = sizes[axis];
      bytes[axis] = steps[axis] * item();
    }
  }
  Operand(const Operand& other) : fv_array(other) {
    std::copy_n(other.extents, ndim, extents);
    std::copy_n(other.bytes, ndim, bytes);
    shape = extents;
    strides = bytes;
  }
  Operand& operator=(const Operand&) = delete;

  std::int64_t item() const { return kSizes[dtype]; }

  bool repeats() const {
    for (int axis = 0; axis < ndim; ++axis) {
      if (bytes[axis] == 0 && extents[axis] > 1) return true;
    }
    return false;
  }

  // Of the same shape, in other memory, in C order.
  void dense(fv_dtype of, void* at) {
    dtype = of;
    data = at;
    std::int64_t step = item();
    for (int axis = ndim - 1; axis >= 0; --axis) {
      bytes[axis] = step;
      step *= extents[axis];
    }
  }

  // The axis of the heads, which has so many behind it, becomes two: groups of heads, and the heads of each.
  void split_heads(std::int64_t groups, int behind = 2) {
    const int axis = ndim - 1 - behind;
    if (axis < 0) return;
    const std::int64_t heads = extents[axis];
    std::copy_backward(extents + axis, extents + ndim, extents + ndim + 1);
    std::copy_backward(bytes + axis, bytes + ndim, bytes + ndim + 1);
    ++ndim;
    extents[axis] = heads == 1 ? 1 : groups;
    extents[axis + 1] = heads == 1 ? 1 : heads / groups;
    bytes[axis] *= extents[axis + 1];
  }

  std::int64_t extents[kMostAxes];
  std::int64_t bytes[kMostAxes];
};

// Most float masks are bool masks that torch has rewritten: 0 where a key is seen, -inf elsewhere. Most of these, of
// padding and of what is causal, let each query see the keys between two numbers. Kernels are faster with these
// numbers, else with the bool mask; and where all is seen there is no mask.
class Mask {
 public:
  Mask(const Tensor& tensor, std::int64_t queries) {
    if (!tensor) return;
    mask = &own_.emplace(tensor);
    switch (mask->dtype) {
      case FV_FLOAT16: simplify<std::uint16_t>(0xFC00, queries); break;
      case FV_BFLOAT16: simplify<std::uint16_t>(0xFF80, queries); break;
      case FV_FLOAT32: simplify<std::uint32_t>(0xFF800000, queries); break;
      case FV_FLOAT64: simplify<std::uint64_t>(0xFFF0000000000000, queries); break;
      default: break;
    }
  }

  // What is left of it, or nothing.
  Operand *mask = nullptr, *low = nullptr, *high = nullptr;

 private:
  template <typename Bits>
  void simplify(Bits hidden, std::int64_t queries) {
    Operand& from = *own_;
    if (from.ndim < 2) return;
    for (int axis = 0; axis < from.ndim; ++axis) {
      if (from.bytes[axis] == 0) from.extents[axis] = 1;  // which broadcasts
    }
    const std::int64_t columns = from.extents[from.ndim - 1];
    std::int64_t rows = 1;
    for (int axis = 0; axis < from.ndim - 1; ++axis) rows *= from.extents[axis];
    if (rows == 0 || columns == 0) return;

    const std::unique_ptr<std::uint8_t[]> row_seen = make<std::uint8_t>(columns);
    std::unique_ptr<std::int64_t[]> bounds = make<std::int64_t>(2 * rows);
    if (row_seen == nullptr || bounds == nullptr) return;
    bool are_intervals = true, all_seen = true;
    for (std::int64_t row = 0; row < rows && are_intervals; ++row) {
      if (!read(row, hidden, row_seen.get())) return;  // numbers to add
      std::int64_t* const own = &bounds[2 * row];
      are_intervals = interval(row_seen.get(), columns, own);
      all_seen &= are_intervals && own[0] == 0 && own[1] == columns;
    }
    if (all_seen) {
      mask = nullptr;
    } else if (are_intervals && columns > 1) {  // a single column may stand for all
      numbers_ = std::move(bounds);
      low = view_of(&low_, 0, queries);
      high = view_of(&high_, 1, queries);
      mask = nullptr;
    } else {
      seen_ = make<std::uint8_t>(rows * columns);
      if (seen_ == nullptr) return;
      for (std::int64_t row = 0; row < rows; ++row) {
        if (!read(row, hidden, seen_.get() + row * columns)) return;
      }
      from.dense(FV_BOOL, seen_.get());
    }
  }

  template <typename T>
  static std::unique_ptr<T[]> make(std::int64_t count) {
    return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<std::size_t>(count)]);
  }

  // Whether each key of a row is seen; false if the row has other numbers than 0 and -inf.
  template <typename Bits>
  bool read(std::int64_t row, Bits hidden, std::uint8_t* to) const {
    const Operand& from = *own_;
    const auto* start = static_cast<const char*>(from.data);
    for (int axis = from.ndim - 2; axis >= 0; --axis) {
      start += row % from.extents[axis] * from.bytes[axis];
      row /= from.extents[axis];
    }
    const std::int64_t columns = from.extents[from.ndim - 1], step = from.bytes[from.ndim - 1];
    constexpr std::int64_t item = sizeof(Bits);
    return step == item ? read_row(start, item, columns, hidden, to) : read_row(start, step, columns, hidden, to);
  }

  template <typename Bits>
  static bool read_row(const char* from, std::int64_t step, std::int64_t columns, Bits hidden, std::uint8_t* to) {
    Bits others = 0;
    for (std::int64_t i = 0; i < columns; ++i) {
      Bits bits;
      std::memcpy(&bits, from + i * step, sizeof(Bits));
      const bool is_zero = static_cast<Bits>(bits << 1) == 0;
      to[i] = static_cast<std::uint8_t>(is_zero);
      others |= static_cast<Bits>(!is_zero && bits != hidden);
    }
    return others == 0;
  }

  // The keys that are seen, from the first to behind the last, if there are no others between.
  static bool interval(const std::uint8_t* seen, std::int64_t columns, std::int64_t* bounds) {
    std::int64_t first = 0, behind = columns;
    while (first < columns && seen[first] == 0) ++first;
    while (behind > first && seen[behind - 1] == 0) --behind;
    bounds[0] = first;
    bounds[1] = behind;
    return std::memchr(seen + first, 0, static_cast<std::size_t>(behind - first)) == nullptr;
  }

  // One of the two numbers of each query.
  Operand* view_of(std::optional<Operand>* result, int which, std::int64_t queries) {
    Operand& view = result->emplace(*own_);
    --view.ndim;
    view.dense(FV_INT64, numbers_.get() + which);
    for (int axis = 0; axis < view.ndim; ++axis) view.bytes[axis] *= 2;
    if (view.extents[view.ndim - 1] != queries) {
      view.extents[view.ndim - 1] = queries;
      view.bytes[view.ndim - 1] = 0;
    }
    return &view;
  }

  std::optional<Operand> own_, low_, high_;
  std::unique_ptr<std::int64_t[]> numbers_;
  std::unique_ptr<std::uint8_t[]> seen_;
};

double scale_of(const Operand& query, const Optional& scale) {
  if (scale.given) return number(scale.value);
  return 1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(1, query.extents[query.ndim - 1])));
}

// What both kernels are given of a problem.
struct Stated {
  Stated(const Tensor& query_tensor, const Tensor& key_tensor, const Tensor& value_tensor, const Tensor& mask_tensor,
         double dropout, bool causal, const Optional& scale)
      : query(query_tensor),
        key(key_tensor),
        value(value_tensor),
        mask(mask_tensor, query.ndim == 4 ? query.extents[2] : 0) {
    if (dropout != 0) refuse("got dropout, wanted none in fused attention on the CPU");
    if (query.ndim != 4 || key.ndim != 4 || value.ndim != 4) refuse("got other than 4 axes, wanted 4");
    const std::int64_t heads = query.extents[1];
    groups = key.extents[1];
    if (groups != value.extents[1] || groups == 0 || heads % groups != 0) {
      refuse("got " + std::to_string(heads) + " heads of queries with " + std::to_string(groups) + " of keys and " +
             std::to_string(value.extents[1]) + " of values, wanted a multiple");
    }
    problem.query = &query;
    problem.key = &key;
    problem.value = &value;
    problem.score.scale = scale_of(query, scale);
    problem.reach.left = -1;
    problem.reach.right = causal ? 0 : -1;
    problem.reach.mask = mask.mask;
    problem.reach.low = mask.low;
    problem.reach.high = mask.high;
    is_grouped = groups != heads;
    for (Operand* one : {&query, &key, &value, mask.mask}) split(one);
    for (Operand* one : {mask.low, mask.high}) split(one, 1);
  }

  void split(Operand* one, int behind = 2) const {
    if (is_grouped && one != nullptr) one->split_heads(groups, behind);
  }

  Operand query, key, value;
  Mask mask;
  std::int64_t groups;
  bool is_grouped;
  fv_problem problem{};
};

// Calls on the threads of torch. A call that Ctrl-C stops returns; what the signal raised is raised as soon as Python
// code runs again.
template <typename Call>
void run(Call&& call) {
  fv_error error;
  fv_borrow_threads(parallel, static_cast<std::int32_t>(num_threads()));
  const fv_status status = call(&error);
  fv_borrow_threads(nullptr, 0);
  if (status == FV_INTERRUPTED) {
    const PyGILState_STATE state = PyGILState_Ensure();
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    const auto raise = [](void* what) {
      PyErr_SetNone(static_cast<PyObject*>(what));
      Py_DECREF(static_cast<PyObject*>(what));
      return -1;
    };
    if (type != nullptr && Py_AddPendingCall(raise, type) != 0) Py_DECREF(type);
    PyGILState_Release(state);
  } else if (status != FV_OK) {
    refuse(error.message);
  }
}

fv_dtype accumulated(fv_dtype dtype) { return dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32; }

// The strides that torch.empty_like gives: those of the tensor, where no two elements share memory and none is unused;
// else dense ones in the same order.
void strides_like(const Operand& like, std::int64_t* strides) {
  const int ndim = like.ndim;
  int order[kMostAxes];  // the innermost axis first
  for (int i = 0; i < ndim; ++i) order[i] = ndim - 1 - i;
  const auto is_outer = [&](int a, int b) {  // 1: a is farther out than b; 0: nobody knows
    const std::int64_t first = like.bytes[a], second = like.bytes[b];
    if (first == 0 || second == 0) return 0;
    if (first != second) return first < second ? -1 : 1;
    return like.extents[a] > like.extents[b] ? 1 : 0;
  };
  for (int i = 1; i < ndim; ++i) {
    for (int at = i, before = i - 1; before >= 0; --before) {
      const int comparison = is_outer(order[before], order[at]);
      if (comparison < 0) break;
      if (comparison > 0) {
        std::swap(order[before], order[at]);
        at = before;
      }
    }
  }
  std::int64_t step = 1;
  bool is_dense = true;
  for (int i = 0; i < ndim; ++i) {
    const int axis = order[i];
    strides[axis] = step;
    is_dense &= like.extents[axis] == 1 || like.bytes[axis] == step * like.item();
    step *= std::max<std::int64_t>(1, like.extents[axis]);
  }
  for (int axis = 0; axis < ndim && is_dense; ++axis) strides[axis] = like.bytes[axis] / like.item();
}

// (query, key, value, dropout, causal, mask, scale) -> (output, lse)
void attend(Value* stack, std::uint64_t, std::uint64_t) {
  const Tensor query(stack[0]), key(stack[1]), value(stack[2]);
  const Tensor mask = Tensor::optional(stack[5]);
  const Optional scale(stack[6]);
  Stated stated(query, key, value, mask, number(stack[3]), stack[4] != 0, scale);

  const Operand whole(query);
  std::int64_t steps[kMostAxes];
  strides_like(whole, steps);
  Tensor output = Tensor::empty(4, whole.extents, steps, whole.dtype);
  const std::int64_t heads = whole.extents[1], rows = whole.extents[2];
  const std::int64_t lse_steps[] = {rows * heads, 1, heads};
  Tensor lse = Tensor::empty(3, whole.extents, lse_steps, accumulated(whole.dtype));

  Operand out(output), denominators(lse);
  stated.split(&out);
  stated.split(&denominators, 1);
  run([&](fv_error* error) { return fv_attention(&stated.problem, &out, &denominators, error); });
  forward_calls.fetch_add(1, std::memory_order_relaxed);
  stack[0] = output.release();
  stack[1] = lse.release();
}

// A gradient, in the memory layout that torch's kernel gives it: (batch, rows, heads, columns).
Tensor gradient_of(const Operand& operand) {
  const std::int64_t heads = operand.extents[1], rows = operand.extents[2], columns = operand.extents[3];
  const std::int64_t steps[] = {rows * heads * columns, columns, heads * columns, 1};
  return Tensor::empty(4, operand.extents, steps, operand.dtype);
}

// (d_output, query, key, value, output, lse, dropout, causal, mask, scale) -> (d_query, d_key, d_value)
void differentiate(Value* stack, std::uint64_t, std::uint64_t) {
  const Tensor d_output(stack[0]), query(stack[1]), output(stack[4]), lse(stack[5]);
  Tensor key(stack[2]), value(stack[3]);
  const Tensor mask = Tensor::optional(stack[8]);
  const Optional scale(stack[9]);
  for (Tensor* one : {&key, &value}) {
    if (Operand(*one).repeats()) *one = one->clone();  // the gradients have an element for each
  }
  Tensor d_query = gradient_of(Operand(query)), d_key = gradient_of(Operand(key)),
         d_value = gradient_of(Operand(value));
  Stated stated(query, key, value, mask, number(stack[6]), stack[7] != 0, scale);

  Operand out(output), denominators(lse), d_out(d_output), to_query(d_query), to_key(d_key), to_value(d_value);
  for (Operand* one : {&out, &d_out, &to_query, &to_key, &to_value}) stated.split(one);
  stated.split(&denominators, 1);
  fv_gradients gradients{};
  gradients.query = &to_query;
  gradients.key = &to_key;
  gradients.value = &to_value;
  run([&](fv_error* error) {
    return fv_attention_backward(&stated.problem, &out, &denominators, &d_out, nullptr, &gradients, error);
  });
  backward_calls.fetch_add(1, std::memory_order_relaxed);
  stack[0] = d_query.release();
  stack[1] = d_key.release();
  stack[2] = d_value.release();
}

// (query, key, value, scale, mask, causal) -> output, of leading axes that broadcast, as `foveate.torch` calls it for each
// new token. The first query stands at the first key. An error is for Python to say again.
void attend_plain(Value* stack, std::uint64_t, std::uint64_t) {
  const Tensor query(stack[0]), key(stack[1]), value(stack[2]);
  const Optional scale(stack[3]);
  const Tensor mask = Tensor::optional(stack[4]);
  const Operand q(query), k(key), v(value);
  fv_problem problem{};
  problem.query = &q;
  problem.key = &k;
  problem.value = &v;
  problem.score.scale = scale_of(q, scale);
  problem.reach.left = -1;
  problem.reach.right = stack[5] != 0 ? 0 : -1;
  std::optional<Operand> hidden;
  if (mask) problem.reach.mask = &hidden.emplace(mask);

  std::int64_t shape[kMostAxes], steps[kMostAxes];
  std::int32_t ndim;
  fv_error error;
  if (fv_output_shape(&problem, &ndim, shape, &error) != FV_OK) refuse(error.message);
  const bool same_lead = ndim == q.ndim && std::equal(shape, shape + ndim - 1, q.shape);
  if (same_lead && shape[ndim - 1] == q.shape[ndim - 1]) {
    strides_like(q, steps);
  } else {
    Operand rows(q);  // in the order of the axes of the query, with values innermost
    rows.ndim = ndim;
    std::copy_n(shape, ndim, rows.extents);
    if (same_lead) {
      rows.bytes[ndim - 1] = 1;
    } else {
      rows.dense(q.dtype, q.data);
    }
    strides_like(rows, steps);
  }
  Tensor output = Tensor::empty(ndim, shape, steps, v.dtype);
  const Operand out(output);
  run([&](fv_error* said) { return fv_attention(&problem, &out, nullptr, said); });
  stack[0] = output.release();
}

// ---- what Python calls

py::tuple names() {
  py::tuple result(std::size(kNames));
  for (std::size_t i = 0; i < std::size(kNames); ++i) result[i] = kNames[i];
  return result;
}

void bind(const py::tuple& addresses, std::uintptr_t threads) {
  void* found[std::size(kNames)];
  if (addresses.size() != std::size(kNames)) throw py::value_error("addresses: got others than those of the names");
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    found[i] = reinterpret_cast<void*>(addresses[i].cast<std::uintptr_t>());
  }
  std::memcpy(&functions, found, sizeof functions);
  parallel = reinterpret_cast<fv_parallel>(threads);
}

// Registers kernels by name; the result is what `remove` takes.
std::uintptr_t registered(const char* space, std::initializer_list<std::pair<const char*, Kernel>> kernels) {
  Library library;
  check(functions.library_init_impl(space, "CPU", __FILE__, __LINE__, &library), "begin a library of kernels");
  for (const auto& [name, kernel] : kernels) {
    constexpr std::uint64_t version = std::uint64_t{2} << 56 | std::uint64_t{10} << 48;  // whose conventions these are
    check(functions.library_impl_of_version != nullptr
              ? functions.library_impl_of_version(library, name, kernel, version)
              : functions.library_impl(library, name, kernel),
          "register a kernel");
  }
  return reinterpret_cast<std::uintptr_t>(library);
}

std::uintptr_t install() {
  return registered("aten", {{"_scaled_dot_product_flash_attention_for_cpu", attend},
                             {"_scaled_dot_product_flash_attention_for_cpu_backward", differentiate}});
}

void install_own() { registered("foveate", {{"attention_plain", attend_plain}}); }  // for good

void remove(std::uintptr_t library) {
  check(functions.delete_library(reinterpret_cast<Library>(library)), "remove a library of kernels");
}

py::tuple calls() { return py::make_tuple(forward_calls.load(), backward_calls.load()); }

}  // namespace
}  // namespace torch

void register_torch(py::module_& module) {
  using py::arg;
  using py::pos_only;
  module.attr("torch_names") = torch::names();
  module.attr("torch_names_needed") = torch::kNeeded;
  module.def("torch_bind", &torch::bind, arg("addresses"), arg("parallel"), pos_only(),
             "Say where torch has the functions of torch_names; 0: nowhere.");
  module.def("torch_install", &torch::install,
             "Register the kernels with torch's dispatcher; return what torch_remove takes.");
  module.def("torch_install_own", &torch::install_own, "Register the kernel of foveate::attention_plain.");
  module.def("torch_remove", &torch::remove, arg("library"), pos_only(), "Remove the kernels: torch's own are back.");
  module.def("torch_calls", &torch::calls, "How often the kernels were called, forward and backward.");
}

}  // namespace foveate::python
