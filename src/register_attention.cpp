// Attention, soft and hard, the weights, and the gradients: positional arguments -> fv_problem -> arrays.
//
// Every answer goes through these entries, so they are plain vectorcall functions: pybind11's dispatch over so many
// arguments costs more than all else here. They keep its promises: no argument is converted or copied silently,
// pointers are taken first, and the GIL is released in an inner scope.
#include "arrays.hpp"
#include "register.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace foveate::python {
namespace {

// Below this many score cells times head sizes, about 10 microseconds of one core, the GIL is kept: to win it back from
// a busy thread can take 5 milliseconds (sys.getswitchinterval).
constexpr double kSmallWork = 1 << 18;

constexpr int kNumpyAxes = 32;  // that every NumPy has; of more it may say itself that they are too many

int type_number(PyObject* array) { return py::detail::array_descriptor_proxy(fields(array)->descr)->type_num; }

// One call: the problem that its arguments state, and the memory that the views stand on.
class Call {
 public:
  Call() {}  // not the default one, which would clear the memory of all views, 24 KB

  PyObject* run_attention(PyObject* const* arguments, Py_ssize_t count) {
    if (!expect("attention", count, 17, 19)) return nullptr;
    PyObject* const* at = arguments;
    const bool parsed = required("query", *at++, &query_, &problem_.query) &&
                        required("key", *at++, &key_, &problem_.key) &&
                        required("value", *at++, &value_, &problem_.value) && parse_rest(at) && family(arguments[16]) &&
                        (count < 18 || centers(arguments[17])) && (count < 19 || dropout(arguments[18]));
    if (!parsed) return nullptr;
    Lse lse;
    return which_lse(arguments[14], &lse) ? run(arguments[13], lse, arguments[15], arguments[0]) : nullptr;
  }

  PyObject* run_weights(PyObject* const* arguments, Py_ssize_t count) {
    if (!expect("attention_weights", count, 15, 16)) return nullptr;
    PyObject* const* at = arguments;
    const bool parsed = required("query", *at++, &query_, &problem_.query) &&
                        required("key", *at++, &key_, &problem_.key) && parse_rest(at) && family(arguments[14]) &&
                        (count < 16 || centers(arguments[15]));
    return parsed ? run(arguments[12], Lse::none, arguments[13], arguments[0]) : nullptr;
  }

  PyObject* run_backward(PyObject* const* arguments, Py_ssize_t count) {
    if (!expect("attention_backward", count, 28, 28)) return nullptr;
    PyObject* const* at = arguments;
    View out, lse, d_out, d_lse;
    const fv_array* d_lse_or_null = nullptr;
    const bool parsed =
        required("query", *at++, &query_, &problem_.query) && required("key", *at++, &key_, &problem_.key) &&
        required("value", *at++, &value_, &problem_.value) && parse_rest(at) && view("output", arguments[13], &out) &&
        view("lse", arguments[14], &lse) && view("d_output", arguments[15], &d_out) &&
        optional("d_lse", arguments[16], &d_lse, &d_lse_or_null) && wanted(arguments + 17) &&
        optional("d_sink", arguments[21], &d_sink_, &gradients_.sink) && family(arguments[22]) &&
        optional("d_weights", arguments[23], &d_weights_, &gradients_.factors) && centers(arguments[24]) &&
        optional("d_centers", arguments[25], &d_centers_, &gradients_.centers) &&
        optional("d_sigma", arguments[26], &d_sigma_, &gradients_.sigma) && dropout(arguments[27]);
    if (!parsed) return nullptr;
    return nothing_or_error(released(out.ndim, out.shape, [&] {
      return fv_attention_backward(&problem_, &out, &lse, &d_out, d_lse_or_null, &gradients_, &error_);
    }));
  }

  PyObject* run_hard_backward(PyObject* const* arguments, Py_ssize_t count) {
    if (!expect("hard_attention_backward", count, 23, 23)) return nullptr;
    PyObject* const* at = arguments;
    View index, lse, d_out, advantage;
    const bool parsed =
        required("query", *at++, &query_, &problem_.query) && required("key", *at++, &key_, &problem_.key) &&
        required("value", *at++, &value_, &problem_.value) && parse_rest(at) && view("index", arguments[13], &index) &&
        view("lse", arguments[14], &lse) && view("d_output", arguments[15], &d_out) &&
        view("advantage", arguments[16], &advantage) && wanted(arguments + 17) && family(arguments[21]) &&
        optional("d_weights", arguments[22], &d_weights_, &gradients_.factors);
    if (!parsed) return nullptr;
    const int64_t draws = index.ndim > 0 ? index.shape[index.ndim - 1] : 0;
    return nothing_or_error(released(index.ndim, index.shape, [&] {
      return fv_hard_attention_backward(&problem_, draws, &index, &lse, &d_out, &advantage, &gradients_, &error_);
    }));
  }

