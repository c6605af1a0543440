// What the entries for attention take: keywords -> the fields of fv_problem and fv_gradients, and what goes with them.
//
// All entries share one table of keywords. A value of None is one that is not given; a keyword that is unknown, or that
// an entry does not take, and a missing operand are refused by name. A named tuple that stands before the keywords gives
// its fields as such: foveate's own Problem and Reach are these.
#pragma once
#include "arrays.hpp"

#include <cstdint>

namespace foveate::python {

enum Entry : uint32_t {
  kAttention = 1,
  kWeights = 2,
  kBackward = 4,
  kHard = 8,
  kHardBackward = 16,
  kTangent = 32,
  kMoving = 64,
  kTangentAlone = 128,
  kStatistics = 256
};

const char* name_of(Entry entry);

// A bit for each keyword of the table.
struct Keywords {
  uint64_t words[2];
};

// What comes out beside the output: nothing; the lse as it was accumulated; or three numbers of float64 a query, with
// the parts of it.
enum class Lse { none, accumulated, parts };

struct Arguments {
  Arguments() {}  // not the default one, which would clear the memory of all views, 30 KB
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // The arguments of a vectorcall: so many without a name, then the values of `names`, a tuple or null.
  bool parse(Entry entry, PyObject* const* values, Py_ssize_t positional, PyObject* names);

  fv_problem problem = {};
  View query, key, value, key_scale, value_scale, key_table, value_table, factors, sink, mask, offset, key_lengths,
      query_segments, key_segments, low, high, centers, blocks, neighborhood, edge_begins, edge_keys, edge_bias, table,
      query_places, key_places, before, after;

  PyObject* query_dtype;
  PyObject* dtype = nullptr;  // of the output; null: that of the query

  // Of attention and its weights. `rows`: how many queries there are of the only row of the query; -1: as many as rows.
  PyObject* out = Py_None;
  Lse return_lse = Lse::none;
  int64_t rows = -1;

  // Of statistics: the queries of the sums; an end of -1 is that of all.
  int64_t first_query = 0, end_query = -1;

  // Of hard attention.
  int64_t size = 0;
  fv_random random = {};
  fv_selection selection = FV_ARGMAX;

  // Of the gradients.
  fv_gradients gradients = {};
  View output, lse, index, advantage, d_output, d_lse;
  const fv_array* d_lse_or_null = nullptr;
  View d_query, d_key, d_value, d_mask, d_sink, d_factors, d_centers, d_sigma, d_table, d_edge_bias;

  // Of tangents.
  fv_tangents tangents = {};
  View t_query, t_key, t_value, t_mask, t_sink;
  View t_output, t_lse, t_d_output, t_d_lse;
  const fv_array *t_d_output_or_null = nullptr, *t_d_lse_or_null = nullptr;

  // Numbers that stand for arrays of no axis.
  int64_t offset_number, key_lengths_number;
  double sink_number;

  bool has_scale = false;

  // The fields of a named tuple, as keywords.
  bool spread(PyObject* named_tuple);

 private:
  bool take(PyObject* const* values, PyObject* names);
  bool set(uint32_t place, PyObject* value);
  bool refuse(PyObject* name) const;

  Entry entry_;
  Keywords seen_ = {};  // which keywords have a value
};

// Makes the names of the table Python's own, once, when the module is initialized.
bool intern_keywords();

}  // namespace foveate::python
