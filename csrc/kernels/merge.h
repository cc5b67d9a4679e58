// Moments of a whole from those of its parts (Chan, Golub and LeVeque 1979), in double.
#pragma once

#include "kernels/block.h"
#include "kernels/lanes.h"

namespace batchnorm {
namespace {

// Join to each channel's moments those of a second part, whose mean is center + mean, so that a large mean common to
// both costs no digits. What has no weight yet may be NaN, which stays. Infinite means have no difference: their sum
// is infinite, or NaN where the signs differ.
template <class Center>
inline void join(int64_t channels, double weight, double* mean, double* squares, double other_weight, Center center,
                 const double* other_mean, const double* other_squares) {
  if (weight == 0.0) {
    for (int64_t c = 0; c < channels; ++c) {
      mean[c] = mean[c] * 0.0 + (center(c) + other_mean[c]);
      squares[c] += other_squares[c];
    }
    return;
  }
  const double share = other_weight / (weight + other_weight), spread = weight * share;
  for (int64_t c = 0; c < channels; ++c) {
    const double apart = (center(c) - mean[c]) + other_mean[c], sum = mean[c] + (center(c) + other_mean[c]);
    squares[c] += other_squares[c] + apart * apart * spread;
    const double moved = mean[c] + apart * share;
    mean[c] = apart - apart == 0.0 ? moved : sum;
  }
}

inline void merge(int64_t channels, Weight* weight, double* mean, double* squares, Weight other_weight,
                  const double* other_mean, const double* other_squares) {
  join(channels, weight->total, mean, squares, other_weight.total, [](int64_t) { return 0.0; }, other_mean,
       other_squares);
  weight->total += other_weight.total;
  weight->squares += other_weight.squares;
}

}  // namespace
}  // namespace batchnorm
