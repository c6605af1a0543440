// Attention, soft and hard, the weights, and the gradients: keywords -> fv_problem -> arrays.
//
// Every answer goes through these entries, so they are plain vectorcall functions: pybind11's dispatch over so many
// arguments costs more than all else here. They keep its promises: no argument is converted or copied silently,
// pointers are taken first, and the GIL is released in an inner scope.
#include "arguments.hpp"
#include "register.hpp"

#include <algorithm>
#include <cstdint>

namespace foveate::python {
namespace {

// Below this many score cells times head sizes, about 10 microseconds of one core, the GIL is kept: to win it back from
// a busy thread can take 5 milliseconds (sys.getswitchinterval).
constexpr double kSmallWork = 1 << 18;

constexpr int kNumpyAxes = 32;  // that every NumPy has; of more it may say itself that they are too many

int type_number(PyObject* array) { return py::detail::array_descriptor_proxy(fields(array)->descr)->type_num; }

// One call: what it was given, and what it makes of that.
class Call {
 public:
  Call(Entry entry, PyObject* const* values, Py_ssize_t count, PyObject* names)
      : parsed_(given_.parse(entry, values, count, names)) {}

  PyObject* attend() {
    if (!parsed_) return nullptr;
    int64_t shape[FV_MAX_DIMS];
    int32_t ndim = 0;
    if (!output_shape(&ndim, shape)) return nullptr;
    PyObject* const descriptor = output_dtype();
    const bool has_out = given_.out != Py_None, with_lse = given_.return_lse != Lse::none, repeats = given_.rows >= 0;
    const int64_t own_rows = shape[ndim - 2];
    if (repeats) shape[ndim - 2] = given_.rows;
    View out_view, lse_view;
    if (has_out && !usable_out(given_.out, descriptor, ndim, shape, &out_view)) return nullptr;

    // An `out` that overlaps an operand, or that the kernels cannot write, has its answer by way of a new array; so have
    // rows that are the same one.
    const bool direct = !repeats && (!has_out || (is_aligned(given_.out) && !overlaps_operand(out_view)));
    const py::object answer = has_out ? py::reinterpret_borrow<py::object>(given_.out)
                                      : made("query, key, value", new_array(descriptor, ndim, shape), ndim, shape);
    if (!answer) return nullptr;
    const py::object lse = with_lse ? new_lse(ndim, shape) : py::none();
    if (!lse) return nullptr;
    shape[ndim - 2] = own_rows;
    const py::object out = direct ? answer : made("query, key, value", new_array(descriptor, ndim, shape), ndim, shape);
    const py::object own_lse = with_lse && repeats ? new_lse(ndim, shape) : lse;
    if (!out || !own_lse || !view("out", out.ptr(), &out_view)) return nullptr;
    if (with_lse && !view("lse", own_lse.ptr(), &lse_view)) return nullptr;

    const fv_status status = released(ndim, shape, [&] {
      return given_.problem.value == nullptr
                 ? fv_attention_weights(&given_.problem, &out_view, &error_)
                 : fv_attention(&given_.problem, &out_view, with_lse ? &lse_view : nullptr, &error_);
    });
    if (status != FV_OK) return failed(status);
    const auto copy = py::detail::npy_api::get().PyArray_CopyInto_;  // which broadcasts
    if (!direct && copy(answer.ptr(), out.ptr()) != 0) return nullptr;
    if (with_lse && repeats && copy(lse.ptr(), own_lse.ptr()) != 0) return nullptr;
    return with_lse ? PyTuple_Pack(2, answer.ptr(), lse.ptr()) : Py_NewRef(answer.ptr());
  }

