// Mean and squared deviations of channels side by side.
//
// Sums are of x - center and its square, with a center near the mean: the mean so far, and at first a value of the
// channel itself. That value may be an outlier, at a distance D from the mean; but then D² is among the squared
// deviations, and few lines are summed with it, so that their rounding (lines * D² * 2^-24) stays small beside it.
// Were the center the mean of k values, it would be D / k away.
#pragma once

#include "kernels/columns.h"

namespace batchnorm {
namespace {

constexpr int64_t kFirstLines = 8;
constexpr int64_t kFewLines = 32;

// Where the first weight above zero is; the first position where there is none.
template <class T>
struct Position {
  int64_t segment = 0, row = 0, inner = 0;

  Position(const Block& b, const T* weights) {
    if (weights == nullptr) return;
    for (int64_t o = 0; o < b.segments; ++o) {
      for (int64_t k = 0; k < b.rows * b.inner; ++k) {
        if (weights[o * b.weight_stride + k] > T(0)) {
          segment = o, row = k / b.inner, inner = k % b.inner;
          return;
        }
      }
    }
  }
  int64_t offset(const Block& b) const { return segment * b.segment_stride + row * b.row_stride + inner; }
};

template <class Element>
class ColumnMoments {
  typedef Stat<Element> T;

 public:
  ColumnMoments(const Block& block, const Element* x, const T* weights, double* mean, double* squares)
      : b_(block), x_(x), weights_(weights), mean_(mean), squares_(squares) {
    order_ = weights == nullptr ? Order::kNone : weight_order<Element>(b_);
    rows_ = order_ == Order::kByRow || order_ == Order::kCycle ? 1 : rows_in_line<Element>(b_);
    std::memset(first_.values, 0, sizeof(T) * size_t(rows_ * b_.channels * b_.inner));
    std::memset(second_.values, 0, sizeof(T) * size_t(rows_ * b_.channels * b_.inner));
  }

  // Returns the weight.
  double run() {
    seed();
    each_run(b_, rows_, [this](int64_t offset, int64_t weights, int64_t lines, int64_t stride, int64_t rows) {
      for (int64_t line = 0; line < lines;) {
        if (moved_ && weight_ > 0.0) set_center(mean_);
        moved_ = false;
        const int64_t some = smaller(lines - line, limit_ - pending_);
        add(offset + line * stride, weights + line * rows * b_.inner, some, stride, rows);
        line += some;
        pending_ += some;
        if (pending_ == limit_) flush();
      }
    });
    if (pending_ > 0) flush();
    return weight_;
  }

 private:
  // The first center: the mean of the first line's values of a channel, or one value that has weight.
  void seed() {
    const int64_t values = rows_ * b_.inner;
    const bool several = weights_ == nullptr && values > 1;
    if (several) {
      for (int64_t j = 0; j < values * b_.channels; ++j) first_.values[j] = load<1>(x_ + j);
      collect(b_, rows_, first_.values, sums_.values);
    } else {
      const int64_t offset = Position<T>(b_, weights_).offset(b_);
      for (int64_t c = 0; c < b_.channels; ++c) sums_.values[c] = load<1>(x_ + offset + c * b_.inner);
    }
    const double share = several ? 1.0 / double(values) : 1.0;
    for (int64_t c = 0; c < b_.channels; ++c) sums_.values[c] *= share;
    set_center(sums_.values);
    const int64_t lines = b_.segments * ((b_.rows + rows_ - 1) / rows_);
    limit_ = several && values >= 16 ? kLongest : lines <= kFewLines ? kFewLines : kFirstLines;
  }

  void set_center(double* center) {
    for (int64_t c = 0; c < b_.channels; ++c) sums_.values[c] = center[c] - center[c] == 0.0 ? center[c] : 0.0;
    expand(b_, rows_, sums_.values, center_.values);
  }

  void add(int64_t offset, int64_t weights, int64_t lines, int64_t stride, int64_t rows) {
    const int64_t width = rows * b_.channels * b_.inner;
    const Element* x = x_ + offset;
    if (weights_ == nullptr) {
      count_ += double(lines * rows * b_.inner);
      each_group(lines, stride != width, [&](int64_t line, auto together) {
        add_lines<together.value>(Deviation<Element>{x + line * stride, stride}, width, center_.values,
                                  first_.values, second_.values);
      });
      return;
    }
    const T* w = weights_ + weights;
    count_ += sum_run(w, lines * rows * b_.inner);
    if (order_ == Order::kEach) {
      for (int64_t line = 0; line < lines; ++line) {
        expand_weights(b_, rows, w + line * rows * b_.inner, each_.values);
        add_weighted<1, ColumnWeights>(x + line * stride, stride, {each_.values}, width);
      }
      return;
    }
    each_group(lines, stride != width, [&](int64_t line, auto together) {
      constexpr int kRows = together.value;
      if (order_ == Order::kByRow) {
        add_weighted<kRows, RowWeights>(x + line * stride, stride, {w + line}, width);
      } else {
        typename CycleWeights<Element>::template Room<kRows> room;
        add_weighted<kRows, CycleWeights>(x + line * stride, stride, {&room, w + line * b_.inner, b_.inner}, width);
      }
    });
  }

  template <int kRows, template <class> class Weights>
  void add_weighted(const Element* x, int64_t stride, const Weights<Element>& weights, int64_t width) {
    add_lines<kRows>(WeightedDeviation<Element, Weights>{x, stride, weights}, width, center_.values, first_.values,
                     second_.values);
  }

  // Move the sums to the channels' moments, and the center to the mean so far.
  void flush() {
    collect(b_, rows_, first_.values, sums_.values);
    collect(b_, rows_, second_.values, more_sums_.values);
    const double share = count_ > 0.0 ? 1.0 / count_ : 0.0;
    double *mean = sums_.values, *squares = more_sums_.values;
    for (int64_t c = 0; c < b_.channels; ++c) {
      const double sum = mean[c], rest = squares[c] - sum * (sum * share);
      mean[c] = sum * share;
      squares[c] = rest < 0.0 ? 0.0 : rest;
    }
    const T* center = center_.values;
    const int64_t inner = b_.inner;
    if (inner == 1) {
      join(b_.channels, weight_, mean_, squares_, count_, [=](int64_t c) { return double(center[c]); }, mean,
           squares);
    } else {
      join(b_.channels, weight_, mean_, squares_, count_, [=](int64_t c) { return double(center[c * inner]); },
           mean, squares);
    }
    weight_ += count_;
    limit_ = smaller(limit_ * 8, kLongest);
    pending_ = 0;
    count_ = 0.0;
    moved_ = true;
  }

  const Block b_;
  const Element* const x_;
  const T* const weights_;
  double* const mean_;
  double* const squares_;
  Order order_;
  bool moved_ = false;
  int64_t rows_, pending_ = 0, limit_ = 0;
  double count_ = 0.0, weight_ = 0.0;
  Line<T> center_, first_, second_, each_;
  Line<double> sums_, more_sums_;
};

}  // namespace
}  // namespace batchnorm
