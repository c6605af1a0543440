// Stencils, compiled once per ISA beside kernels.cpp, whose table points here.
#include "neighborhood.hpp"

#include "untyped.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
constexpr StencilKernels stencil_kernels = {untyped<load_places<T>>, untyped<gather_places<T>>,
                                            untyped<place_scores<T>>, sum_steps<T>};

}  // namespace

extern const StencilKernels stencils_float32, stencils_float64;
constexpr StencilKernels stencils_float32 = stencil_kernels<float>;
constexpr StencilKernels stencils_float64 = stencil_kernels<double>;

}  // namespace foveate::FOVEATE_ISA
