// exp, and what the activations make of it, for vectors of floats: correct to a few units in the last place, over the
// whole range of a float. Arguments may be NaN, which the result then is.
//
// The two polynomials are minimax fits of this project (least squares at 4000 Chebyshev nodes, reweighted by their own
// errors until these level out), rounded to floats.
#pragma once

#include "kernels/lanes.h"

namespace batchnorm {
namespace {

template <int N>
using Floats = Vector<float, N>;
template <int N>
using Bits = Vector<uint32_t, N>;

// The lanes of `yes` if `test` holds, else of `no`.
template <class T, int N, class Test>
inline Vector<T, N> select(Test test, Vector<T, N> yes, Vector<T, N> no) {
  return test ? yes : no;
}

template <int N>
inline Floats<N> magnitude(Floats<N> v) {
  return same_bits<Floats<N>>(Bits<N>(same_bits<Bits<N>>(v) & 0x7fffffffu));
}

// The magnitude of `v` with the sign of `sign`.
template <int N>
inline Floats<N> with_sign(Floats<N> v, Floats<N> sign) {
  return same_bits<Floats<N>>(
      Bits<N>((same_bits<Bits<N>>(v) & 0x7fffffffu) | (same_bits<Bits<N>>(sign) & 0x80000000u)));
}

// |v|, but at most `most`.
template <int N>
inline Floats<N> magnitude_up_to(Floats<N> v, float most) {
  const Floats<N> size = magnitude<N>(v), bound = fill<float, N>(most);
  return select<float, N>(size > bound, bound, size);
}

// exp(x) as half * other * (1 + more), where half and other are powers of two and more is between -0.3 and 0.42.
// Two factors, since the power itself may be too small for a normal float.
template <int N>
struct Exponential {
  Floats<N> half, other, more;

  // exp(x)
  Floats<N> value() const { return (1.0f + more) * half * other; }
  // exp(x) - 1, without cancellation for small x.
  Floats<N> less_one() const {
    const Floats<N> power = half * other;
    return (power - 1.0f) + power * more;
  }
};

// exp(high + low) for -150 <= high + low <= 0. `low` holds what the rounding of `high` lost.
//
// With x = n * log(2) + r, exp(r) - 1 - r is r² times a polynomial: relative error of exp(r) 3.1e-9.
template <int N>
inline Exponential<N> exponential(Floats<N> high, Floats<N> low) {
  constexpr float kShift = 0x1.8p23f;  // a float this large has no fraction: adding it rounds to a whole number
  const Floats<N> shifted = (high + low) * 1.44269504f + kShift, n = shifted - kShift;
  // log(2) in two parts, of which n times the first is exact.
  const Floats<N> r = ((high - n * 0.693359375f) + low) + n * 2.12194440e-4f;
  Floats<N> p = r * 0.00138144672f + 0.00836878084f;
  p = p * r + 0.0416683927f;
  p = p * r + 0.166665196f;
  p = p * r + 0.49999994f;
  typedef Vector<int32_t, N> Whole;
  const Whole exponent = same_bits<Whole>(shifted) - 0x4b400000, first = exponent >> 1, second = exponent - first;
  const auto power = [](Whole e) { return same_bits<Floats<N>>(Bits<N>(same_bits<Bits<N>>(e + 127) << 23)); };
  return {power(first), power(second), r + r * r * p};
}

template <int N>
inline Exponential<N> exponential(Floats<N> x) {
  return exponential<N>(x, Floats<N>{});
}

// The normal distribution at u: its cumulative function, and exp(-u² / 2).
template <int N>
struct Normal {
  Floats<N> below, bell;
};

// For a = |u| the part beyond a is exp(-a² / 2) * R(a), and R(a) * (a + 4) is a polynomial of (a - 4) / (a + 4):
// relative error 9.1e-9 for a up to 15; above that the part beyond a is zero in a float.
template <int N>
inline Normal<N> normal(Floats<N> u) {
  const Floats<N> a = magnitude_up_to<N>(u, 15.0f), inverse = 1.0f / (a + 4.0f), q = (a - 4.0f) * inverse;
  Floats<N> p = q * -0.000134196307f + 0.000174659304f;
  p = p * q + 0.00156840833f;
  p = p * q - 0.0035102109f;
  p = p * q - 0.00752400421f;
  p = p * q + 0.0604034886f;
  p = p * q - 0.186523661f;
  p = p * q + 0.387136906f;
  p = p * q - 0.607896566f;
  p = p * q + 0.755285144f;
  // a² in two parts, the first exact: an error of the exponent would be multiplied by its size.
  const Floats<N> head = same_bits<Floats<N>>(Bits<N>(same_bits<Bits<N>>(a) & 0xfffff000u));
  const Floats<N> bell = exponential<N>(-0.5f * head * head, -0.5f * (a - head) * (a + head)).value();
  const Floats<N> beyond = bell * (p * inverse);
  return {select<float, N>(u < 0.0f, beyond, 1.0f - beyond), bell};
}

// 1 / (1 + exp(-v)) for a v of this size, at most 150, and of this sign; and its derivative.
template <int N>
struct Logistic {
  Floats<N> value, derivative;
};

template <int N>
inline Logistic<N> logistic(Floats<N> size, Floats<N> sign) {
  const Floats<N> e = exponential<N>(-size).value(), inverse = 1.0f / (1.0f + e);
  const Floats<N> one = fill<float, N>(1.0f);
  return {select<float, N>(sign < 0.0f, e, one) * inverse, e * inverse * inverse};
}

}  // namespace
}  // namespace batchnorm
