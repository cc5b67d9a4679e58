// The element types: how memory becomes numbers to reckon with, and back.
#pragma once

#include "kernels/lanes.h"

namespace batchnorm {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class Element>
struct StatOf {
  typedef Element Type;
};
template <>
struct StatOf<BFloat16> {
  typedef float Type;
};
template <>
struct StatOf<Float16> {
  typedef float Type;
};
// The type of an element's statistics, and of all arithmetic on it.
template <class Element>
using Stat = typename StatOf<Element>::Type;

template <class Element>
constexpr bool kIsBrain = false;
template <>
constexpr bool kIsBrain<BFloat16> = true;

// Elements that make a full vector of statistics.
template <class Element>
constexpr int kWidth = kLanes<Stat<Element>>;

template <int N>
inline Vector<uint32_t, N> widen(Vector<uint16_t, N> v) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    return same_bits<Vector<uint32_t, N>>(_mm512_maskz_cvtepu16_epi32(0xffff, same_bits<__m256i>(v)));
  }
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return same_bits<Vector<uint32_t, N>>(_mm256_cvtepu16_epi32(same_bits<__m128i>(v)));
#endif
  if constexpr (N == 1) {
    return v;
  } else {
    return __builtin_convertvector(v, Vector<uint32_t, N>);
  }
}

// Numbers below 2^16.
template <int N>
inline Vector<uint16_t, N> narrow(Vector<uint32_t, N> v) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    return same_bits<Vector<uint16_t, N>>(_mm512_maskz_cvtepi32_epi16(0xffff, same_bits<__m512i>(v)));
  }
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) {
    const __m256i wide = same_bits<__m256i>(v);
    return same_bits<Vector<uint16_t, N>>(
        _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
  }
#endif
  if constexpr (N == 1) {
    return uint16_t(v);
  } else {
    return __builtin_convertvector(v, Vector<uint16_t, N>);
  }
}

// The lanes of `yes` where `test` holds, of `no` elsewhere.
template <int N, class Test>
inline Vector<uint32_t, N> choose(Test test, Vector<uint32_t, N> yes, Vector<uint32_t, N> no) {
  return test ? yes : no;
}

// A half has 5 bits of exponent and 10 of fraction. Shifted to a float's places its exponent is 112 too small, which
// a multiplication by 2^112 mends for normal and subnormal numbers alike; infinities and NaN keep all ones.
template <int N>
inline Vector<float, N> float_from_half(Vector<uint16_t, N> half) {
  Vector<uint32_t, N> bits = widen<N>(half);
  Vector<uint32_t, N> sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
  Vector<float, N> scaled = same_bits<Vector<float, N>>(rest) * 0x1p112f;
  Vector<uint32_t, N> magnitude = choose<N>(rest >= 0x0f800000u, rest | 0x7f800000u, //
                                            same_bits<Vector<uint32_t, N>>(scaled));
  return same_bits<Vector<float, N>>(magnitude | sign);
}

// To nearest, ties to even. A normal result rounds in integers: adding half a unit less one, plus the last bit kept,
// carries where it must. A subnormal one rounds in the addition of 0.5, whose unit is a half's smallest number.
template <int N>
inline Vector<uint16_t, N> half_from_float(Vector<float, N> value) {
  Vector<uint32_t, N> bits = same_bits<Vector<uint32_t, N>>(value);
  Vector<uint32_t, N> sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  Vector<uint32_t, N> normal = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  Vector<float, N> moved = same_bits<Vector<float, N>>(rest) + 0.5f;
  Vector<uint32_t, N> small = same_bits<Vector<uint32_t, N>>(moved) - 0x3f000000u;
  Vector<uint32_t, N> zero = {}, infinity = zero + 0x7c00u, nan = zero + 0x7e00u;
  Vector<uint32_t, N> result = choose<N>(rest < 0x38800000u, small, normal);
  result = choose<N>(rest >= 0x477ff000u, infinity, result);
  result = choose<N>(rest > 0x7f800000u, nan, result);
  return narrow<N>(result | sign);
}

// bfloat16 is a float's upper half; to nearest, ties to even. The lower half of the result is of no use.
template <int N>
inline Vector<uint32_t, N> round_to_brain(Vector<float, N> value) {
  Vector<uint32_t, N> bits = same_bits<Vector<uint32_t, N>>(value), zero = {}, nan = zero + 0x7fc00000u;
  return choose<N>(value != value, nan, bits + 0x7fffu + ((bits >> 16) & 1u));
}

