// Kernels for torch's own operators of fused attention on the CPU, forward and backward: while they are registered,
// torch's dispatcher calls them in place of its own, from eager code, from autograd and from compiled graphs, without
// Python and without the GIL. Shapes, dtypes and memory layouts of the results are those of torch's kernels.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "register.hpp"
#include "torch_operands.hpp"

namespace foveate::python {
namespace torch {
namespace {

namespace py = pybind11;

fv_parallel parallel = nullptr;  // where torch has its threads from
std::atomic<std::int64_t> forward_calls{0}, backward_calls{0}, backward_of_torch{0};

// Below so many queries torch's own kernel of the gradients is faster, where no key is hidden: ours has a query in each
// lane of a panel, and sums dK and dV of a tile before it stores them (measured with AVX-512: 0.75 of its speed at 16 to
// 32 queries, as many at 64 to 96).
constexpr std::int64_t kQueriesOfTorch = 64;

double number(Value value) {
  double result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

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

// Lets torch's own kernel write the gradients where it is the faster one; whether it did.
bool differentiate_by_torch(Value* stack) {
  std::int64_t axes = 0, *sizes = nullptr;
  const auto handle = [&](int n) { return reinterpret_cast<Handle>(stack[n]); };
  if (functions.flash_backward == nullptr || functions.get_dim(handle(1), &axes) != 0 || axes != 4) return false;
  if (functions.get_sizes(handle(1), &sizes) != 0 || sizes[2] >= kQueriesOfTorch) return false;
  const Tensor inputs[] = {Tensor(stack[0]), Tensor(stack[1]), Tensor(stack[2]),
                           Tensor(stack[3]), Tensor(stack[4]), Tensor(stack[5])};
  const Optional scale(stack[9]);
  double factor = scale.given ? number(scale.value) : 0;
  Handle results[3] = {};
  check(functions.flash_backward(handle(0), handle(1), handle(2), handle(3), handle(4), handle(5), number(stack[6]),
                                 stack[7] != 0, nullptr, scale.given ? &factor : nullptr, &results[0], &results[1],
                                 &results[2]),
        "compute gradients");
  backward_of_torch.fetch_add(1, std::memory_order_relaxed);
  for (int i = 0; i < 3; ++i) stack[i] = reinterpret_cast<Value>(results[i]);
  return true;
}

// (d_output, query, key, value, output, lse, dropout, causal, mask, scale) -> (d_query, d_key, d_value)
void differentiate(Value* stack, std::uint64_t, std::uint64_t) {
  const Tensor mask = Tensor::optional(stack[8]);
  if (!mask && differentiate_by_torch(stack)) return;
  const Tensor d_output(stack[0]), query(stack[1]), output(stack[4]), lse(stack[5]);
  Tensor key(stack[2]), value(stack[3]);
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

// A dot product of leading axes that broadcast. The first query stands at the first key.
void state_plain(const Operand& query, const Operand& key, const Operand& value, const Optional& scale, bool causal,
                 fv_problem* problem) {
  problem->query = &query;
  problem->key = &key;
  problem->value = &value;
  problem->score.scale = scale_of(query, scale);
  problem->reach.left = -1;
  problem->reach.right = causal ? 0 : -1;
}

// In the memory layout that `foveate.torch` gives an output; with an lse and its parts, where there is room for one.
Tensor answer_plain(const fv_problem& problem, const Operand& q, Tensor* lse) {
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
  Tensor output = Tensor::empty(ndim, shape, steps, problem.value->dtype);
  const Operand out(output);
  std::optional<Operand> denominators;
  if (lse != nullptr) {
    shape[ndim - 1] = 3;
    for (std::int64_t axis = ndim - 1, step = 1; axis >= 0; --axis) {
      steps[axis] = step;
      step *= std::max<std::int64_t>(1, shape[axis]);
    }
    *lse = Tensor::empty(ndim, shape, steps, FV_FLOAT64);
    denominators.emplace(*lse);
  }
  run([&](fv_error* said) { return fv_attention(&problem, &out, denominators ? &*denominators : nullptr, said); });
  return output;
}

// (query, key, value, scale, mask, causal) -> output, as `foveate.torch` calls it for each new token. An error is for
// Python to say again.
void attend_plain(Value* stack, std::uint64_t, std::uint64_t) {
  const Tensor query(stack[0]), key(stack[1]), value(stack[2]);
  const Optional scale(stack[3]);
  const Tensor mask = Tensor::optional(stack[4]);
  const Operand q(query), k(key), v(value);
  fv_problem problem{};
  state_plain(q, k, v, scale, stack[5] != 0, &problem);
  std::optional<Operand> hidden;
  if (mask) problem.reach.mask = &hidden.emplace(mask);
  stack[0] = answer_plain(problem, q, nullptr).release();
}

// (query, key, value, scale, causal) -> (output, lse with its parts), as gradients need them.
void attend_to_learn(Value* stack, std::uint64_t, std::uint64_t) {
  const Tensor query(stack[0]), key(stack[1]), value(stack[2]);
  const Optional scale(stack[3]);
  const Operand q(query), k(key), v(value);
  fv_problem problem{};
  state_plain(q, k, v, scale, stack[4] != 0, &problem);
  Tensor lse;
  stack[0] = answer_plain(problem, q, &lse).release();
  stack[1] = lse.release();
}

// (d_output, query, key, value, output, lse, scale, causal) -> (d_query, d_key, d_value), of equal leading axes.
void differentiate_plain(Value* stack, std::uint64_t, std::uint64_t) {
  const Tensor d_output(stack[0]), query(stack[1]), output(stack[4]), lse(stack[5]);
  Tensor key(stack[2]), value(stack[3]);
  const Optional scale(stack[6]);
  for (Tensor* one : {&key, &value}) {
    if (Operand(*one).repeats()) *one = one->clone();  // the gradients have an element for each
  }
  const Operand q(query), k(key), v(value), out(output), denominators(lse), d_out(d_output);
  fv_problem problem{};
  state_plain(q, k, v, scale, stack[7] != 0, &problem);
  Tensor made[3];
  std::optional<Operand> to[3];
  const Operand* const like[] = {&q, &k, &v};
  for (int i = 0; i < 3; ++i) {
    std::int64_t steps[kMostAxes], step = 1;
    for (int axis = like[i]->ndim - 1; axis >= 0; --axis) {
      steps[axis] = step;
      step *= like[i]->extents[axis];
    }
    made[i] = Tensor::empty(like[i]->ndim, like[i]->extents, steps, like[i]->dtype);
    to[i].emplace(made[i]);
  }
  fv_gradients gradients{};
  gradients.query = &*to[0];
  gradients.key = &*to[1];
  gradients.value = &*to[2];
  run([&](fv_error* error) {
    return fv_attention_backward(&problem, &out, &denominators, &d_out, nullptr, &gradients, error);
  });
  for (int i = 0; i < 3; ++i) stack[i] = made[i].release();
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

void install_own() {  // for good
  registered("foveate", {{"attention_plain", attend_plain},
                         {"attention_plain_to_learn", attend_to_learn},
                         {"attention_plain_backward", differentiate_plain}});
}

void remove(std::uintptr_t library) {
  check(functions.delete_library(reinterpret_cast<Library>(library)), "remove a library of kernels");
}

py::tuple calls() { return py::make_tuple(forward_calls.load(), backward_calls.load(), backward_of_torch.load()); }

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
  module.def("torch_install_own", &torch::install_own,
             "Register the kernels of foveate::attention_plain and its gradients.");
  module.def("torch_remove", &torch::remove, arg("library"), pos_only(), "Remove the kernels: torch's own are back.");
  module.def(
      "torch_calls", &torch::calls,
      "How often the kernels were called, forward and backward, and how often torch's own backward in their place.");
}

}  // namespace foveate::python
