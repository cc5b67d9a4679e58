// Terms of passes with an activation and a residual: u = (x - mean) * scale + shift + residual, y = act(u).
#pragma once

#include "kernels/activations.h"
#include "kernels/passes.h"

namespace batchnorm {
namespace {

template <class Element>
inline const Element* moved(const Element* array, int64_t offset) {
  return array == nullptr ? nullptr : array + offset;
}

// act(u). There may be no residual.
template <class Element, template <class> class Known, class Act>
struct Activated {
  typedef Stat<Element> T;
  static constexpr bool kAnyOrder = Known<T>::kAnyOrder, kFetches = true;
  Affine<Element, Known> affine;
  const Element* residual;
  Act act;

  template <int N, Part part = kLow>
  BATCHNORM_INLINE Vector<T, N> at(int64_t j) const {
    Vector<T, N> u = affine.template at<N, part>(j);
    if (residual != nullptr) u += load<N, part>(residual + j);
    return act.template value<N>(u);
  }

  BATCHNORM_INLINE void fetch_at(int64_t j) const { affine.fetch_at(j); }
};

// h = act'(u) * dy, in place of dy. There may be no residual, and nothing to write h to.
template <class Element, template <class> class Known, class Act>
struct Through {
  typedef Stat<Element> T;
  // Both halves of two vectors have to be written in their order.
  static constexpr bool kAnyOrder = false;
  const Element* dy;
  const Element* residual;
  Element* pulled;
  Known<T> scale, shift;
  Act act;

  // At element `i`, which is in column `j`.
  template <int N, Part part>
  BATCHNORM_INLINE Vector<T, N> at(int64_t i, int64_t j, Vector<T, N> deviation) const {
    Vector<T, N> u = deviation * scale.template at<N, part>(j) + shift.template at<N, part>(j);
    if (residual != nullptr) u += load<N, part>(residual + i);
    const Vector<T, N> h = act.template pull<N>(load<N, part>(dy + i), u);
    if (pulled != nullptr) store<N>(pulled + i + (part == kHigh ? N : 0), h);
    return h;
  }

  BATCHNORM_INLINE void fetch_at(int64_t i) const {
    fetch(dy, i);
    if (residual != nullptr) fetch(residual, i);
    if (pulled != nullptr) prefetch_write(pulled, i);
  }

  Through from(int64_t offset) const {
    return {dy + offset, moved(residual, offset), pulled == nullptr ? nullptr : pulled + offset, scale, shift, act};
  }
};

// What passes take h from, as GivenPulls is for dy.
template <class Element, class Act>
struct PullsThrough {
  typedef Stat<Element> T;
  static constexpr bool kGiven = false;
  static constexpr int64_t kNarrowestLine = 2 * kNarrowest;
  const Element* dy;
  const Element* residual;
  Element* pulled;
  const T* scale;
  const T* shift;
  Act act;

  Through<Element, Same, Act> in_plane(int64_t c) const { return {dy, residual, pulled, {scale[c]}, {shift[c]}, act}; }

  // `part` has the channels from c on. There is room for two lines.
  Through<Element, Row, Act> in_columns(const Block& part, int64_t c, int64_t in_line, Line<T>* room) const {
    return {dy, residual, pulled, {as_columns(part, in_line, scale + c, &room[0])},
            {as_columns(part, in_line, shift + c, &room[1])}, act};
  }
};

}  // namespace
}  // namespace batchnorm
