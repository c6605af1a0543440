#include "arguments.hpp"

#include <atomic>
#include <cmath>
#include <iterator>
#include <memory>
#include <new>
#include <string>

namespace foveate::python {
namespace {

// ---- parsers: of a value that is not None

bool array(const char* name, PyObject* object, View* array, const fv_array** slot) {
  *slot = array;
  return view(name, object, array);
}

bool number(const char* name, PyObject* object, double* result) {
  *result = PyFloat_AsDouble(object);
  if (*result != -1.0 || PyErr_Occurred() == nullptr) return true;
  PyErr_Format(PyExc_TypeError, "%s: got %s, wanted a number", name, Py_TYPE(object)->tp_name);
  return false;
}

// Saturates: beyond 64 bits is beyond every bound that is asked of it.
bool integer(const char* name, PyObject* object, int64_t* result) {
  int overflow = 0;
  *result = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (overflow != 0) *result = overflow > 0 ? INT64_MAX : INT64_MIN;
  if (*result != -1 || PyErr_Occurred() == nullptr) return true;
  PyErr_Format(PyExc_TypeError, "%s: got %s, wanted an integer", name, Py_TYPE(object)->tp_name);
  return false;
}

// A numpy.dtype; the name or the type of one is refused.
bool descriptor(const char* name, PyObject* object, PyObject** result) {
  *result = object;
  if (py::isinstance<py::dtype>(object)) return true;
  PyErr_Format(PyExc_TypeError, "%s: got %R, wanted a numpy.dtype", name, object);
  return false;
}

// An int, or an int64 array.
bool integers(const char* name, PyObject* object, View* array, int64_t* number, const fv_array** slot) {
  *slot = array;
  if (!PyLong_Check(object)) return view(name, object, array);
  array->take(number, FV_INT64, 0, nullptr, nullptr);
  return integer(name, object, number);
}

// The place of a string among names.
template <typename Choice, size_t count>
bool choice(const char* name, PyObject* object, const char* const (&names)[count], Choice* result) {
  for (size_t i = 0; PyUnicode_Check(object) && i < count; ++i) {
    if (PyUnicode_CompareWithASCIIString(object, names[i]) != 0) continue;
    *result = static_cast<Choice>(i);
    return true;
  }
  PyErr_Format(PyExc_ValueError, "%s: got %R, wanted %s ... or %s", name, object, names[0], names[count - 1]);
  return false;
}

bool words(const char* name, PyObject* object, const char* wanted, double* rate, fv_random* random) {
  unsigned long long low = 0, high = 0;
  const bool parsed = PyTuple_Check(object) && (rate != nullptr ? PyArg_ParseTuple(object, "d(KK)", rate, &low, &high)
                                                                : PyArg_ParseTuple(object, "KK", &low, &high));
  random->key[0] = low;
  random->key[1] = high;
  if (!parsed && PyErr_Occurred() == nullptr) {
    PyErr_Format(PyExc_TypeError, "%s: got %s, wanted %s", name, Py_TYPE(object)->tp_name, wanted);
  }
  return parsed;
}

// (name, parameter); the name lives as long as the object.
bool link(const char* name, PyObject* object, fv_score* score) {
  if (PyTuple_Check(object) && PyArg_ParseTuple(object, "sd", &score->link, &score->link_parameter)) return true;
  if (PyErr_Occurred() == nullptr) {
    PyErr_Format(PyExc_TypeError, "%s: got %s, wanted (name, parameter)", name, Py_TYPE(object)->tp_name);
  }
  return false;
}

// Rows: an array; or of few bits the tuple (stored, dtype, columns, scale, block), the scale as foveate.h has it, where
// what is stored is int8 or uint8, and a block of 0 says that a row has one scale.
bool rows(const char* name, PyObject* object, View* stored, const fv_array** slot, View* scales,
          const fv_array** scale_slot, int64_t* block) {
  if (!PyTuple_Check(object)) return array(name, object, stored, slot);
  PyObject *data = nullptr, *dtype = nullptr, *scale = nullptr;
  long long columns = 0, of_block = 0;
  fv_dtype few_bits;
  if (!PyArg_ParseTuple(object, "OOLOL", &data, &dtype, &columns, &scale, &of_block) ||
      !few_bits_of_name(name, dtype, &few_bits) || !array(name, scale, scales, scale_slot))
    return false;
  *slot = stored;
  *block = of_block;
  return view_few_bits(name, data, few_bits, columns, stored);
}

bool return_lse(PyObject* object, Lse* result) {
  const bool parts = PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, "parts") == 0;
  const int wanted = parts ? 1 : PyObject_IsTrue(object);
  *result = parts ? Lse::parts : wanted > 0 ? Lse::accumulated : Lse::none;
  return wanted >= 0;
}

// ---- the table

struct Keyword {
  const char* name;
  uint32_t taken_by;     // entries
  uint32_t required_by;  // likewise
  bool (*parse)(Arguments&, const char* name, PyObject*);
};

constexpr uint32_t kSoft = kAttention | kWeights, kHardly = kHard | kHardBackward, kSoftGradients = kBackward | kMoving,
                   kGradients = kSoftGradients | kHardBackward, kTangents = kTangent | kTangentAlone,
                   kMoves = kTangents | kMoving;
constexpr uint32_t kAll = kSoft | kHardly | kBackward | kMoves | kStatistics;
constexpr uint32_t kOfValues = kAll & ~uint32_t{kWeights | kStatistics};

constexpr const char* kFamilies[] = {"inner", "tanh", "relu", "distance", "leaky_relu"};
constexpr const char* kSelections[] = {"argmax", "sample", "top", "distinct"};
constexpr const char* kWeighings[] = {"softmax", "boxcar", "epanechnikov", "triangular", "biweight",  "triweight",
                                      "tricube", "cosine", "sigmoid",      "relu",       "sparsemax", "entmax15"};

using A = Arguments;
using Name = const char*;
using Object = PyObject*;

constexpr Keyword keywords[] = {
    {"query", kAll, kAll,
     [](A& a, Name n, Object x) {
       if (!array(n, x, &a.query, &a.problem.query)) return false;
       a.query_dtype = fields(x)->descr;
       return true;
     }},
    {"key", kAll, kAll,
     [](A& a, Name n, Object x) {
       return rows(n, x, &a.key, &a.problem.key, &a.key_scale, &a.problem.key_scale, &a.problem.key_block);
     }},
    {"value", kAll, kOfValues,
     [](A& a, Name n, Object x) {
       return rows(n, x, &a.value, &a.problem.value, &a.value_scale, &a.problem.value_scale, &a.problem.value_block);
     }},
    {"key_table", kAll, 0, [](A& a, Name n, Object x) { return array(n, x, &a.key_table, &a.problem.key_table); }},
    {"value_table", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.value_table, &a.problem.value_table); }},

    {"scale", kAll, 0,
     [](A& a, Name n, Object x) {
       a.has_scale = true;
       return number(n, x, &a.problem.score.scale);
     }},
    {"family", kAll, 0, [](A& a, Name n, Object x) { return choice(n, x, kFamilies, &a.problem.score.family); }},
    {"moments", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.moments); }},
    {"one_order", kAll, 0, [](A& a, Name, Object x) { return (a.problem.one_order = PyObject_IsTrue(x)) >= 0; }},
    {"factors", kAll, 0, [](A& a, Name n, Object x) { return array(n, x, &a.factors, &a.problem.score.factors); }},
    {"negligible", kAll, 0, [](A& a, Name n, Object x) { return number(n, x, &a.problem.score.negligible); }},
    {"link", kAll, 0, [](A& a, Name n, Object x) { return link(n, x, &a.problem.score); }},
    {"slope", kAll, 0, [](A& a, Name n, Object x) { return number(n, x, &a.problem.score.slope); }},
    {"weighing", kAll, 0, [](A& a, Name n, Object x) { return choice(n, x, kWeighings, &a.problem.score.weighing); }},
    {"softcap", kAll, 0, [](A& a, Name n, Object x) { return number(n, x, &a.problem.score.softcap); }},

    {"reach", kAll, 0, [](A& a, Name, Object x) { return a.spread(x); }},
    {"mask", kAll, 0, [](A& a, Name n, Object x) { return array(n, x, &a.mask, &a.problem.reach.mask); }},
    {"left", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.reach.left); }},
    {"right", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.reach.right); }},
    {"offset", kAll, 0,
     [](A& a, Name n, Object x) {
       if (!PyUnicode_Check(x)) return integers(n, x, &a.offset, &a.offset_number, &a.problem.reach.offset);
       a.problem.reach.offset_at_end = 1;  // "end"
       return true;
     }},
    {"key_lengths", kAll, 0,
     [](A& a, Name n, Object x) {
       return integers(n, x, &a.key_lengths, &a.key_lengths_number, &a.problem.reach.key_lengths);
     }},
    {"query_segments", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.query_segments, &a.problem.reach.query_segments); }},
    {"key_segments", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.key_segments, &a.problem.reach.key_segments); }},
    {"low", kAll, 0, [](A& a, Name n, Object x) { return array(n, x, &a.low, &a.problem.reach.low); }},
    {"high", kAll, 0, [](A& a, Name n, Object x) { return array(n, x, &a.high, &a.problem.reach.high); }},
    {"centers", kAll, 0, [](A& a, Name n, Object x) { return array(n, x, &a.centers, &a.problem.reach.centers); }},
    {"half_width", kAll, 0, [](A& a, Name n, Object x) { return number(n, x, &a.problem.reach.half_width); }},
    {"leave_one_out", kAll, 0,
     [](A& a, Name, Object x) { return (a.problem.reach.leave_one_out = PyObject_IsTrue(x)) >= 0; }},
    {"intervals", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.reach.intervals); }},
    {"blocks", kAll, 0, [](A& a, Name n, Object x) { return array(n, x, &a.blocks, &a.problem.reach.blocks); }},
    {"block_queries", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.reach.block_queries); }},
    {"block_keys", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.reach.block_keys); }},
    {"neighborhood", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.neighborhood, &a.problem.reach.neighborhood); }},
    {"edge_begins", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.edge_begins, &a.problem.reach.edge_begins); }},
    {"edge_keys", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.edge_keys, &a.problem.reach.edge_keys); }},
    {"edge_bias", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.edge_bias, &a.problem.reach.edge_bias); }},
    {"table", kAll, 0, [](A& a, Name n, Object x) { return array(n, x, &a.table, &a.problem.reach.table); }},
    {"query_places", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.query_places, &a.problem.reach.query_places); }},
    {"key_places", kAll, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.key_places, &a.problem.reach.key_places); }},
    {"undo", kAll, 0, [](A&, Name, Object) { return true; }},  // of Python's own

    {"sink", kAll, 0,
     [](A& a, Name n, Object x) {
       if (!PyFloat_Check(x)) return array(n, x, &a.sink, &a.problem.sink);
       a.sink_number = PyFloat_AS_DOUBLE(x);
       a.sink.take(&a.sink_number, FV_FLOAT64, 0, nullptr, nullptr);
       a.problem.sink = &a.sink;
       return true;
     }},
    {"sigma", kAll, 0, [](A& a, Name n, Object x) { return number(n, x, &a.problem.sigma); }},
    {"dropout", kAttention | kBackward | kMoves, 0,
     [](A& a, Name n, Object x) {
       return words(n, x, "None or (rate, (low, high))", &a.problem.dropout, &a.problem.random);
     }},

    {"first_row", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.first_row); }},
    {"first_lead", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.first_lead); }},
    {"first_key", kAll, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.problem.first_key); }},
    {"after", kHard, 0, [](A& a, Name n, Object x) { return array(n, x, &a.after, &a.problem.after); }},
    {"before", kHard, 0, [](A& a, Name n, Object x) { return array(n, x, &a.before, &a.problem.before); }},
    {"gives_scores", kHard, 0,
     [](A& a, Name n, Object x) {
       int64_t given = 0;
       const bool is_number = integer(n, x, &given);
       a.problem.gives_scores = given != 0;
       return is_number;
     }},
    {"out", kSoft, 0, [](A& a, Name, Object x) { return a.out = x, true; }},
    {"return_lse", kAttention | kTangent, 0, [](A& a, Name, Object x) { return return_lse(x, &a.return_lse); }},
    {"dtype", kSoft | kHard | kTangents, 0, [](A& a, Name n, Object x) { return descriptor(n, x, &a.dtype); }},
    {"rows", kSoft, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.rows); }},
    {"size", kHard, kHard, [](A& a, Name n, Object x) { return integer(n, x, &a.size); }},
    {"select", kHard, 0, [](A& a, Name n, Object x) { return choice(n, x, kSelections, &a.selection); }},
    {"random", kHard, 0, [](A& a, Name n, Object x) { return words(n, x, "None or (low, high)", nullptr, &a.random); }},

    {"first_query", kStatistics, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.first_query); }},
    {"end_query", kStatistics, 0, [](A& a, Name n, Object x) { return integer(n, x, &a.end_query); }},

    {"output", kSoftGradients | kTangentAlone, kSoftGradients | kTangentAlone,
     [](A& a, Name n, Object x) { return view(n, x, &a.output); }},
    {"index", kHardBackward, kHardBackward, [](A& a, Name n, Object x) { return view(n, x, &a.index); }},
    {"lse", kGradients, kGradients, [](A& a, Name n, Object x) { return view(n, x, &a.lse); }},
    {"d_output", kGradients, kGradients, [](A& a, Name n, Object x) { return view(n, x, &a.d_output); }},
    {"d_lse", kSoftGradients, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_lse, &a.d_lse_or_null); }},
    {"advantage", kHardBackward, kHardBackward, [](A& a, Name n, Object x) { return view(n, x, &a.advantage); }},

    {"d_query", kGradients, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_query, &a.gradients.query); }},
    {"d_key", kGradients, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_key, &a.gradients.key); }},
    {"d_value", kGradients, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_value, &a.gradients.value); }},
    {"d_mask", kGradients, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_mask, &a.gradients.mask); }},
    {"d_factors", kGradients, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.d_factors, &a.gradients.factors); }},
    {"d_sink", kSoftGradients, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_sink, &a.gradients.sink); }},
    {"d_centers", kBackward, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_centers, &a.gradients.centers); }},
    {"d_sigma", kBackward, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_sigma, &a.gradients.sigma); }},
    {"d_table", kGradients, 0, [](A& a, Name n, Object x) { return array(n, x, &a.d_table, &a.gradients.table); }},
    {"d_edge_bias", kGradients, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.d_edge_bias, &a.gradients.edge_bias); }},

    {"t_query", kMoves, 0, [](A& a, Name n, Object x) { return array(n, x, &a.t_query, &a.tangents.query); }},
    {"t_key", kMoves, 0, [](A& a, Name n, Object x) { return array(n, x, &a.t_key, &a.tangents.key); }},
    {"t_value", kMoves, 0, [](A& a, Name n, Object x) { return array(n, x, &a.t_value, &a.tangents.value); }},
    {"t_mask", kMoves, 0, [](A& a, Name n, Object x) { return array(n, x, &a.t_mask, &a.tangents.mask); }},
    {"t_sink", kMoves, 0, [](A& a, Name n, Object x) { return array(n, x, &a.t_sink, &a.tangents.sink); }},
    {"t_output", kMoving, kMoving, [](A& a, Name n, Object x) { return view(n, x, &a.t_output); }},
    {"t_lse", kMoving, kMoving, [](A& a, Name n, Object x) { return view(n, x, &a.t_lse); }},
    {"t_d_output", kMoving, 0,
     [](A& a, Name n, Object x) { return array(n, x, &a.t_d_output, &a.t_d_output_or_null); }},
    {"t_d_lse", kMoving, 0, [](A& a, Name n, Object x) { return array(n, x, &a.t_d_lse, &a.t_d_lse_or_null); }},
};

