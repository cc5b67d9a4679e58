// Moments of a whole from those of its parts (Chan, Golub and LeVeque 1979), in double.
#pragma once

#include "kernels/block.h"
#include "kernels/lanes.h"

namespace batchnorm {
namespace {

// How the weights of two parts enter their moments; the same for all channels.
struct Shares {
  double left;   // weight of the first part
  double right;  // share of the second part in the whole

  Shares(double first, double second) : left(first), right(second > 0.0 ? second / (first + second) : 0.0) {}
};

// The second part's mean is center + mean_part, so that a large mean common to both costs no digits.
inline void join(const Shares& shares, double* mean, double* squares, double center, double mean_part,
                 double squares_part) {
  const double other = center + mean_part;
  if (shares.left == 0.0) {
    // What is there has no weight; but it may be NaN, which stays.
    *mean = *mean * 0.0 + other;
    *squares = *squares + squares_part;
    return;
  }
  const double apart = (center - *mean) + mean_part;
  *squares += squares_part + apart * apart * shares.left * shares.right;
  // Infinite means have no difference: their sum is infinite, or NaN where the signs differ.
  *mean = is_finite(apart) ? *mean + apart * shares.right : *mean + other;
}

inline void merge(int64_t channels, Weight* weight, double* mean, double* squares, Weight other_weight,
                  const double* other_mean, const double* other_squares) {
  const Shares shares(weight->total, other_weight.total);
  for (int64_t c = 0; c < channels; ++c) {
    join(shares, mean + c, squares + c, 0.0, other_mean[c], other_squares[c]);
  }
  weight->total += other_weight.total;
  weight->squares += other_weight.squares;
}

}  // namespace
}  // namespace batchnorm