  // (output, lse, tangent of the output, tangent of the lse), the lse and its tangent None where they are not wanted.
  PyObject* move() {
    if (!parsed_) return nullptr;
    int64_t shape[FV_MAX_DIMS];
    int32_t ndim = 0;
    if (!output_shape(&ndim, shape)) return nullptr;
    const bool with_lse = given_.return_lse != Lse::none;
    const py::object out = made("query, key, value", new_array(output_dtype(), ndim, shape), ndim, shape);
    if (!out) return nullptr;
    const py::object t_out = made("query, key, value", new_array(output_dtype(), ndim, shape), ndim, shape);
    if (!t_out) return nullptr;
    const py::object lse = with_lse ? new_lse(ndim, shape) : py::none();
    if (!lse) return nullptr;
    const py::object t_lse =
        with_lse ? py::reinterpret_steal<py::object>(new_array(accumulated(), ndim - 1, shape)) : py::none();
    View out_view, lse_view, t_out_view, t_lse_view;
    if (!t_lse || !view("out", out.ptr(), &out_view) || !view("t_out", t_out.ptr(), &t_out_view)) return nullptr;
    if (with_lse && (!view("lse", lse.ptr(), &lse_view) || !view("t_lse", t_lse.ptr(), &t_lse_view))) return nullptr;
    const fv_status status = released(ndim, shape, [&] {
      return fv_attention_jvp(&given_.problem, &given_.tangents, &out_view, with_lse ? &lse_view : nullptr, &t_out_view,
                              with_lse ? &t_lse_view : nullptr, &error_);
    });
    return status == FV_OK ? PyTuple_Pack(4, out.ptr(), lse.ptr(), t_out.ptr(), t_lse.ptr()) : failed(status);
  }

  // The shape of the output alone, of a problem that is checked and not computed.
  PyObject* shape() {
    int64_t shape[FV_MAX_DIMS];
    int32_t ndim = 0;
    if (!parsed_ || !output_shape(&ndim, shape)) return nullptr;
    return shape_tuple(ndim, shape).release().ptr();
  }

  // (tangent of the output, that of the lse), of an output that is given.
  PyObject* move_alone() {
    if (!parsed_) return nullptr;
    int64_t shape[FV_MAX_DIMS];
    int32_t ndim = 0;
    if (!output_shape(&ndim, shape)) return nullptr;
    const py::object t_out = made("query, key, value", new_array(output_dtype(), ndim, shape), ndim, shape);
    if (!t_out) return nullptr;
    const py::object t_lse = py::reinterpret_steal<py::object>(new_array(accumulated(), ndim - 1, shape));
    View t_out_view, t_lse_view;
    if (!t_lse || !view("t_out", t_out.ptr(), &t_out_view) || !view("t_lse", t_lse.ptr(), &t_lse_view)) return nullptr;
    const fv_status status = released(ndim, shape, [&] {
      return fv_attention_tangent(&given_.problem, &given_.tangents, &given_.output, &t_out_view, &t_lse_view, &error_);
    });
    return status == FV_OK ? PyTuple_Pack(2, t_out.ptr(), t_lse.ptr()) : failed(status);
  }

  PyObject* differentiate() {
    if (!parsed_) return nullptr;
    const Arguments& a = given_;
    return nothing_or_error(released(a.output.ndim, a.output.shape, [&] {
      return fv_attention_backward(&a.problem, &a.output, &a.lse, &a.d_output, a.d_lse_or_null, &a.gradients, &error_);
    }));
  }

  PyObject* differentiate_moving() {
    if (!parsed_) return nullptr;
    const Arguments& a = given_;
    return nothing_or_error(released(a.output.ndim, a.output.shape, [&] {
      return fv_attention_backward_jvp(&a.problem, &a.tangents, &a.output, &a.lse, &a.d_output, a.d_lse_or_null,
                                       &a.t_output, &a.t_lse, a.t_d_output_or_null, a.t_d_lse_or_null, &a.gradients,
                                       &error_);
    }));
  }