constexpr uint32_t kCount = std::size(keywords);
static_assert(kCount <= 128, "one bit of `seen_` each");

// The first keyword that an entry requires and that has no value; kCount: there is none.
uint32_t missing_of(Entry entry, const Keywords& seen) {
  static constexpr uint32_t operands = 3;  // which stand first, and are all that is required of most entries
  static_assert(keywords[operands - 1].required_by == kOfValues);
  const uint32_t end = (entry & (kSoft | kTangent)) != 0 ? operands : kCount;
  for (uint32_t i = 0; i < end; ++i) {
    if ((keywords[i].required_by & entry) != 0 && (seen.words[i / 64] >> i % 64 & 1) == 0) return i;
  }
  return kCount;
}

PyObject* interned[kCount];
PyObject* fields_name;  // of a named tuple

// Where a keyword stands in the table, looked for from some place on; kCount: nowhere.
uint32_t place_of(PyObject* name, uint32_t from) {
  for (uint32_t i = from; i < kCount; ++i) {
    if (interned[i] == name) return i;
  }
  for (uint32_t i = 0; i < from; ++i) {
    if (interned[i] == name) return i;
  }
  for (uint32_t i = 0; i < kCount; ++i) {  // a name that was made, and not written in a program
    if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, keywords[i].name) == 0) return i;
  }
  return kCount;
}

