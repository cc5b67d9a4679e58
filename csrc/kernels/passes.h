// The passes of the gradients over a block, by columns or by planes. What stands for dy is a parameter: isa.cc has dy
// itself, epilogues.cc has what an activation leaves of it.
#pragma once

#include "kernels/grad_columns.h"
#include "kernels/planes.h"

namespace batchnorm {
namespace {

// dy of a block, from which passes take what they need for a plane or for some columns.
template <class Element>
struct GivenPulls {
  static constexpr bool kGiven = true;
  static constexpr int64_t kNarrowestLine = kNarrowest;
  const Element* dy;

  Given<Element> in_plane(int64_t) const { return {dy}; }
  Given<Element> in_columns(const Block&, int64_t, int64_t, Line<Stat<Element>>*) const { return {dy}; }
};

template <class Element, class Pulls>
inline void sum_pulls(const Block& b, const Pulls& pulls, const Element* x, const Stat<Element>* mean, double* first,
               double* second) {
  typedef Stat<Element> T;
  for (int64_t c = 0; c < b.channels; ++c) first[c] = second[c] = 0.0;
  if (b.count() == 0) return;
  if (is_plane(b)) {
    for (int64_t c = 0; c < b.channels; ++c) {
      const auto dy = pulls.in_plane(c);
      PlaneSums<T> sums;
      int64_t pending = 0;
      const auto flush = [&] {
        first[c] += sums.sum_first();
        second[c] += sums.sum_second();
        sums = PlaneSums<T>();
        pending = 0;
      };
      each_piece(b, [&](int64_t at, int64_t, int64_t n) {
        at += c * b.inner;
        const Pull<Element, decltype(dy.from(at))> pull{dy.from(at), x + at, 0};
        sums.add(pull, n, mean[c], n == b.inner ? b.row_stride : n);
        pending += n;
        if (pending >= kPiece) flush();
      });
      flush();
    }
    return;
  }
  each_part(b, [&](const Block& part, int64_t c) {
    Line<T> rooms[2];
    const auto dy = pulls.in_columns(part, c, rows_in_line<Element>(part), rooms).from(c * b.inner);
    typedef ColumnSums<Element, decltype(dy.from(0))> Sums;
    Sums(part, dy, x + c * b.inner, mean + c, first + c, second + c).run();
  });
}

// What the gradient of the input takes from the channels.
template <class T>
struct InputTerms {
  const T *mean, *slope, *tilt, *offset;
};

template <class Element, class Pulls>
inline void write_input(const Block& b, const Pulls& pulls, const Element* x, const Stat<Element>* weights,
                 const InputTerms<Stat<Element>>& known, Element* dx, bool streaming) {
  typedef Stat<Element> T;
  if (b.count() == 0) return;
  if (is_plane(b)) {
    for (int64_t c = 0; c < b.channels; ++c) {
      const auto dy = pulls.in_plane(c);
      each_piece_backwards(b, [&](int64_t at, int64_t at_weight, int64_t n) {
        at += c * b.inner;
        const Input<Element, Same, decltype(dy.from(at))> input{
            dy.from(at), x + at, {known.mean[c]}, {known.slope[c]}, {known.tilt[c]}, {known.offset[c]}};
        if constexpr (Pulls::kGiven) {
          if (weights != nullptr) {
            return write(WeightedInput<Element, Same, PlaneWeights>{input, {weights + at_weight}}, n, dx + at,
                         streaming);
          }
        }
        write(input, n, dx + at, streaming);
      });
    }
  } else {
    each_part(b, [&](const Block& part, int64_t c) {
      const Order order = weights == nullptr ? Order::kNone : weight_order<Element>(part);
      const int64_t in_line = order == Order::kByRow || order == Order::kCycle
                                  ? 1
                                  : rows_in_line<Element>(part, Pulls::kNarrowestLine);
      Line<T> rooms[6], each;
      const Row<T> m{as_columns(part, in_line, known.mean + c, &rooms[0])};
      const Row<T> s{as_columns(part, in_line, known.slope + c, &rooms[1])};
      const Row<T> t{as_columns(part, in_line, known.tilt + c, &rooms[2])};
      const Row<T> o{as_columns(part, in_line, known.offset + c, &rooms[3])};
      const auto dy = pulls.in_columns(part, c, in_line, &rooms[4]);
      each_run(part, in_line, [&](int64_t at, int64_t at_weight, int64_t lines, int64_t stride, int64_t rows) {
        at += c * part.inner;
        const int64_t width = rows * part.channels * part.inner, jump = stride == width ? 0 : stride;
        for (int64_t line = 0; line < lines; ++line, at += stride, at_weight += rows * part.inner) {
          const Input<Element, Row, decltype(dy.from(at))> input{dy.from(at), x + at, m, s, t, o};
          const auto put = [&](const auto& term) { write(term, width, dx + at, streaming, jump); };
          if constexpr (Pulls::kGiven) {
            const T* w = weights + at_weight;
            if (order == Order::kByRow) {
              put(WeightedInput<Element, Row, RowWeights>{input, {w}});
              continue;
            } else if (order == Order::kCycle) {
              typename CycleWeights<Element>::template Room<1> room;
              put(WeightedInput<Element, Row, CycleWeights>{input, CycleWeights<Element>(&room, w, part.inner)});
              continue;
            } else if (order == Order::kEach) {
              expand_weights(part, rows, w, each.values);
              put(WeightedInput<Element, Row, ColumnWeights>{input, {each.values}});
              continue;
            }
          }
          put(input);
        }
      });
    });
  }
  if (streaming) finish_streams();
}

}  // namespace
}  // namespace batchnorm
