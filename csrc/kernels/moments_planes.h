// Mean and squared deviations of planes; centers move as in ColumnMoments.
#pragma once

#include "kernels/moments_columns.h"
#include "kernels/planes.h"

namespace batchnorm {
namespace {

// Of one channel, or of a few that share weights: then a piece of each comes in turn, while the piece's weights are in
// the first cache and their sum is known.
template <class Element, bool weighted>
class PlaneMoments {
  typedef Stat<Element> T;
  static constexpr int64_t kFirstPiece = 64;

 public:
  static constexpr int64_t kMost = weighted ? 8 : 1;

  // At most kMost channels.
  PlaneMoments(const Block& block, const Element* x, const T* weights, double* mean, double* squares)
      : b_(block), x_(x), weights_(weights), mean_(mean), squares_(squares) {}

  // Returns the weight.
  double run() {
    seed();
    each_piece(b_, [this](int64_t x, int64_t w, int64_t n) {
      for (int64_t i = 0; i < n;) {
        const int64_t some = smaller(smaller(n - i, limit_ - pending_), kAtOnce);
        add(x_ + x + i, w + i, some);
        i += some;
        pending_ += some;
        if (pending_ == limit_) flush();
      }
    });
    if (pending_ > 0) flush();
    return weight_;
  }

 private:
  // With as many elements the weights fit the first cache.
  static constexpr int64_t kAtOnce = weighted ? 4096 : kPiece;

  void seed() {
    const int64_t first = weighted ? Position<T>(b_, weights_).offset(b_) : 0;
    const int64_t n = weighted ? 1 : smaller(kFirstPiece, b_.inner);
    limit_ = weighted ? kFirstPiece : kPiece;
    for (int64_t c = 0; c < b_.channels; ++c) {
      double center = 0.0;
      for (int64_t i = 0; i < n; ++i) center += load<1>(x_ + first + c * b_.inner + i);
      set_center(c, center / double(n));
    }
  }

  void set_center(int64_t c, double center) { center_[c] = T(is_finite(center) ? center : 0.0); }

  void add(const Element* x, int64_t w, int64_t n) {
    // From a channel's piece to its next one.
    const int64_t next = n == b_.inner ? b_.row_stride : n;
    if constexpr (weighted) {
      count_ += sum_run(weights_ + w, n);
      for (int64_t c = 0; c < b_.channels; ++c, x += b_.inner) {
        const int64_t jump = c + 1 < b_.channels ? b_.inner : next - c * b_.inner;
        sums_[c].add(WeightedDeviation<Element, ColumnWeights>{x, 0, {weights_ + w}}, n, center_[c], jump);
      }
    } else {
      count_ += double(n);
      sums_[0].add(Deviation<Element>{x, 0}, n, center_[0], next);
    }
  }

  void flush() {
    const double share = count_ > 0.0 ? 1.0 / count_ : 0.0;
    for (int64_t c = 0; c < b_.channels; ++c) {
      const double sum = sums_[c].sum_first(), mean = sum * share, center = center_[c];
      const double rest = sums_[c].sum_second() - sum * mean, squares = rest < 0.0 ? 0.0 : rest;
      join(1, weight_, mean_ + c, squares_ + c, count_, [=](int64_t) { return center; }, &mean, &squares);
      sums_[c] = PlaneSums<T>();
      if (weight_ + count_ > 0.0) set_center(c, mean_[c]);
    }
    weight_ += count_;
    limit_ = smaller(limit_ * 8, kPiece);
    pending_ = 0;
    count_ = 0.0;
  }

  const Block b_;
  const Element* const x_;
  const T* const weights_;
  double* const mean_;
  double* const squares_;
  T center_[kMost];
  int64_t pending_ = 0, limit_ = 0;
  double count_ = 0.0, weight_ = 0.0;
  PlaneSums<T> sums_[kMost];
};

}  // namespace
}  // namespace batchnorm