// Where the fields of a class of named tuples stand in the table.
struct Fields {
  PyObject* type;
  PyObject* unknown;  // a field that no entry takes; null: there is none
  Py_ssize_t count;
  uint8_t places[kCount];
};

// Those of the first classes that were asked for, which are kept. An entry never changes, and is read without a lock.
std::atomic<const Fields*> known[8];

// The fields of a tuple's class, which are known or are made in `fresh`; null where they have no names.
const Fields* fields_of(PyObject* tuple, Fields* fresh) {
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(tuple));
  const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
  auto* entry = std::begin(known);
  for (; entry != std::end(known); ++entry) {
    const Fields* const fields = entry->load(std::memory_order_acquire);
    if (fields == nullptr) break;
    if (fields->type == type) return fields->count == count ? fields : nullptr;
  }
  const py::object names = py::reinterpret_steal<py::object>(PyObject_GetAttr(type, fields_name));
  PyErr_Clear();
  if (!names || !PyTuple_Check(names.ptr()) || PyTuple_GET_SIZE(names.ptr()) != count) return nullptr;
  *fresh = {type, nullptr, count, {}};
  for (Py_ssize_t i = 0; i < count && fresh->unknown == nullptr; ++i) {
    PyObject* const name = PyTuple_GET_ITEM(names.ptr(), i);
    const uint32_t place = i < Py_ssize_t{kCount} ? place_of(name, 0) : kCount;
    if (place == kCount) fresh->unknown = name;  // which the class keeps
    if (place < kCount) fresh->places[i] = static_cast<uint8_t>(place);
  }
  if (entry == std::end(known)) return fresh;
  std::unique_ptr<const Fields> made(new (std::nothrow) Fields(*fresh));
  const Fields* nothing = nullptr;  // or another thread was here first, and this class is entered at its next call
  if (made && entry->compare_exchange_strong(nothing, made.get(), std::memory_order_release)) {
    Py_INCREF(type);
    static_cast<void>(made.release());
  }
  return fresh;
}

}  // namespace