  PyObject* differentiate_choices() {
    if (!parsed_) return nullptr;
    const Arguments& a = given_;
    const int64_t draws = a.index.ndim > 0 ? a.index.shape[a.index.ndim - 1] : 0;
    return nothing_or_error(released(a.index.ndim, a.index.shape, [&] {
      return fv_hard_attention_backward(&a.problem, draws, &a.index, &a.lse, &a.d_output, &a.advantage, &a.gradients,
                                        &error_);
    }));
  }

  // (output, index, log_prob), with an axis of draws before the last one of the output, and at the end of the others.
  PyObject* choose() {
    if (!parsed_) return nullptr;
    int64_t shape[FV_MAX_DIMS + 1];
    int32_t ndim = 0;
    if (!output_shape(&ndim, shape)) return nullptr;
    const int64_t draws = given_.size;
    if (draws < 0) {
      PyErr_Format(PyExc_ValueError, "size: got %lld, wanted a number >= 0", static_cast<long long>(draws));
      return nullptr;
    }
    shape[ndim] = shape[ndim - 1];
    shape[ndim - 1] = draws;
    const py::object out = made("size", new_array(output_dtype(), ndim + 1, shape), ndim + 1, shape);
    if (!out) return nullptr;
    const py::object index = made("size", new_array(FV_INT64, ndim, shape), ndim, shape);
    if (!index) return nullptr;
    const py::object log_prob =
        made("size", new_array(given_.problem.gives_scores ? FV_FLOAT64 : accumulated(), ndim, shape), ndim, shape);
    View out_view, index_view, log_prob_view;
    if (!log_prob || !view("out", out.ptr(), &out_view) || !view("index", index.ptr(), &index_view) ||
        !view("log_prob", log_prob.ptr(), &log_prob_view)) {
      return nullptr;
    }
    const fv_status status = released(ndim, shape, [&] {
      return fv_hard_attention(&given_.problem, given_.selection, &given_.random, draws, &out_view, &index_view,
                               &log_prob_view, &error_);
    });
    return status == FV_OK ? PyTuple_Pack(3, out.ptr(), index.ptr(), log_prob.ptr()) : failed(status);
  }

  // (key_sum, entropy, largest, place).
  PyObject* summarize() {
    if (!parsed_) return nullptr;
    int64_t shape[FV_MAX_DIMS], keys_shape[FV_MAX_DIMS];
    int32_t ndim = 0;
    if (!output_shape(&ndim, shape)) return nullptr;
    std::copy_n(shape, ndim - 2, keys_shape);
    keys_shape[ndim - 2] = shape[ndim - 1];
    const fv_dtype dtypes[] = {accumulated(), accumulated(), accumulated(), FV_INT64};
    const char* const names[] = {"key_sum", "entropy", "largest", "place"};
    py::object made_here[4];
    View views[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t* const own = i == 0 ? keys_shape : shape;
      made_here[i] = made("query, key", new_array(dtypes[i], ndim - 1, own), ndim - 1, own);
      if (!made_here[i] || !view(names[i], made_here[i].ptr(), &views[i])) return nullptr;
    }
    const int64_t first = given_.first_query, end = given_.end_query < 0 ? shape[ndim - 2] : given_.end_query;
    const fv_status status = released(ndim, shape, [&] {
      return fv_attention_statistics(&given_.problem, first, end, &views[0], &views[1], &views[2], &views[3], &error_);
    });
    if (status != FV_OK) return failed(status);
    return PyTuple_Pack(4, made_here[0].ptr(), made_here[1].ptr(), made_here[2].ptr(), made_here[3].ptr());
  }

 private:
  bool output_shape(int32_t* ndim, int64_t* shape) {
    const fv_status status = fv_output_shape(&given_.problem, ndim, shape, &error_);
    if (status != FV_OK) set_exception(status, error_);
    return status == FV_OK;
  }

  // Of the answer; that of the query where none is named.
  PyObject* output_dtype() const { return given_.dtype != nullptr ? given_.dtype : given_.query_dtype; }

