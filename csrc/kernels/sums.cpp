// Sums of Gaussians, compiled once per ISA beside kernels.cpp, whose table points here.
#include "sums.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <int dims>
constexpr SumKernels sum_kernels = {lanes<double>, moments<dims>,       series<dims>,
                                    pairs<dims>,   pairs_of_rows<dims>, nearest<dims>};

}  // namespace

extern const SumKernels sums_of_gaussians[most_sum_dims];
constexpr SumKernels sums_of_gaussians[most_sum_dims] = {sum_kernels<1>, sum_kernels<2>, sum_kernels<3>,
                                                         sum_kernels<4>, sum_kernels<5>, sum_kernels<6>};

}  // namespace foveate::FOVEATE_ISA
