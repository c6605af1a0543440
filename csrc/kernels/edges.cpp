// Rows along the edges of a graph, compiled once per ISA beside kernels.cpp, whose table points here.
#include "edges.hpp"
#include "untyped.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Scores take the slope of a leaky relu as the accumulator's type.
template <class T, class Term>
void scores(const T* row, const EdgeRows& others, int64_t count, int64_t columns, const T* factors, double slope,
            T* s) {
  edge_scores<T, Term>(row, others, count, columns, factors, T(slope), s);
}
template <class T>
void leaky_scores(const T* row, const EdgeRows& others, int64_t count, int64_t columns, const T* factors, double slope,
                  T* s) {
  const auto run =
      slope > 1 ? edge_scores<T, EdgeAdditive<LeakyRelu<true>>> : edge_scores<T, EdgeAdditive<LeakyRelu<false>>>;
  run(row, others, count, columns, factors, T(slope), s);
}

template <class T>
constexpr EdgeKernels edge_kernels = {{untyped<scores<T, EdgeInner>>, nullptr},
                                      {untyped<scores<T, EdgeAdditive<Tanh>>>, untyped<edge_gradients<T, TanhSlope>>},
                                      {untyped<scores<T, EdgeAdditive<Relu>>>, untyped<edge_gradients<T, ReluSlope>>},
                                      {untyped<leaky_scores<T>>, untyped<edge_gradients<T, LeakyReluSlope>>},
                                      {untyped<scores<T, EdgeDistance>>, untyped<edge_gradients<T, DistanceSlope>>},
                                      untyped<edge_sum<T>>};

}  // namespace

extern const EdgeKernels edges_float32, edges_float64;
constexpr EdgeKernels edges_float32 = edge_kernels<float>;
constexpr EdgeKernels edges_float64 = edge_kernels<double>;

}  // namespace foveate::FOVEATE_ISA
