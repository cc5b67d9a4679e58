// Sums of dy and dy * (x - mean) of channels side by side.
#pragma once

#include "kernels/columns.h"

namespace batchnorm {
namespace {

template <class Element, class Source>
class ColumnSums {
  typedef Stat<Element> T;

 public:
  ColumnSums(const Block& block, const Source& dy, const Element* x, const T* mean, double* first, double* second)
      : b_(block), dy_(dy), x_(x), first_out_(first), second_out_(second), rows_(rows_in_line<Element>(block)) {
    mean_ = as_columns(b_, rows_, mean, &room_);
    std::memset(first_.values, 0, sizeof(T) * size_t(rows_ * b_.channels * b_.inner));
    std::memset(second_.values, 0, sizeof(T) * size_t(rows_ * b_.channels * b_.inner));
  }

  void run() {
    each_run(b_, rows_, [this](int64_t offset, int64_t, int64_t lines, int64_t stride, int64_t rows) {
      const int64_t width = rows * b_.channels * b_.inner;
      for (int64_t line = 0; line < lines;) {
        const int64_t some = smaller(lines - line, kLongest - pending_), start = offset + line * stride;
        each_group(some, stride != width, [&](int64_t next, auto together) {
          const int64_t at = start + next * stride;
          add_lines<together.value>(Pull<Element, Source>{dy_.from(at), x_ + at, stride}, width, mean_, first_.values,
                                    second_.values);
        });
        line += some;
        pending_ += some;
        if (pending_ == kLongest) flush();
      }
    });
    flush();
  }

 private:
  void flush() {
    collect(b_, rows_, first_.values, sums_.values);
    for (int64_t c = 0; c < b_.channels; ++c) first_out_[c] += sums_.values[c];
    collect(b_, rows_, second_.values, sums_.values);
    for (int64_t c = 0; c < b_.channels; ++c) second_out_[c] += sums_.values[c];
    pending_ = 0;
  }

  const Block b_;
  const Source dy_;
  const Element* const x_;
  double* const first_out_;
  double* const second_out_;
  const int64_t rows_;
  int64_t pending_ = 0;
  const T* mean_;
  Line<T> room_, first_, second_;
  Line<double> sums_;
};

}  // namespace
}  // namespace batchnorm
