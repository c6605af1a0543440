// Validation of tangents: how the operands of a problem move, and where the tangents of its answers go.
#pragma once
#include "validate_backward.hpp"
#include "validate_forward.hpp"

namespace foveate {

// V: the validator of a pass.
template <class V>
class TangentValidator : public V {
 public:
  using V::V;

  bool tangents(const fv_tangents& t) {
    const Problem& p = this->problem_;
    if (is_additive(p.family)) {
      return this->refuse(FV_VALUE_ERROR,
                          "family: got an additive score, which has no tangent, wanted FV_INNER or "
                          "FV_DISTANCE");
    }
    if (p.weighing != FV_SOFTMAX) {
      return this->refuse(FV_VALUE_ERROR, "weighing: got one that has no tangent, wanted FV_SOFTMAX");
    }
    const fv_array* const mask = this->given_.reach.mask;
    if (t.mask != nullptr && (mask == nullptr || mask->dtype == FV_BOOL)) {
      return this->refuse(FV_VALUE_ERROR, "t_mask: got an array without a float mask");
    }
    if (t.sink != nullptr && this->given_.sink == nullptr) {
      return this->refuse(FV_VALUE_ERROR, "t_sink: got an array without a sink");
    }
    return operand("t_query", t.query, p.queries, p.head_size, this->problem_.t_query) &&
           operand("t_key", t.key, p.keys, p.head_size, this->problem_.t_key) &&
           operand("t_value", t.value, p.keys, p.value_size, this->problem_.t_value) &&
           (t.mask == nullptr || cells(*t.mask)) && (t.sink == nullptr || of_sink(*t.sink));
  }

  // The tangents of the answers, to be written: t_out (..., Lq, Dv); t_lse (..., Lq), optional.
  bool moved(const fv_array* out, const fv_array* lse) {
    Problem& p = this->problem_;
    const int64_t core[2] = {p.queries, p.value_size};
    return this->view("t_out", out) && this->of_float("t_out", *out) &&
           this->place_output("t_out", *out, core, 2, p.t_out) &&
           (lse == nullptr || (this->view("t_lse", lse) && this->of_dtype("t_lse", *lse, this->accumulator()) &&
                               this->place_output("t_lse", *lse, core, 1, p.t_lse)));
  }

 private:
  bool joins(const char* name, const fv_array& array, int core_ndim) {
    return this->broadcasts(array, core_ndim) ||
           this->refuse(
               FV_VALUE_ERROR, "%s: got shape %s, wanted leading axes that broadcast to those of the output, %s", name,
               ShapeText(array).c_str(), ShapeText(this->problem_.lead_shape, this->problem_.lead_ndim).c_str());
  }

  // Optional: (..., rows, columns).
  bool operand(const char* name, const fv_array* array, int64_t rows, int64_t columns, Operand& to) {
    if (array == nullptr) return true;
    if (!this->view(name, array) || !this->of_operand(name, *array) || !this->goes_with_query(name, *array)) {
      return false;
    }
    const int n = array->ndim;
    if (n < 2 || array->shape[n - 2] != rows || array->shape[n - 1] != columns) {
      return this->refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted last axes of %lld and %lld", name,
                          ShapeText(*array).c_str(), printable(rows), printable(columns));
    }
    if (!joins(name, *array, 2)) return false;
    this->place(*array, 2, to);
    this->place_core(*array, n - 2, to);
    return true;
  }

  // What broadcasts to (..., Lq, Lk).
  bool cells(const fv_array& array) {
    Problem& p = this->problem_;
    if (!this->view("t_mask", &array) || !this->of_float("t_mask", array)) return false;
    const int64_t wanted[2] = {p.queries, p.keys};
    for (int axis = 0; axis < 2 && axis < array.ndim; ++axis) {
      const int64_t extent = array.shape[array.ndim - 1 - axis];
      if (extent != 1 && extent != wanted[1 - axis]) {
        return this->refuse(FV_VALUE_ERROR, "t_mask: got shape %s, wanted one that broadcasts to (..., %lld, %lld)",
                            ShapeText(array).c_str(), printable(p.queries), printable(p.keys));
      }
    }
    if (array.ndim > 2 && !joins("t_mask", array, 2)) return false;
    this->place_cells(array, p.t_mask);
    return true;
  }

  bool of_sink(const fv_array& array) {
    return this->per_lead("t_sink", array, FV_FLOAT64, this->problem_.t_sink) && joins("t_sink", array, 0);
  }
};

// Where the forward's output is given.
class AnsweredValidator : public TangentValidator<BackwardValidator> {
 public:
  using TangentValidator::TangentValidator;

  bool answer(const fv_array* out) {
    const int64_t core[2] = {problem_.queries, problem_.value_size};
    problem_.answered = true;
    return given_float("out", out, core, 2, problem_.out);
  }
};

// Of the second order.
class GradientTangentValidator : public TangentValidator<BackwardValidator> {
 public:
  using TangentValidator::TangentValidator;

  // How the answers move, as fv_attention_jvp gave it, and their gradients, each optional.
  bool moving(const fv_array* out, const fv_array* lse, const fv_array* d_out, const fv_array* d_lse) {
    const int64_t core[2] = {problem_.queries, problem_.value_size};
    return within_keys("t_key", problem_.t_key) && within_keys("t_value", problem_.t_value) &&
           given_float("t_out", out, core, 2, problem_.t_out) &&
           given_output("t_lse", lse, accumulator(), core, 1, problem_.t_lse) &&
           (d_out == nullptr || given_float("t_d_out", d_out, core, 2, problem_.t_d_out)) &&
           (d_lse == nullptr || given_output("t_d_lse", d_lse, accumulator(), core, 1, problem_.t_d_lse));
  }

  // Those that have a tangent.
  bool have_tangents(const fv_gradients& g) {
    const struct {
      const char* name;
      const fv_array* array;
    } all[] = {{"d_factors", g.factors}, {"d_centers", g.centers}, {"d_sigma", g.sigma}};
    for (const auto& one : all) {
      if (one.array != nullptr) {
        return refuse(FV_VALUE_ERROR, "%s: got an array, wanted none: its tangent is not computed", one.name);
      }
    }
    return true;
  }

 private:
  // Where key and value have one part for several, whose gradient is a sum, the tangent has one too.
  bool within_keys(const char* name, const Operand& x) {
    for (int axis = 0; axis < problem_.lead_ndim; ++axis) {
      if (x.moves(axis) && !problem_.key.moves(axis) && !problem_.value.moves(axis)) {
        return refuse(FV_VALUE_ERROR, "%s: got leading axes beyond those of key and value, wanted a length of 1 there",
                      name);
      }
    }
    return true;
  }
};

}  // namespace foveate