  fv_dtype accumulated() const { return given_.query.dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32; }

  // For the lse of an output of this shape; null, with an exception, where there is no room.
  py::object new_lse(int ndim, const int64_t* output_shape) const {
    const bool parts = given_.return_lse == Lse::parts;
    int64_t shape[FV_MAX_DIMS];
    std::copy_n(output_shape, ndim - 1, shape);
    shape[ndim - 1] = 3;
    return py::reinterpret_steal<py::object>(
        new_array(parts ? FV_FLOAT64 : accumulated(), parts ? ndim : ndim - 1, shape));
  }

  // Calls without the GIL where there is work enough. shape: of the output, of which the first ndim - 1 axes count
  // rows.
  template <typename Function>
  fv_status released(int ndim, const int64_t* shape, Function&& call) const {
    const auto extent = [](const View& array, int from_end) {  // 0 of what is about to be refused
      return array.ndim < from_end ? 0.0 : static_cast<double>(array.shape[array.ndim - from_end]);
    };
    double work = extent(given_.key, 2);
    for (int axis = 0; axis < ndim - 1; ++axis) work *= static_cast<double>(shape[axis]);
    work *= extent(given_.query, 1) + (given_.problem.value != nullptr ? extent(given_.value, 1) : 0);
    PyThreadState* const thread = work > kSmallWork ? PyEval_SaveThread() : nullptr;
    const fv_status status = call();
    if (thread != nullptr) PyEval_RestoreThread(thread);
    return status;
  }

