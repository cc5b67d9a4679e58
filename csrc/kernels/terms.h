// What is summed and what is written for each element, by one formula for columns and planes alike.
//
// A term reads elements at an offset `j` of row `r` and combines them with what is known of their channels; it is a
// vector of N at once. What is known of the channels is either a row of numbers (columns) or one number (planes).
#pragma once

#include "kernels/weights.h"

namespace batchnorm {
namespace {

// A number for each column.
template <class T>
struct Row {
  static constexpr bool kAnyOrder = false;
  const T* values;

  template <int N, Part part>
  Vector<T, N> at(int64_t j) const {
    return load<N, part>(values + j);
  }
};

// One number for a whole plane.
template <class T>
struct Same {
  static constexpr bool kAnyOrder = true;
  T value;

  template <int N, Part>
  Vector<T, N> at(int64_t) const {
    return fill<T, N>(value);
  }
};

// Sums are of `first` and of `first * second`.
template <class T, int N>
struct Pair {
  Vector<T, N> first, second;
};

// x - center, and its square.
template <class Element>
struct Deviation {
  typedef Stat<Element> T;
  typedef Element Read;
  static constexpr bool kAnyOrder = true;
  const Element* x;
  int64_t stride;

  template <int N, Part part = kLow>
  Pair<T, N> at(int64_t r, int64_t j, Vector<T, N> center) const {
    Vector<T, N> d = load<N, part>(x + r * stride + j) - center;
    return {d, d};
  }

  void fetch_at(int64_t r, int64_t j) const { fetch(x, r * stride + j); }
};

// The same with weights.
template <class Element, template <class> class Weights>
struct WeightedDeviation {
  typedef Stat<Element> T;
  typedef Element Read;
  static constexpr bool kAnyOrder = Weights<Element>::kAnyOrder;
  const Element* x;
  int64_t stride;
  Weights<Element> weights;

  template <int N, Part part = kLow>
  Pair<T, N> at(int64_t r, int64_t j, Vector<T, N> center) const {
    Vector<T, N> d = load<N, part>(x + r * stride + j) - center;
    return {d * weights.template at<N, part>(r, j), d};
  }

  void fetch_at(int64_t r, int64_t j) const { fetch(x, r * stride + j); }
};

// dy as it is; h of epilogue.h in its place.
template <class Element>
struct Given {
  typedef Stat<Element> T;
  static constexpr bool kAnyOrder = true;
  const Element* dy;

  template <int N, Part part>
  BATCHNORM_INLINE Vector<T, N> at(int64_t i, int64_t, Vector<T, N>) const {
    return load<N, part>(dy + i);
  }

  void fetch_at(int64_t i) const { fetch(dy, i); }

  Given from(int64_t offset) const { return {dy + offset}; }
};

// dy, and dy * (x - mean).
template <class Element, class Source>
struct Pull {
  typedef Stat<Element> T;
  typedef Element Read;
  static constexpr bool kAnyOrder = Source::kAnyOrder;
  Source dy;
  const Element* x;
  int64_t stride;

  template <int N, Part part = kLow>
  BATCHNORM_INLINE Pair<T, N> at(int64_t r, int64_t j, Vector<T, N> mean) const {
    const Vector<T, N> deviation = load<N, part>(x + r * stride + j) - mean;
    return {dy.template at<N, part>(r * stride + j, j, deviation), deviation};
  }

  void fetch_at(int64_t r, int64_t j) const {
    dy.fetch_at(r * stride + j);
    fetch(x, r * stride + j);
  }
};

// (x - mean) * scale + shift.
template <class Element, template <class> class Known>
struct Affine {
  typedef Stat<Element> T;
  static constexpr bool kAnyOrder = Known<T>::kAnyOrder, kFetches = true;
  const Element* x;
  Known<T> mean, scale, shift;

  template <int N, Part part = kLow>
  BATCHNORM_INLINE Vector<T, N> at(int64_t j) const {
    return (load<N, part>(x + j) - mean.template at<N, part>(j)) * scale.template at<N, part>(j) +
           shift.template at<N, part>(j);
  }

  void fetch_at(int64_t j) const { fetch(x, j); }
};

// slope * dy + (tilt * (x - mean) + offset).
template <class Element, template <class> class Known, class Source>
struct Input {
  typedef Stat<Element> T;
  static constexpr bool kAnyOrder = Known<T>::kAnyOrder && Source::kAnyOrder, kFetches = false;
  Source dy;
  const Element* x;
  Known<T> mean, slope, tilt, offset;