  PyObject* run_hard(PyObject* const* arguments, Py_ssize_t count) {
    if (!expect("hard_attention", count, 17, 17)) return nullptr;
    PyObject* const* at = arguments;
    int64_t draws;
    fv_random random = {};
    const bool parsed = required("query", *at++, &query_, &problem_.query) &&
                        required("key", *at++, &key_, &problem_.key) &&
                        required("value", *at++, &value_, &problem_.value) && parse_rest(at) && family(arguments[16]) &&
                        integer("size", arguments[13], &draws);
    if (!parsed) return nullptr;
    const bool sample = arguments[14] != Py_None;
    unsigned long long words[2] = {};
    if (sample && !PyArg_ParseTuple(arguments[14], "KK", &words[0], &words[1])) return nullptr;
    for (int i = 0; i < 2; ++i) random.key[i] = words[i];
    return choose(sample ? FV_SAMPLE : FV_ARGMAX, random, draws, arguments[15]);
  }

 private:
  // ---- arguments

  enum class Lse { none, accumulated, parts };  // parts: three numbers of float64, whatever the query

  // False, True, or "parts".
  static bool which_lse(PyObject* object, Lse* result) {
    const bool parts = PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, "parts") == 0;
    const int wanted = parts ? 1 : PyObject_IsTrue(object);
    *result = parts ? Lse::parts : wanted > 0 ? Lse::accumulated : Lse::none;
    return wanted >= 0;
  }

  static bool expect(const char* name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most) {
    if (least <= count && count <= most) return true;
    PyErr_Format(PyExc_TypeError, "%s: got %zd arguments, wanted %zd to %zd", name, count, least, most);
    return false;
  }

  // scale, softcap, mask, left, right, offset, key_lengths, query_segments, key_segments, sink
  bool parse_rest(PyObject* const* at) {
    fv_reach& reach = problem_.reach;
    if (PyUnicode_Check(at[5])) {
      reach.offset_at_end = 1;
    } else if (!integers("offset", at[5], &offset_, &reach.offset)) {
      return false;
    }
    return scale(at[0]) && number("softcap", at[1], 0.0, &problem_.score.softcap) &&
           optional("mask", at[2], &mask_, &reach.mask) && side("window", at[3], &reach.left) &&
           side("window", at[4], &reach.right) && integers("key_lengths", at[6], &key_lengths_, &reach.key_lengths) &&
           optional("query_segments", at[7], &query_segments_, &reach.query_segments) &&
           optional("key_segments", at[8], &key_segments_, &reach.key_segments) && sink(at[9]);
  }

  // Where the gradients of query, key, value and mask go.
  bool wanted(PyObject* const* at) {
    return optional("d_query", at[0], &d_query_, &gradients_.query) &&
           optional("d_key", at[1], &d_key_, &gradients_.key) &&
           optional("d_value", at[2], &d_value_, &gradients_.value) &&
           optional("d_mask", at[3], &d_mask_, &gradients_.mask);
  }

  // None, or (rate, (low, high)), the key of its random numbers in two words.
  bool dropout(PyObject* object) {
    if (object == Py_None) return true;
    unsigned long long words[2] = {};
    if (!PyTuple_Check(object)) {
      PyErr_Format(PyExc_TypeError, "dropout: got %s, wanted None or (rate, (low, high))", Py_TYPE(object)->tp_name);
      return false;
    }
    if (!PyArg_ParseTuple(object, "d(KK)", &problem_.dropout, &words[0], &words[1])) return false;
    for (int i = 0; i < 2; ++i) problem_.random.key[i] = words[i];
    return true;
  }

