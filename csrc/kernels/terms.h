// What is summed and what is written for each element, by one formula for columns and planes alike.
//
// A term reads elements at an offset `j` of row `r` and combines them with what is known of their channels; it is a
// vector of N at once. What is known of the channels is either a row of numbers (columns) or one number (planes).
#pragma once

#include "kernels/elements.h"

namespace batchnorm {
namespace {

// A number for each column.
template <class T>
struct Row {
  const T* values;

  template <int N>
  Vector<T, N> at(int64_t j) const {
    return load<N>(values + j);
  }
};

// One number for a whole plane.
template <class T>
struct Same {
  T value;

  template <int N>
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
  const Element* x;
  int64_t stride;

  template <int N>
  Pair<T, N> at(int64_t r, int64_t j, Vector<T, N> center) const {
    Vector<T, N> d = load<N>(x + r * stride + j) - center;
    return {d, d};
  }

  void fetch_at(int64_t r, int64_t j) const { fetch(x, r * stride + j); }
};

// The same with a weight for each row.
template <class Element>
struct RowWeighted {
  typedef Stat<Element> T;
  const Element* x;
  int64_t stride;
  const T* weights;

  template <int N>
  Pair<T, N> at(int64_t r, int64_t j, Vector<T, N> center) const {
    Vector<T, N> d = load<N>(x + r * stride + j) - center;
    return {d * weights[r], d};
  }

  void fetch_at(int64_t r, int64_t j) const { fetch(x, r * stride + j); }
};

// The same with a weight for each element.
template <class Element>
struct EachWeighted {
  typedef Stat<Element> T;
  const Element* x;
  int64_t stride;
  const T* weights;
  int64_t weight_stride;

  template <int N>
  Pair<T, N> at(int64_t r, int64_t j, Vector<T, N> center) const {
    Vector<T, N> d = load<N>(x + r * stride + j) - center;
    return {d * load<N>(weights + r * weight_stride + j), d};
  }

  void fetch_at(int64_t r, int64_t j) const { fetch(x, r * stride + j); }
};

// dy, and dy * (x - mean).
template <class Element>
struct Pull {
  typedef Stat<Element> T;
  const Element* dy;
  const Element* x;
  int64_t stride;

  template <int N>
  Pair<T, N> at(int64_t r, int64_t j, Vector<T, N> mean) const {
    return {load<N>(dy + r * stride + j), load<N>(x + r * stride + j) - mean};
  }

  void fetch_at(int64_t r, int64_t j) const {
    fetch(dy, r * stride + j);
    fetch(x, r * stride + j);
  }
};

// (x - mean) * scale + shift.
template <class Element, template <class> class Known>
struct Affine {
  typedef Stat<Element> T;
  const Element* x;
  Known<T> mean, scale, shift;

  template <int N>
  Vector<T, N> at(int64_t j) const {
    return (load<N>(x + j) - mean.template at<N>(j)) * scale.template at<N>(j) + shift.template at<N>(j);
  }
};

// slope * dy + (tilt * (x - mean) + offset).
template <class Element, template <class> class Known>
struct Input {
  typedef Stat<Element> T;
  const Element* dy;
  const Element* x;
  Known<T> mean, slope, tilt, offset;

  template <int N>
  Vector<T, N> pulled(int64_t j) const {
    return tilt.template at<N>(j) * (load<N>(x + j) - mean.template at<N>(j)) + offset.template at<N>(j);
  }
  template <int N>
  Vector<T, N> at(int64_t j) const {
    return slope.template at<N>(j) * load<N>(dy + j) + pulled<N>(j);
  }
};

// slope * dy + w * (tilt * (x - mean) + offset).
template <class Element, template <class> class Known, template <class> class Weights>
struct WeightedInput {
  typedef Stat<Element> T;
  Input<Element, Known> input;
  Weights<T> weights;

  template <int N>
  Vector<T, N> at(int64_t j) const {
    return input.slope.template at<N>(j) * load<N>(input.dy + j) +
           weights.template at<N>(j) * input.template pulled<N>(j);
  }
};

// Write a term along `n` elements. A last vector that is not full overlaps the one before it. `jump` elements on lies
// what will be written next, 0 where it follows at once.
template <class Element, class Term>
inline void write(const Term& term, int64_t n, Element* out, bool past_caches, int64_t jump = 0) {
  constexpr int N = kWidth<Element>;
  constexpr int64_t kBytes = N * sizeof(Element);
  if (n < N) {
    for (int64_t j = 0; j < n; ++j) store<1>(out + j, term.template at<1>(j));
    return;
  }
  int64_t j = 0;
  if (past_caches && reinterpret_cast<uintptr_t>(out) % sizeof(Element) == 0) {
    const int64_t odd = int64_t(reinterpret_cast<uintptr_t>(out) % kBytes);
    if (odd != 0) {
      store<N>(out, term.template at<N>(0));
      j = (kBytes - odd) / int64_t(sizeof(Element));
    }
    for (; j + N <= n; j += N) stream<N>(out + j, term.template at<N>(j));
  } else if (jump != 0) {
    for (; j + N <= n; j += N) {
      claim(out, j + jump);
      store<N>(out + j, term.template at<N>(j));
    }
  } else {
    for (; j + N <= n; j += N) store<N>(out + j, term.template at<N>(j));
  }
  if (j < n) store<N>(out + n - N, term.template at<N>(n - N));
}

}  // namespace
}  // namespace batchnorm
