// Logarithms are to base 2 inside, so that weights are powers of 2; what comes in and goes out is natural.
#pragma once

namespace foveate {

constexpr double log2_e = 1.44269504088896340736;
constexpr double ln_2 = 0.69314718055994530942;

}  // namespace foveate