  template <int N, Part part = kLow>
  BATCHNORM_INLINE Vector<T, N> at(int64_t j) const {
    const Vector<T, N> deviation = load<N, part>(x + j) - mean.template at<N, part>(j);
    return slope.template at<N, part>(j) * dy.template at<N, part>(j, j, deviation) +
           (tilt.template at<N, part>(j) * deviation + offset.template at<N, part>(j));
  }
};

// slope * dy + w * (tilt * (x - mean) + offset).
template <class Element, template <class> class Known, template <class> class Weights>
struct WeightedInput {
  typedef Stat<Element> T;
  static constexpr bool kAnyOrder = Known<T>::kAnyOrder && Weights<Element>::kAnyOrder, kFetches = false;
  Input<Element, Known, Given<Element>> input;
  Weights<Element> weights;

  template <int N, Part part = kLow>
  BATCHNORM_INLINE Vector<T, N> at(int64_t j) const {
    const Vector<T, N> deviation = load<N, part>(input.x + j) - input.mean.template at<N, part>(j);
    const Vector<T, N> pulled =
        input.tilt.template at<N, part>(j) * deviation + input.offset.template at<N, part>(j);
    return input.slope.template at<N, part>(j) * load<N, part>(input.dy.dy + j) +
           weights.template at<N, part>(0, j) * pulled;
  }
};

// 2N elements of a term.
template <bool streaming, class Element, class Term>
inline void write_parts(const Term& term, int64_t j, Element* out) {
  constexpr int N = kWidth<Element>;
  if constexpr (Term::kAnyOrder) {
    store_parts<N, true, streaming>(out + j, term.template at<N, kSome>(j), term.template at<N, kOthers>(j));
  } else {
    store_parts<N, false, streaming>(out + j, term.template at<N, kLow>(j), term.template at<N, kHigh>(j));
  }
}

// Elements from `from` to `to`, those that make no vector of N in smaller ones.
template <int N, class Element, class Term>
inline void write_run(const Term& term, int64_t from, int64_t to, Element* out) {
  for (; from + N <= to; from += N) store<N>(out + from, term.template at<N>(from));
  if constexpr (N > 1) write_run<N / 2>(term, from, to, out);
}

// Write a term along `n` elements. `jump` elements on lies what will be written next, 0 where it follows at once;
// `ahead` elements on what will be read later, 0 for nothing.
template <class Element, class Term>
inline void write(const Term& given, int64_t n, Element* out, bool streaming, int64_t jump = 0, int64_t ahead = 0) {
  constexpr int N = kWidth<Element>;
  constexpr int64_t kStep = 2 * N, kSize = sizeof(Element), kLine = 64 / kSize;
  // Of its own, since what is written could otherwise be what it consists of.
  const Term term = given;
  if (n < (streaming ? larger(kStep, 2 * kLine) : kStep)) return write_run<N>(term, 0, n, out);
  int64_t j = 0;
  const uintptr_t start = reinterpret_cast<uintptr_t>(out);
  if (streaming && start % kSize == 0) {
    // Whole lines of memory, and no line both ways: the processor would wait for it to get there and come back.
    const int64_t before = int64_t((0 - start) % 64) / kSize;
    const int64_t end = n - int64_t((start + uintptr_t(n * kSize)) % 64) / kSize;
    write_run<N>(term, 0, before, out);
    j = before;
    // Reading what comes next meanwhile keeps the memory busy both ways.
    if constexpr (Term::kFetches) {
      for (; ahead != 0 && j + kStep <= end; j += kStep) {
        term.fetch_at(j + ahead);
        write_parts<true>(term, j, out);
      }
    }
    for (; j + kStep <= end; j += kStep) write_parts<true>(term, j, out);
    return write_run<N>(term, j, n, out);
  }
  if (jump != 0) {
    for (; j + kStep <= n; j += kStep) {
      prefetch_write(out, j + jump);
      write_parts<false>(term, j, out);
    }
  } else {
    for (; j + kStep <= n; j += kStep) write_parts<false>(term, j, out);
  }
  // A last step that is not full overlaps the one before it.
  if (j < n) write_parts<false>(term, n - kStep, out);
}

}  // namespace
}  // namespace batchnorm