bool intern_keywords() {
  for (uint32_t i = 0; i < kCount; ++i) {
    interned[i] = PyUnicode_InternFromString(keywords[i].name);
    if (interned[i] == nullptr) return false;
  }
  fields_name = PyUnicode_InternFromString("_fields");
  return fields_name != nullptr;
}

const char* name_of(Entry entry) {
  switch (entry) {
    case kAttention: return "attention";
    case kWeights: return "attention_weights";
    case kBackward: return "attention_backward";
    case kHard: return "hard_attention";
    case kHardBackward: return "hard_attention_backward";
    case kTangent: return "attention_jvp";
    case kMoving: return "attention_backward_jvp";
    case kTangentAlone: return "attention_tangent";
    case kStatistics: return "attention_statistics";
  }
  return "";
}

bool Arguments::parse(Entry entry, PyObject* const* values, Py_ssize_t positional, PyObject* names) {
  entry_ = entry;
  problem.reach.left = problem.reach.right = -1;
  for (Py_ssize_t i = 0; i < positional; ++i) {
    if (!spread(values[i])) return false;
  }
  if (names != nullptr && !take(values + positional, names)) return false;
  const uint32_t missing = missing_of(entry, seen_);
  if (missing < kCount) {
    PyErr_Format(PyExc_TypeError, "%s: got nothing, which %s wants", keywords[missing].name, name_of(entry));
    return false;
  }
  if (!has_scale) {  // the scores of empty rows are 0 whatever the scale
    const int64_t head_size = query.ndim > 0 ? query.shape[query.ndim - 1] : 0;
    problem.score.scale = head_size > 0 ? 1.0 / std::sqrt(static_cast<double>(head_size)) : 1.0;
  }
  return true;
}