  // None for the inner product, or (kind, weights, negligible, leave_one_out).
  bool family(PyObject* object) {
    if (object == Py_None) return true;
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 4) {
      PyErr_Format(PyExc_TypeError, "family: got %s, wanted None or (kind, weights, negligible, leave_one_out)",
                   Py_TYPE(object)->tp_name);
      return false;
    }
    const int alone = PyObject_IsTrue(PyTuple_GET_ITEM(object, 3));
    problem_.reach.leave_one_out = alone;
    return alone >= 0 && kind(PyTuple_GET_ITEM(object, 0)) &&
           optional("weights", PyTuple_GET_ITEM(object, 1), &weights_, &problem_.score.factors) &&
           number("negligible", PyTuple_GET_ITEM(object, 2), 0.0, &problem_.score.negligible);
  }

  // None, or (centers, half_width, sigma); a sigma of None is none.
  bool centers(PyObject* object) {
    if (object == Py_None) return true;
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 3) {
      PyErr_Format(PyExc_TypeError, "centers: got %s, wanted None or (centers, half_width, sigma)",
                   Py_TYPE(object)->tp_name);
      return false;
    }
    return required("centers", PyTuple_GET_ITEM(object, 0), &centers_, &problem_.reach.centers) &&
           number("half_width", PyTuple_GET_ITEM(object, 1), 0.0, &problem_.reach.half_width) &&
           number("sigma", PyTuple_GET_ITEM(object, 2), 0.0, &problem_.sigma);
  }

  bool kind(PyObject* object) {
    static constexpr struct {
      const char* name;
      fv_family family;
      fv_weighing weighing;
    } kinds[] = {{"dot", FV_INNER, FV_SOFTMAX},
                 {"tanh", FV_TANH, FV_SOFTMAX},
                 {"relu", FV_RELU, FV_SOFTMAX},
                 {"gaussian", FV_DISTANCE, FV_SOFTMAX},
                 {"boxcar", FV_DISTANCE, FV_BOXCAR},
                 {"epanechnikov", FV_DISTANCE, FV_EPANECHNIKOV},
                 {"triangular", FV_DISTANCE, FV_TRIANGULAR}};
    for (const auto& kind : kinds) {
      if (!PyUnicode_Check(object) || PyUnicode_CompareWithASCIIString(object, kind.name) != 0) continue;
      problem_.score.family = kind.family;
      problem_.score.weighing = kind.weighing;
      return true;
    }
    PyErr_Format(PyExc_ValueError, "kind: got %R, wanted the name of a kernel", object);
    return false;
  }

  bool required(const char* name, PyObject* object, View* array, const fv_array** slot) {
    *slot = array;
    return view(name, object, array);
  }

  bool optional(const char* name, PyObject* object, View* array, const fv_array** slot) {
    return object == Py_None || required(name, object, array, slot);
  }

  static bool number(const char* name, PyObject* object, double otherwise, double* result) {
    *result = object == Py_None ? otherwise : PyFloat_AsDouble(object);
    if (*result != -1.0 || PyErr_Occurred() == nullptr) return true;
    PyErr_Format(PyExc_TypeError, "%s: got %s, wanted a number", name, Py_TYPE(object)->tp_name);
    return false;
  }

  // None stands for 1 / sqrt(D); the scores of empty rows are 0 whatever the scale.
  bool scale(PyObject* object) {
    const int64_t head_size = query_.ndim > 0 ? query_.shape[query_.ndim - 1] : 0;
    return number("scale", object, head_size > 0 ? 1.0 / std::sqrt(static_cast<double>(head_size)) : 1.0,
                  &problem_.score.scale);
  }

  // One side of a window; None and what is too large for 64 bits are unbounded.
  static bool side(const char* name, PyObject* object, int64_t* result) {
    *result = -1;
    return object == Py_None || integer(name, object, result);
  }

  // Saturates: beyond 64 bits is beyond every bound that is asked of it.
  static bool integer(const char* name, PyObject* object, int64_t* result) {
    int overflow = 0;
    *result = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow != 0) *result = overflow > 0 ? INT64_MAX : INT64_MIN;
    if (*result != -1 || PyErr_Occurred() == nullptr) return true;
    PyErr_Format(PyExc_TypeError, "%s: got %s, wanted an integer", name, Py_TYPE(object)->tp_name);
    return false;
  }

  // None, an int, or an int64 array.
  bool integers(const char* name, PyObject* object, View* array, const fv_array** slot) {
    if (object == Py_None) return true;
    if (!PyLong_Check(object)) return required(name, object, array, slot);
    int64_t& place = slot == &problem_.reach.offset ? offset_number_ : key_lengths_number_;
    array->take(&place, FV_INT64, 0, nullptr, nullptr);
    *slot = array;
    return integer(name, object, &place);
  }

  // None, a float, or a float64 array.
  bool sink(PyObject* object) {
    if (!PyFloat_Check(object)) return optional("sink", object, &sink_, &problem_.sink);
    sink_number_ = PyFloat_AS_DOUBLE(object);
    sink_.take(&sink_number_, FV_FLOAT64, 0, nullptr, nullptr);
    problem_.sink = &sink_;
    return true;
  }

  // ---- outputs

  PyObject* run(PyObject* given_out, Lse with_lse, PyObject* descriptor, PyObject* query) {
    int64_t shape[FV_MAX_DIMS];
    int32_t ndim = 0;
    if (const fv_status status = fv_output_shape(&problem_, &ndim, shape, &error_); status != FV_OK) {
      return failed(status);
    }
    if (descriptor == Py_None) descriptor = fields(query)->descr;
    const bool given = given_out != Py_None;
    View out_view, lse_view;
    if (given && !usable_out(given_out, descriptor, ndim, shape, &out_view)) return nullptr;

    // An `out` that overlaps an operand, or that the kernels cannot write, has its answer by way of a new array.
    const bool direct = given && is_aligned(given_out) && !overlaps_operand(out_view);
    const py::object out = direct ? py::reinterpret_borrow<py::object>(given_out)
                                  : made("query, key, value", new_array(descriptor, ndim, shape), ndim, shape);
    if (!out || !view("out", out.ptr(), &out_view)) return nullptr;
    py::object lse;
    if (with_lse != Lse::none) {
      const bool parts = with_lse == Lse::parts;
      const fv_dtype dtype = query_.dtype == FV_FLOAT64 || parts ? FV_FLOAT64 : FV_FLOAT32;
      int64_t lse_shape[FV_MAX_DIMS];
      std::copy_n(shape, ndim - 1, lse_shape);
      lse_shape[ndim - 1] = 3;
      lse = py::reinterpret_steal<py::object>(new_array(dtype, parts ? ndim : ndim - 1, lse_shape));
      if (!lse || !view("lse", lse.ptr(), &lse_view)) return nullptr;
    }

    if (const fv_status status = compute(out_view, with_lse != Lse::none ? &lse_view : nullptr, ndim, shape);
        status != FV_OK) {
      return failed(status);
    }
    const bool copy = given && !direct;
    if (copy && py::detail::npy_api::get().PyArray_CopyInto_(given_out, out.ptr()) != 0) return nullptr;
    PyObject* const answer = copy ? given_out : out.ptr();
    return with_lse != Lse::none ? PyTuple_Pack(2, answer, lse.ptr()) : Py_NewRef(answer);
  }

  // (output, index, log_prob), with an axis of draws before the last one of the output, and at the end of the others.
  PyObject* choose(fv_selection selection, const fv_random& random, int64_t draws, PyObject* descriptor) {
    int64_t shape[FV_MAX_DIMS + 1];
    int32_t ndim = 0;
    if (const fv_status status = fv_output_shape(&problem_, &ndim, shape, &error_); status != FV_OK) {
      return failed(status);
    }
    if (draws < 0) {
      PyErr_Format(PyExc_ValueError, "size: got %lld, wanted a number >= 0", static_cast<long long>(draws));
      return nullptr;
    }
    shape[ndim] = shape[ndim - 1];
    shape[ndim - 1] = draws;
    const fv_dtype logarithm = query_.dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32;
    const py::object out = made("size", new_array(descriptor, ndim + 1, shape), ndim + 1, shape);
    if (!out) return nullptr;
    const py::object index = made("size", new_array(FV_INT64, ndim, shape), ndim, shape);
    if (!index) return nullptr;
    const py::object log_prob = made("size", new_array(logarithm, ndim, shape), ndim, shape);
    View out_view, index_view, log_prob_view;
    if (!log_prob || !view("out", out.ptr(), &out_view) || !view("index", index.ptr(), &index_view) ||
        !view("log_prob", log_prob.ptr(), &log_prob_view)) {
      return nullptr;
    }
    const fv_status status = released(ndim, shape, [&] {
      return fv_hard_attention(&problem_, selection, &random, draws, &out_view, &index_view, &log_prob_view, &error_);
    });
    return status == FV_OK ? PyTuple_Pack(3, out.ptr(), index.ptr(), log_prob.ptr()) : failed(status);
  }

  fv_status compute(const fv_array& out, const fv_array* lse, int ndim, const int64_t* shape) {
    return released(ndim, shape, [&] {
      return problem_.value == nullptr ? fv_attention_weights(&problem_, &out, &error_)
                                       : fv_attention(&problem_, &out, lse, &error_);
    });
  }

  // Calls without the GIL where there is work enough. shape: of the output, of which the first ndim - 1 axes count
  // rows.
  template <typename Function>
  fv_status released(int ndim, const int64_t* shape, Function&& call) const {
    const auto extent = [](const View& array, int from_end) {  // 0 of what is about to be refused
      return array.ndim < from_end ? 0.0 : static_cast<double>(array.shape[array.ndim - from_end]);
    };
    double work = extent(key_, 2);
    for (int axis = 0; axis < ndim - 1; ++axis) work *= static_cast<double>(shape[axis]);
    work *= extent(query_, 1) + (problem_.value != nullptr ? extent(value_, 1) : 0);
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
        PyErr_SetString(PyExc_ValueError, "out: got a broadcast array (a stride of 0), wanted one address an element");
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
    const fv_reach& reach = problem_.reach;
    for (const fv_array* operand :
         {problem_.query, problem_.key, problem_.value, problem_.sink, problem_.score.factors, reach.mask, reach.offset,
          reach.key_lengths, reach.query_segments, reach.key_segments, reach.centers}) {
      if (operand != nullptr && may_overlap(out, *operand)) return true;
    }
    return false;
  }

  PyObject* nothing_or_error(fv_status status) const { return status == FV_OK ? Py_NewRef(Py_None) : failed(status); }

  PyObject* failed(fv_status status) const {
    set_exception(status, error_);
    return nullptr;
  }

  fv_problem problem_ = {};
  View query_, key_, value_, weights_, sink_, mask_, offset_, key_lengths_, query_segments_, key_segments_, centers_;
  fv_gradients gradients_ = {};
  View d_query_, d_key_, d_value_, d_mask_, d_sink_, d_weights_, d_centers_, d_sigma_;
  int64_t offset_number_, key_lengths_number_;
  double sink_number_;
  fv_error error_;
};

