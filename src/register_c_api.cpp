// The C ABI for extension modules of others: a table of its functions in a capsule, so that no second copy of the
// kernels is ever linked.
#include "foveate/python.h"
#include "register.hpp"

namespace foveate::python {
namespace {

const fv_api api = {
    FV_API_MAJOR,
    FV_API_MINOR,
    sizeof(fv_problem),
    fv_output_shape,
    fv_attention,
    fv_attention_weights,
    fv_hard_attention,
    fv_multinoulli,
    fv_isa_selected,
    fv_isa_features,
    fv_set_num_threads,
    fv_requested_num_threads,
    fv_get_num_threads,
    fv_attention_backward,
    fv_hard_attention_backward,
    fv_set_threading,
    fv_get_threading,
    fv_attention_jvp,
    fv_attention_tangent,
    fv_attention_backward_jvp,
    fv_filtered_multinoulli,
    fv_quantize,
    fv_attention_statistics,
};

}  // namespace

void register_c_api(pybind11::module_& module) { module.attr("_C_API") = pybind11::capsule(&api, FV_API_CAPSULE); }

}  // namespace foveate::python