bool Arguments::spread(PyObject* named_tuple) {
  Fields fresh;
  const Fields* const fields = PyTuple_Check(named_tuple) ? fields_of(named_tuple, &fresh) : nullptr;
  if (fields == nullptr) {
    PyErr_Format(PyExc_TypeError, "%s: got %s without a name, wanted keywords, or a named tuple of some",
                 name_of(entry_), Py_TYPE(named_tuple)->tp_name);
    return false;
  }
  if (fields->unknown != nullptr) return refuse(fields->unknown);
  for (Py_ssize_t i = 0; i < fields->count; ++i) {
    if (!set(fields->places[i], PyTuple_GET_ITEM(named_tuple, i))) return false;
  }
  return true;
}

bool Arguments::take(PyObject* const* values, PyObject* names) {
  const Py_ssize_t count = PyTuple_GET_SIZE(names);
  uint32_t next = 0;  // where a keyword stands in the table, if they come in its order
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* const name = PyTuple_GET_ITEM(names, i);
    const uint32_t place = place_of(name, next);
    if (place == kCount) return refuse(name);
    if (!set(place, values[i])) return false;
    next = place + 1;
  }
  return true;
}

bool Arguments::set(uint32_t place, PyObject* value) {
  if (value == Py_None) return true;
  const Keyword& keyword = keywords[place];
  if ((keyword.taken_by & entry_) == 0) return refuse(interned[place]);
  seen_.words[place / 64] |= uint64_t{1} << place % 64;
  return keyword.parse(*this, keyword.name, value);
}

bool Arguments::refuse(PyObject* name) const {
  std::string wanted;
  for (const Keyword& keyword : keywords) {
    if ((keyword.taken_by & entry_) == 0) continue;
    wanted += wanted.empty() ? "" : ", ";
    wanted += keyword.name;
  }
  PyErr_Format(PyExc_TypeError, "%S: got a keyword that %s does not take, wanted some of %s", name, name_of(entry_),
               wanted.c_str());
  return false;
}

}  // namespace foveate::python
