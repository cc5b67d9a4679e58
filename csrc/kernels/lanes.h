// Short vectors of numbers, as wide as the instruction set this file is compiled for.
//
// Everything here and in the other files of this folder has internal linkage: the folder is compiled once for each
// instruction set, and no function of one may stand in for its namesake of another. For the same reason nothing here
// calls a function template of the standard library.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace batchnorm {
namespace {

#if defined(BATCHNORM_VECTOR_BYTES)  // tests try a width that the machine need not have
constexpr int kVectorBytes = BATCHNORM_VECTOR_BYTES;
#elif defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Numbers of type T in one vector.
template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

// Into its caller, however large that gets: what the innermost loops consist of.
#define BATCHNORM_INLINE __attribute__((always_inline)) inline

template <class T, int N>
struct VectorOf {
  typedef T Type __attribute__((vector_size(N * sizeof(T))));
};
template <class T>
struct VectorOf<T, 1> {
  typedef T Type;
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::Type;

template <class To, class From>
inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a view of the same bits");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T, int N>
inline Vector<T, N> fill(T value) {
  // Not a sum with zero, which a compiler must carry out for the sake of zero's sign.
  return value - Vector<T, N>{};
}

template <class V>
inline V load_bits(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <class V>
inline void store_bits(void* to, V v) {
  std::memcpy(to, &v, sizeof(v));
}

// Write past the caches; `to` is aligned to the vector.
template <class V>
inline void stream_bits(void* to, V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(to), same_bits<__m512i>(v));
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return _mm256_stream_si256(static_cast<__m256i*>(to), same_bits<__m256i>(v));
#endif
#if defined(__x86_64__)
  if constexpr (sizeof(V) == 16) return _mm_stream_si128(static_cast<__m128i*>(to), same_bits<__m128i>(v));
#endif
  store_bits(to, v);
}

// Streamed writes become visible to other threads.
inline void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class T, int N>
inline double sum_lanes(Vector<T, N> v) {
  if constexpr (N == 1) {
    return v;
  } else {
    T lanes[N];
    std::memcpy(lanes, &v, sizeof(v));
    double sum = 0.0;
    for (int lane = 0; lane < N; ++lane) sum += lanes[lane];
    return sum;
  }
}

// Fetch what will be read soon. One core has too few reads in flight by itself to use the memory's speed; an address
// past the end of an array does no harm.
template <class Element>
inline void fetch(const Element* base, int64_t offset) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(base) +
                                                   uintptr_t(offset) * sizeof(Element)));
}

// The same for what will be written.
template <class Element>
inline void prefetch_write(Element* base, int64_t offset) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(base) +
                                                   uintptr_t(offset) * sizeof(Element)), 1);
}

// How far ahead to fetch where the memory is read in its order.
constexpr int64_t kBytesAhead = 2048;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Infinities and NaN differ from themselves by NaN.
template <class T>
inline bool is_finite(T value) {
  return value - value == T(0);
}

}  // namespace
}  // namespace batchnorm