template <int N>
inline Vector<uint16_t, N> brain_from_float(Vector<float, N> value) {
  return narrow<N>(round_to_brain<N>(value) >> 16);
}

template <int N>
inline Vector<float, N> load(const float* from) {
  return load_bits<Vector<float, N>>(from);
}

template <int N>
inline Vector<double, N> load(const double* from) {
  return load_bits<Vector<double, N>>(from);
}

template <int N>
inline Vector<float, N> load(const BFloat16* from) {
  auto bits = load_bits<Vector<uint16_t, N>>(from);
  return same_bits<Vector<float, N>>(Vector<uint32_t, N>(widen<N>(bits) << 16));
}

template <int N>
inline Vector<float, N> load(const Float16* from) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return same_bits<Vector<float, N>>(_mm512_maskz_cvtph_ps(0xffff, load_bits<__m256i>(from)));
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return same_bits<Vector<float, N>>(_mm256_cvtph_ps(load_bits<__m128i>(from)));
#endif
#if defined(__aarch64__)
  if constexpr (N == 4) return same_bits<Vector<float, N>>(vcvt_f32_f16(load_bits<float16x4_t>(from)));
#endif
  return float_from_half<N>(load_bits<Vector<uint16_t, N>>(from));
}

// Which of 2N elements make a vector of N. Where their order does not matter, kSome and kOthers are the two halves that
// cost least to tell apart.
enum Part { kLow, kHigh, kSome, kOthers };

template <int N, Part part, class Element>
inline Vector<Stat<Element>, N> load(const Element* from) {
  return load<N>(part == kLow || part == kSome ? from : from + N);
}

// Every other bfloat16 is the upper half of a 32-bit word, and so a float already.
template <int N, Part part>
inline Vector<float, N> load(const BFloat16* from) {
  if constexpr (part == kSome || part == kOthers) {
    auto bits = load_bits<Vector<uint32_t, N>>(from);
    return same_bits<Vector<float, N>>(Vector<uint32_t, N>(part == kSome ? bits << 16 : bits & 0xffff0000u));
  } else {
    return load<N>(part == kLow ? from : from + N);
  }
}

// Numbers as elements, ready to be written.
template <class Element, int N>
struct Pack {
  static Vector<Element, N> from(Vector<Element, N> v) { return v; }
};

template <int N>
struct Pack<BFloat16, N> {
  static Vector<uint16_t, N> from(Vector<float, N> v) { return brain_from_float<N>(v); }
};

template <int N>
struct Pack<Float16, N> {
  static Vector<uint16_t, N> from(Vector<float, N> v) {
#if defined(__AVX512F__)
    if constexpr (N == 16) {
      return same_bits<Vector<uint16_t, N>>(
          _mm512_maskz_cvtps_ph(0xffff, same_bits<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
#if defined(__F16C__)
    if constexpr (N == 8) {
      return same_bits<Vector<uint16_t, N>>(_mm256_cvtps_ph(same_bits<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
#if defined(__aarch64__)
    if constexpr (N == 4) return same_bits<Vector<uint16_t, N>>(vcvt_f16_f32(same_bits<float32x4_t>(v)));
#endif
    return half_from_float<N>(v);
  }
};

template <bool streaming, class V>
inline void put(void* to, V v) {
  if constexpr (streaming) {
    stream_bits(to, v);
  } else {
    store_bits(to, v);
  }
}

template <int N, class Element>
inline void store(Element* to, Vector<Stat<Element>, N> v) {
  store_bits(to, Pack<Element, N>::from(v));
}

// 2N elements, of which `first` and `second` are kSome and kOthers, or kLow and kHigh. To write past the caches, `to`
// is aligned to each vector that is put there.
template <int N, bool any_order, bool streaming, class Element>
inline void store_parts(Element* to, Vector<Stat<Element>, N> first, Vector<Stat<Element>, N> second) {
  if constexpr (any_order && kIsBrain<Element>) {
    Vector<uint32_t, N> lower = round_to_brain<N>(first) >> 16, upper = round_to_brain<N>(second) & 0xffff0000u;
    put<streaming>(to, Vector<uint32_t, N>(lower | upper));
  } else {
    put<streaming>(to, Pack<Element, N>::from(first));
    put<streaming>(to + N, Pack<Element, N>::from(second));
  }
}

}  // namespace
}  // namespace batchnorm
