// How the weights of columns and planes are laid out: at(r, j) are those of what a term reads at element j of row r.
#pragma once

#include "kernels/elements.h"

namespace batchnorm {
namespace {

// A weight for each row.
template <class Element>
struct RowWeights {
  typedef Stat<Element> T;
  static constexpr bool kAnyOrder = true;
  const T* values;

  template <int N, Part>
  Vector<T, N> at(int64_t r, int64_t) const {
    return fill<T, N>(values[r]);
  }
};

// A weight for each column of one row.
template <class Element>
struct ColumnWeights {
  typedef Stat<Element> T;
  static constexpr bool kAnyOrder = false;
  const T* values;

  template <int N, Part part>
  Vector<T, N> at(int64_t, int64_t j) const {
    return load<N, part>(values + j);
  }
};

// Every other one of 2N numbers, from the first or the second on.
template <int N, int from>
inline Vector<float, N> every_other(const float* values) {
  const Vector<float, N> low = load<N>(values), high = load<N>(values + N);
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(low, _mm512_add_epi32(even, _mm512_set1_epi32(from)), high);
  }
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) {
    const __m256 halves = _mm256_shuffle_ps(low, high, from == 0 ? 0x88 : 0xdd);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(halves), 0xd8));
  }
#endif
#if defined(__x86_64__)
  if constexpr (N == 4) return _mm_shuffle_ps(low, high, from == 0 ? 0x88 : 0xdd);
#elif defined(__aarch64__)
  if constexpr (N == 4) return from == 0 ? vuzp1q_f32(low, high) : vuzp2q_f32(low, high);
#endif
  Vector<float, N> found = {};
  for (int lane = 0; lane < N; ++lane) {
    const int at = 2 * lane + from;
    found[lane] = at < N ? low[at] : high[at - N];
  }
  return found;
}

// The weights of one plane's positions, in whichever order its elements are read.
template <class Element>
struct PlaneWeights {
  typedef Stat<Element> T;
  static constexpr bool kAnyOrder = true;
  const T* values;

  template <int N, Part part>
  Vector<T, N> at(int64_t, int64_t j) const {
    if constexpr (kIsBrain<Element> && (part == kSome || part == kOthers)) {
      return every_other<N, part == kSome ? 0 : 1>(values + j);
    } else {
      return load<N, part>(values + j);
    }
  }
};

// The weights of one row's positions, which every channel beside the others repeats. So that two vectors may begin in one
// channel and end in the next, a row goes on for their length as it began.
template <class Element>
class CycleWeights {
  typedef Stat<Element> T;
  static constexpr int64_t kMore = 2 * kLanes<T>;

 public:
  static constexpr bool kAnyOrder = false;
  static constexpr int64_t kLongestRow = 256;

  template <int kRows>
  struct Room {
    alignas(64) T values[kRows * (kLongestRow + kMore)];
  };

  // `kRows` rows of `inner` weights each.
  template <int kRows>
  CycleWeights(Room<kRows>* room, const T* weights, int64_t inner)
      : values_(room->values), inner_(uint64_t(inner)), inverse_(uint32_t((int64_t(1) << 32) / inner) + 1) {
    for (int r = 0; r < kRows; ++r) {
      T* row = room->values + r * stride();
      std::memcpy(row, weights + r * inner, sizeof(T) * size_t(inner));
      if (inner >= kMore) {
        std::memcpy(row + inner, row, sizeof(T) * kMore);
      } else {
        for (int64_t k = inner; k < stride(); ++k) row[k] = row[k - inner];
      }
    }
  }

  template <int N, Part part>
  Vector<T, N> at(int64_t r, int64_t j) const {
    return load<N, part>(values_ + r * stride() + position(j));
  }

 private:
  int64_t stride() const { return int64_t(inner_) + kMore; }

  // j % inner: the quotient's fraction times inner. Exact as long as j * inner is below 2^32.
  int64_t position(int64_t j) const { return int64_t(uint32_t(uint32_t(j) * inverse_) * inner_ >> 32); }

  const T* values_;
  uint64_t inner_;
  uint32_t inverse_;
};

// Fetch what comes some time after `n` weights: the next rows' follow in memory.
template <int n, class T>
inline void fetch_after(const T* weights) {
  constexpr int64_t kAhead = kBytesAhead / sizeof(T);
  for (int64_t line = 0; line < n; line += 64 / int64_t(sizeof(T))) fetch(weights, kAhead + line);
}

template <class T>
inline double sum_run(const T* values, int64_t n) {
  constexpr int N = kLanes<T>;
  constexpr int kMany = 4;
  constexpr int64_t kPart = 4096;  // so many are summed in their own precision
  double sum = 0.0;
  for (int64_t from = 0; from < n; from += kPart) {
    const int64_t to = smaller(from + kPart, n);
    Vector<T, N> lanes[kMany] = {};
    int64_t i = from;
    for (; i + kMany * N <= to; i += kMany * N) {
      fetch_after<kMany * N>(values + i);
      for (int k = 0; k < kMany; ++k) lanes[k] += load<N>(values + i + k * N);
    }
    for (; i + N <= to; i += N) lanes[0] += load<N>(values + i);
    sum += sum_lanes<T, N>((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]));
    for (; i < to; ++i) sum += values[i];
  }
  return sum;
}

// The sum of squares in double: a float's square may be too small for a float, and one weight by itself has to give
// W*W / sum of w*w of exactly 1.
template <class T>
inline double sum_squares(const T* values, int64_t n) {
  constexpr int N = kLanes<double>;
  constexpr int kMany = 4;
  Vector<double, N> lanes[kMany] = {};
  int64_t i = 0;
  for (; i + kMany * N <= n; i += kMany * N) {
    fetch_after<kMany * N>(values + i);
    for (int k = 0; k < kMany; ++k) {
      Vector<double, N> v = {};
      for (int lane = 0; lane < N; ++lane) v[lane] = values[i + k * N + lane];
      lanes[k] += v * v;
    }
  }
  double sum = sum_lanes<double, N>((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]));
  for (; i < n; ++i) sum += double(values[i]) * values[i];
  return sum;
}

}  // namespace
}  // namespace batchnorm
