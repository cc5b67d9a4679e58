// Channels one after another: a plane is a run of numbers of one channel, summed in registers.
#pragma once

#include "kernels/block.h"
#include "kernels/terms.h"

namespace batchnorm {
namespace {

constexpr int64_t kPlane = 256;    // shorter runs are columns
constexpr int64_t kPiece = 16384;  // numbers summed in the elements' precision before the sums move to double

inline bool is_plane(const Block& b) { return b.inner >= kPlane; }

// The last `n` of N lanes, zero in the others, which were counted before.
template <class T, int N>
inline Vector<T, N> keep_last(Vector<T, N> v, int64_t n) {
  typedef typename VectorOf<T, 1>::Type One;
  alignas(64) One lanes[N];
  store_bits(lanes, v);
  for (int64_t lane = 0; lane < N - n; ++lane) lanes[lane] = One(0);
  return load_bits<Vector<T, N>>(lanes);
}

// Two sums in several accumulators each, so that an addition need not wait for the one before.
template <class T>
struct PlaneSums {
  static constexpr int N = kLanes<T>;
  static constexpr int kMany = 4;
  Vector<T, N> first[kMany] = {}, second[kMany] = {};

  // `jump` elements on lies what will be added next.
  template <class Term>
  void add(const Term& term, int64_t n, T center, int64_t jump) {
    const Vector<T, N> c = fill<T, N>(center);
    Vector<T, N> a[kMany], b[kMany];
    for (int k = 0; k < kMany; ++k) a[k] = first[k], b[k] = second[k];
    constexpr Part kOne = Term::kAnyOrder ? kSome : kLow, kOther = Term::kAnyOrder ? kOthers : kHigh;
    constexpr int64_t kSize = sizeof(typename Term::Read), kAhead = kBytesAhead / kSize;
    int64_t j = 0;
    for (; j + kMany * N <= n; j += kMany * N) {
      const int64_t ahead = j + kAhead < n ? j + kAhead : j + kAhead - n + jump;
      for (int64_t line = 0; line < kMany * N; line += 64 / kSize) term.fetch_at(0, ahead + line);
#pragma GCC unroll 4
      for (int k = 0; k < kMany; k += 2) {
        const Pair<T, N> one = term.template at<N, kOne>(0, j + k * N, c);
        const Pair<T, N> other = term.template at<N, kOther>(0, j + k * N, c);
        a[k] += one.first;
        b[k] += one.first * one.second;
        a[k + 1] += other.first;
        b[k + 1] += other.first * other.second;
      }
    }
    for (; j + N <= n; j += N) {
      const Pair<T, N> pair = term.template at<N>(0, j, c);
      a[0] += pair.first;
      b[0] += pair.first * pair.second;
    }
    if (j < n && n >= N) {
      const Pair<T, N> pair = term.template at<N>(0, n - N, c);
      a[1] += keep_last<T, N>(pair.first, n - j);
      b[1] += keep_last<T, N>(pair.first * pair.second, n - j);
      j = n;
    }
    for (; j < n; ++j) {
      const Pair<T, 1> pair = term.template at<1>(0, j, center);
      a[0][0] += pair.first;
      b[0][0] += pair.first * pair.second;
    }
    for (int k = 0; k < kMany; ++k) first[k] = a[k], second[k] = b[k];
  }

  double sum_first() const { return sum_lanes<T, N>((first[0] + first[1]) + (first[2] + first[3])); }
  double sum_second() const { return sum_lanes<T, N>((second[0] + second[1]) + (second[2] + second[3])); }
};

// Call visit(offset, weight_offset, n) for the pieces of a block's first channel.
template <class Visit>
inline void each_piece(const Block& b, Visit visit) {
  for (int64_t o = 0; o < b.segments; ++o) {
    for (int64_t m = 0; m < b.rows; ++m) {
      const int64_t x = o * b.segment_stride + m * b.row_stride, w = o * b.weight_stride + m * b.inner;
      for (int64_t i = 0; i < b.inner; i += kPiece) visit(x + i, w + i, smaller(kPiece, b.inner - i));
    }
  }
}

// The same from the last piece to the first: what was read last is still in the cache.
template <class Visit>
inline void each_piece_backwards(const Block& b, Visit visit) {
  for (int64_t o = b.segments - 1; o >= 0; --o) {
    for (int64_t m = b.rows - 1; m >= 0; --m) {
      const int64_t x = o * b.segment_stride + m * b.row_stride, w = o * b.weight_stride + m * b.inner;
      for (int64_t i = (b.inner - 1) / kPiece * kPiece; i >= 0; i -= kPiece) {
        visit(x + i, w + i, smaller(kPiece, b.inner - i));
      }
    }
  }
}

}  // namespace
}  // namespace batchnorm