  static bool is_aligned(PyObject* array) {
    return (fields(array)->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  }

  // `out` has the dtype and the shape of the answer, can be written, and has one address an element.
  static bool usable_out(PyObject* out, PyObject* descriptor, int ndim, const int64_t* shape, View* result) {
    if (!is_array(out)) {
      PyErr_Format(PyExc_TypeError, "out: got %s, wanted a numpy.ndarray", Py_TYPE(out)->tp_name);
      return false;
    }
    fv_dtype wanted, given;
    if (!dtype_of(descriptor, &wanted) || !dtype_of(fields(out)->descr, &given) || given != wanted) {
      PyErr_Format(PyExc_TypeError, "out: got dtype %S, wanted %S", fields(out)->descr, descriptor);
      return false;
    }
    if (!view("out", out, result)) return false;
    const bool same = result->ndim == ndim && std::equal(shape, shape + ndim, result->shape);
    if (!same) {
      PyErr_Format(PyExc_ValueError, "out: got shape %R, wanted %R", shape_tuple(result->ndim, result->shape).ptr(),
                   shape_tuple(ndim, shape).ptr());
      return false;
    }
    if ((fields(out)->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) == 0) {
      PyErr_SetString(PyExc_ValueError, "out: got a read-only array, wanted one that can be written");
      return false;
    }
    const bool empty = std::find(shape, shape + ndim, 0) != shape + ndim;  // whose strides say nothing
    for (int axis = 0; axis < ndim && !empty; ++axis) {
      if (shape[axis] > 1 && result->strides[axis] == 0) {
        PyErr_SetString(PyExc_ValueError, "out: got a broadcast array (a stride of 0), wanted one address per element");
        return false;
      }
    }
    return true;
  }

  // A new array, or none: then, where there is no room for it, a MemoryError that says how large it is, and what makes
  // it so.
  static py::object made(const char* name, PyObject* array, int ndim, const int64_t* shape) {
    if (array == nullptr && ndim <= kNumpyAxes &&
        (PyErr_ExceptionMatches(PyExc_MemoryError) || PyErr_ExceptionMatches(PyExc_ValueError))) {
      PyErr_Clear();
      PyErr_Format(PyExc_MemoryError, "%s: an array of shape %R is too large", name, shape_tuple(ndim, shape).ptr());
    }
    return py::reinterpret_steal<py::object>(array);
  }

  // A tuple to print; an empty handle, which prints as <NULL>, where there is no memory for it.
  static py::object shape_tuple(int ndim, const int64_t* shape) {
    py::object tuple = py::reinterpret_steal<py::object>(PyTuple_New(ndim));
    for (int axis = 0; tuple && axis < ndim; ++axis) {
      PyTuple_SET_ITEM(tuple.ptr(), axis, PyLong_FromLongLong(shape[axis]));
    }
    return tuple;
  }

  bool overlaps_operand(const fv_array& out) const {
    const fv_problem& problem = given_.problem;
    const fv_reach& reach = problem.reach;
    for (const fv_array* operand :
         {problem.query,        problem.key,           problem.value,     problem.key_scale, problem.value_scale,
          problem.sink,         problem.score.factors, reach.mask,        reach.offset,      reach.key_lengths,
          reach.query_segments, reach.key_segments,    reach.low,         reach.high,        reach.centers,
          reach.blocks,         reach.neighborhood,    reach.edge_begins, reach.edge_keys,   reach.edge_bias,
          reach.table,          reach.query_places,    reach.key_places}) {
      if (operand != nullptr && may_overlap(out, *operand)) return true;
    }
    return false;
  }

  PyObject* nothing_or_error(fv_status status) const { return status == FV_OK ? Py_NewRef(Py_None) : failed(status); }

  PyObject* failed(fv_status status) const {
    set_exception(status, error_);
    return nullptr;
  }

  Arguments given_;
  const bool parsed_;
  fv_error error_;
};

template <Entry which, PyObject* (Call::*run)()>
PyObject* entry_of(PyObject*, PyObject* const* values, Py_ssize_t count, PyObject* names) {
  return (Call(which, values, count, names).*run)();
}

// Whether no argument needs a conversion: all are plain float arrays of one dtype.
PyObject* are_plain(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!is_plain_float(arguments[i])) Py_RETURN_FALSE;
    // Two plain dtypes of one number are equal.
    if (type_number(arguments[i]) != type_number(arguments[0])) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
}

PyCFunction untyped(void (*function)()) { return reinterpret_cast<PyCFunction>(function); }

template <Entry which, PyObject* (Call::*run)()>
PyMethodDef entry(const char* doc) {
  return {name_of(which), untyped(reinterpret_cast<void (*)()>(&entry_of<which, run>)), METH_FASTCALL | METH_KEYWORDS,
          doc};
}

PyMethodDef entries[] = {
    entry<kAttention, &Call::attend>("The output, or (output, lse)."),
    entry<kWeights, &Call::attend>("The weights."),
    entry<kStatistics, &Call::summarize>("(key_sum, entropy, largest, place)."),
    entry<kTangent, &Call::move>("(output, lse or None, tangent of the output, that of the lse or None)."),
    entry<kTangentAlone, &Call::move_alone>("(tangent of the output, that of the lse), of an output that is given."),
    entry<kBackward, &Call::differentiate>("Writes the gradients of attention that are arrays."),
    entry<kMoving, &Call::differentiate_moving>("Writes how the gradients of attention move."),
    entry<kHard, &Call::choose>("(output, index, log_prob)."),
    entry<kHardBackward, &Call::differentiate_choices>("Writes the gradients of hard attention that are arrays."),
    {"attention_shape", untyped(reinterpret_cast<void (*)()>(&entry_of<kAttention, &Call::shape>)),
     METH_FASTCALL | METH_KEYWORDS, "The shape of the output of attention, which checks all and computes nothing."},
    {"are_plain", untyped(reinterpret_cast<void (*)()>(&are_plain)), METH_FASTCALL,
     "are_plain(*arrays): no array needs a conversion, and all are of one dtype"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void register_attention(py::module_& module) {
  if (!intern_keywords() || PyModule_AddFunctions(module.ptr(), entries) != 0) throw py::error_already_set();
}

}  // namespace foveate::python