PyObject* attention(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return Call().run_attention(arguments, count);
}

PyObject* attention_backward(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return Call().run_backward(arguments, count);
}

PyObject* hard_attention_backward(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return Call().run_hard_backward(arguments, count);
}

PyObject* attention_weights(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return Call().run_weights(arguments, count);
}

PyObject* hard_attention(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  return Call().run_hard(arguments, count);
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

template <typename Function>
PyMethodDef entry(const char* name, Function* function, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, doc};
}

PyMethodDef entries[] = {
    entry("attention", attention,
          "attention(query, key, value, scale, softcap, mask, left, right, offset, key_lengths, query_segments, "
          "key_segments, sink, out, return_lse, dtype, family, centers=None, dropout=None, /)"),
    entry(
        "attention_backward", attention_backward,
        "attention_backward(query, key, value, scale, softcap, mask, left, right, offset, key_lengths, "
        "query_segments, key_segments, sink, output, lse, d_output, d_lse, d_query, d_key, d_value, d_mask, d_sink, "
        "family, d_weights, centers, d_centers, d_sigma, dropout, /): writes the gradients that are arrays, not None"),
    entry("hard_attention_backward", hard_attention_backward,
          "hard_attention_backward(query, key, value, scale, softcap, mask, left, right, offset, key_lengths, "
          "query_segments, key_segments, sink, index, lse, d_output, advantage, d_query, d_key, d_value, d_mask, "
          "family, d_weights, /): writes the gradients that are arrays, not None"),
    entry("attention_weights", attention_weights,
          "attention_weights(query, key, scale, softcap, mask, left, right, offset, key_lengths, query_segments, "
          "key_segments, sink, out, dtype, family, centers=None, /)"),
    entry("hard_attention", hard_attention,
          "hard_attention(query, key, value, scale, softcap, mask, left, right, offset, key_lengths, query_segments, "
          "key_segments, sink, size, random, dtype, family, /): random is a key of two words, or None for the argmax"),
    entry("are_plain", are_plain, "are_plain(*arrays): no array needs a conversion, and all are of one dtype"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void register_attention(py::module_& module) {
  if (PyModule_AddFunctions(module.ptr(), entries) != 0) throw py::error_already_set();
}

}  // namespace foveate::python
