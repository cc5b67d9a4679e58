// Channels side by side: every column of a row has sums of its own.
//
// A row is `channels * inner` numbers, column j belonging to channel j / inner. Where rows follow each other without a
// gap, several make one line, so that few channels still fill vectors; then column j belongs to channel
// (j / inner) % channels. Images of few pixels are lines too: their pixels are summed as columns and then together.
#pragma once

#include "kernels/merge.h"
#include "kernels/terms.h"

namespace batchnorm {
namespace {

constexpr int64_t kWidest = 2048;  // columns at a time; three rows of sums stay in the first cache
constexpr int64_t kNarrowest = 256;
constexpr int64_t kNarrowestWritten = 1024;  // of y, where a call for each line costs more than a larger row of each number
constexpr int64_t kLongest = 256;  // lines summed in the elements' precision before the sums move to double
constexpr int kTogether = 4;       // lines with gaps between them are read so many at once (see each_group)

template <class T>
struct Line {
  alignas(64) T values[kWidest];
};

// Rows that make one line of at least `narrowest` columns, if there are enough.
template <class Element>
inline int64_t rows_in_line(const Block& b, int64_t narrowest = kNarrowest) {
  const int64_t width = b.channels * b.inner, whole = 64 / int64_t(sizeof(Element));
  if (b.row_stride != width || b.rows < 16) return 1;
  int64_t best = 1;
  for (int64_t rows = 1; rows <= b.rows / 8 && rows * width <= kWidest; ++rows) {
    best = rows;
    if (rows * width >= narrowest && rows * width % whole == 0) break;
  }
  return best;
}

// Call visit(offset, weight_offset, lines, line_stride, rows) for each run of lines of `rows` rows.
template <class Visit>
inline void each_run(const Block& b, int64_t rows_in_line, Visit visit) {
  const int64_t full = b.rows / rows_in_line, rest = b.rows - full * rows_in_line;
  for (int64_t o = 0; o < b.segments; ++o) {
    const int64_t start = o * b.segment_stride, weights = o * b.weight_stride, row = full * rows_in_line;
    if (full > 0) visit(start, weights, full, rows_in_line * b.row_stride, rows_in_line);
    if (rest > 0) visit(start + row * b.row_stride, weights + row * b.inner, int64_t(1), b.row_stride, rest);
  }
}

// A number for each channel as one for each column.
template <class T, class From>
inline void expand(const Block& b, int64_t rows, const From* per_channel, T* columns) {
  if (b.inner == 1) {
    for (int64_t r = 0; r < rows; ++r, columns += b.channels) {
      for (int64_t c = 0; c < b.channels; ++c) columns[c] = T(per_channel[c]);
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < b.channels; ++c) {
      const T value = T(per_channel[c]);
      for (int64_t i = 0; i < b.inner; ++i) *columns++ = value;
    }
  }
}

// The same without a copy where channels are columns already.
template <class T>
inline const T* as_columns(const Block& b, int64_t rows, const T* per_channel, Line<T>* room) {
  if (rows == 1 && b.inner == 1) return per_channel;
  expand(b, rows, per_channel, room->values);
  return room->values;
}

// How weights come to columns.
enum class Order {
  kNone,
  kByRow,  // rows are long enough to be lines, and have one weight
  kCycle,  // the same with several, which every channel repeats
  kEach,   // a line is of several rows: its weights are written out
};

template <class Element>
inline Order weight_order(const Block& b) {
  if (b.inner == 1) return b.channels >= kWidth<Element> ? Order::kByRow : Order::kEach;
  return b.channels * b.inner >= kNarrowest ? Order::kCycle : Order::kEach;
}

// The weights of `rows` rows, one for each column.
template <class T>
inline void expand_weights(const Block& b, int64_t rows, const T* weights, T* columns) {
  for (int64_t r = 0; r < rows; ++r, weights += b.inner) {
    for (int64_t c = 0; c < b.channels; ++c) {
      for (int64_t i = 0; i < b.inner; ++i) *columns++ = weights[i];
    }
  }
}

// Sums of columns as sums of channels; the columns start again at zero.
template <class T>
inline void collect(const Block& b, int64_t rows, T* columns, double* per_channel) {
  const int64_t width = b.channels * b.inner;
  for (int64_t r = 0; r < rows; ++r) {
    const T* next = columns + r * width;
    if (b.inner > 1) {
      for (int64_t c = 0; c < b.channels; ++c) {
        per_channel[c] = (r == 0 ? 0.0 : per_channel[c]) + sum_run(next + c * b.inner, b.inner);
      }
    } else if (r == 0) {
      for (int64_t c = 0; c < width; ++c) per_channel[c] = next[c];
    } else {
      for (int64_t c = 0; c < width; ++c) per_channel[c] += next[c];
    }
  }
  std::memset(columns, 0, sizeof(T) * size_t(rows * width));
}

// Add the columns from j on, `kParts` vectors of N of them; `ahead` elements on lies what is to be fetched meanwhile.
template <int kRows, int kParts, int N, class T, class Term>
inline void add_at(const Term& term, int64_t j, int64_t ahead, const T* center, T* first, T* second) {
  constexpr int64_t kSize = sizeof(typename Term::Read);
  Vector<T, N> c[kParts], a[kParts], b[kParts];
  for (int p = 0; p < kParts; ++p) {
    c[p] = load<N>(center + j + p * N), a[p] = load<N>(first + j + p * N), b[p] = load<N>(second + j + p * N);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    for (int64_t line = 0; line < kParts * N; line += 64 / kSize) term.fetch_at(r, j + line + ahead);
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) {
      const Pair<T, N> pair = term.template at<N>(r, j + p * N, c[p]);
      a[p] += pair.first;
      b[p] += pair.first * pair.second;
    }
  }
  for (int p = 0; p < kParts; ++p) {
    store_bits(first + j + p * N, a[p]);
    store_bits(second + j + p * N, b[p]);
  }
}

// Add kRows lines of `width` columns to the sums.
template <int kRows, class T, class Term>
inline void add_lines(const Term& given, int64_t width, const T* center, T* first, T* second) {
  constexpr int N = kLanes<T>;
  const Term term = given;
  constexpr int64_t kAhead = kBytesAhead / sizeof(typename Term::Read);
  const int64_t ahead = term.stride == width ? kAhead : kRows * term.stride;
  int64_t j = 0;
  for (; j + 2 * N <= width; j += 2 * N) add_at<kRows, 2, N>(term, j, ahead, center, first, second);
  for (; j + N <= width; j += N) add_at<kRows, 1, N>(term, j, ahead, center, first, second);
  for (; j < width; ++j) add_at<kRows, 1, 1>(term, j, ahead, center, first, second);
}

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

// Call add(line, how many) for `lines` lines, several at a time where there are gaps between them: then a sum is loaded
// and stored once for all of these. Without gaps it pays more to read the memory in its order, which the processor
// foresees.
template <class Add>
inline void each_group(int64_t lines, bool gaps, Add add) {
  int64_t line = 0;
  for (; gaps && line + kTogether <= lines; line += kTogether) add(line, Count<kTogether>());
  for (; line < lines; ++line) add(line, Count<1>());
}

// The channels of a block that fit a line at a time: visit(part, first channel).
template <class Visit>
inline void each_part(const Block& b, Visit visit) {
  int64_t most = larger(kWidest / b.inner, 1);
  if (most < b.channels && most > 16) most -= most % 16;
  for (int64_t c = 0; c < b.channels; c += most) {
    Block part = b;
    part.channels = smaller(most, b.channels - c);
    visit(part, c);
  }
}

}  // namespace
}  // namespace batchnorm
