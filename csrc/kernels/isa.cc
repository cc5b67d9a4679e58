// The kernels for one instruction set: this file is compiled once for each, with BATCHNORM_ISA naming it.
#include "kernels/grad_columns.h"
#include "kernels/moments_planes.h"

namespace batchnorm {
namespace {

template <class Element, bool weighted>
double plane_moments(const Block& b, const Element* x, const Stat<Element>* weights, double* mean, double* squares) {
  typedef PlaneMoments<Element, weighted> Moments;
  double weight = 0.0;
  for (int64_t c = 0; c < b.channels; c += Moments::kMost) {
    Block part = b;
    part.channels = smaller(Moments::kMost, b.channels - c);
    weight = Moments(part, x + c * b.inner, weights, mean + c, squares + c).run();
  }
  return weight;
}

template <class Element>
double moments(const Block& b, const void* x, const void* weights, double* mean, double* squares) {
  for (int64_t c = 0; c < b.channels; ++c) mean[c] = squares[c] = 0.0;
  if (b.count() == 0) return 0.0;
  const Element* from = static_cast<const Element*>(x);
  const Stat<Element>* w = static_cast<const Stat<Element>*>(weights);
  if (is_plane(b)) {
    return w == nullptr ? plane_moments<Element, false>(b, from, w, mean, squares)
                        : plane_moments<Element, true>(b, from, w, mean, squares);
  }
  double weight = 0.0;
  each_part(b, [&](const Block& part, int64_t c) {
    weight = ColumnMoments<Element>(part, from + c * b.inner, w, mean + c, squares + c).run();
  });
  return weight;
}

template <class Element>
double weight_squares(const Block& b, const void* weights) {
  const Stat<Element>* w = static_cast<const Stat<Element>*>(weights);
  double sum = 0.0;
  for (int64_t o = 0; o < b.segments; ++o) sum += sum_squares(w + o * b.weight_stride, b.rows * b.inner);
  return sum;
}

template <class Element>
void apply(const Block& b, const void* x, const void* mean, const void* scale, const void* shift, void* y,
           bool streaming, int64_t ahead) {
  typedef Stat<Element> T;
  const Element* from = static_cast<const Element*>(x);
  Element* to = static_cast<Element*>(y);
  const T *means = static_cast<const T*>(mean), *scales = static_cast<const T*>(scale),
          *shifts = static_cast<const T*>(shift);
  if (b.count() == 0) return;
  if (is_plane(b)) {
    for (int64_t c = 0; c < b.channels; ++c) {
      const Same<T> m{means[c]}, a{scales[c]}, s{shifts[c]};
      each_piece_backwards(b, [&](int64_t offset, int64_t, int64_t n) {
        offset += c * b.inner;
        write(Affine<Element, Same>{from + offset, m, a, s}, n, to + offset, streaming, 0, ahead);
      });
    }
  } else {
    each_part(b, [&](const Block& part, int64_t c) {
      const int64_t in_line = rows_in_line<Element>(part);
      Line<T> rooms[3];
      const Row<T> m{as_columns(part, in_line, means + c, &rooms[0])};
      const Row<T> a{as_columns(part, in_line, scales + c, &rooms[1])};
      const Row<T> s{as_columns(part, in_line, shifts + c, &rooms[2])};
      each_run(part, in_line, [&](int64_t offset, int64_t, int64_t lines, int64_t stride, int64_t rows) {
        offset += c * part.inner;
        const int64_t width = rows * part.channels * part.inner, jump = stride == width ? 0 : stride;
        for (int64_t line = 0; line < lines; ++line, offset += stride) {
          write(Affine<Element, Row>{from + offset, m, a, s}, width, to + offset, streaming, jump);
        }
      });
    });
  }
  if (streaming) finish_streams();
}

template <class Element>
void grad_sums(const Block& b, const void* dy, const void* x, const void* mean, double* first, double* second) {
  typedef Stat<Element> T;
  const Element *pulls = static_cast<const Element*>(dy), *from = static_cast<const Element*>(x);
  const T* means = static_cast<const T*>(mean);
  for (int64_t c = 0; c < b.channels; ++c) first[c] = second[c] = 0.0;
  if (b.count() == 0) return;
  if (is_plane(b)) {
    for (int64_t c = 0; c < b.channels; ++c) {
      PlaneSums<T> sums;
      int64_t pending = 0;
      const auto flush = [&] {
        first[c] += sums.sum_first();
        second[c] += sums.sum_second();
        sums = PlaneSums<T>();
        pending = 0;
      };
      each_piece(b, [&](int64_t offset, int64_t, int64_t n) {
        offset += c * b.inner;
        sums.add(Pull<Element>{pulls + offset, from + offset, 0}, n, means[c], n == b.inner ? b.row_stride : n);
        pending += n;
        if (pending >= kPiece) flush();
      });
      flush();
    }
    return;
  }
  each_part(b, [&](const Block& part, int64_t c) {
    ColumnSums<Element>(part, pulls + c * b.inner, from + c * b.inner, means + c, first + c, second + c).run();
  });
}

template <class Element>
void grad_input(const Block& b, const void* dy, const void* x, const void* weights, const void* mean, const void* slope,
                const void* tilt, const void* offset, void* dx, bool streaming) {
  typedef Stat<Element> T;
  const Element *pulls = static_cast<const Element*>(dy), *from = static_cast<const Element*>(x);
  Element* to = static_cast<Element*>(dx);
  const T *w = static_cast<const T*>(weights), *means = static_cast<const T*>(mean),
          *slopes = static_cast<const T*>(slope), *tilts = static_cast<const T*>(tilt),
          *offsets = static_cast<const T*>(offset);
  if (b.count() == 0) return;
  if (is_plane(b)) {
    for (int64_t c = 0; c < b.channels; ++c) {
      each_piece_backwards(b, [&](int64_t at, int64_t at_weight, int64_t n) {
        at += c * b.inner;
        const Input<Element, Same> input{pulls + at, from + at, {means[c]}, {slopes[c]}, {tilts[c]}, {offsets[c]}};
        if (w == nullptr) return write(input, n, to + at, streaming);
        write(WeightedInput<Element, Same, PlaneWeights>{input, {w + at_weight}}, n, to + at, streaming);
      });
    }
  } else {
    each_part(b, [&](const Block& part, int64_t c) {
      const Order order = w == nullptr ? Order::kNone : weight_order<Element>(part);
      const int64_t in_line = order == Order::kByRow || order == Order::kCycle ? 1 : rows_in_line<Element>(part);
      Line<T> rooms[4], each;
      const Row<T> m{as_columns(part, in_line, means + c, &rooms[0])};
      const Row<T> s{as_columns(part, in_line, slopes + c, &rooms[1])};
      const Row<T> t{as_columns(part, in_line, tilts + c, &rooms[2])};
      const Row<T> o{as_columns(part, in_line, offsets + c, &rooms[3])};
      each_run(part, in_line, [&](int64_t at, int64_t at_weight, int64_t lines, int64_t stride, int64_t rows) {
        at += c * part.inner;
        const int64_t width = rows * part.channels * part.inner, jump = stride == width ? 0 : stride;
        for (int64_t line = 0; line < lines; ++line, at += stride, at_weight += rows * part.inner) {
          const Input<Element, Row> input{pulls + at, from + at, m, s, t, o};
          if (order == Order::kNone) {
            write(input, width, to + at, streaming, jump);
          } else if (order == Order::kByRow) {
            write(WeightedInput<Element, Row, RowWeights>{input, {w + at_weight}}, width, to + at, streaming, jump);
          } else if (order == Order::kCycle) {
            typename CycleWeights<Element>::template Room<1> room;
            const CycleWeights<Element> cycle(&room, w + at_weight, part.inner);
            write(WeightedInput<Element, Row, CycleWeights>{input, cycle}, width, to + at, streaming, jump);
          } else {
            expand_weights(part, rows, w + at_weight, each.values);
            write(WeightedInput<Element, Row, ColumnWeights>{input, {each.values}}, width, to + at, streaming, jump);
          }
        }
      });
    });
  }
  if (streaming) finish_streams();
}

template <class Element>
constexpr Kernels kernels() {
  return {moments<Element>, weight_squares<Element>, apply<Element>, grad_sums<Element>, grad_input<Element>};
}

}  // namespace

#define BATCHNORM_NAME_OF(isa) #isa
#define BATCHNORM_NAME(isa) BATCHNORM_NAME_OF(isa)
#define BATCHNORM_TABLE_OF(isa) isa##_isa
#define BATCHNORM_TABLE(isa) BATCHNORM_TABLE_OF(isa)

extern const Isa BATCHNORM_TABLE(BATCHNORM_ISA);
const Isa BATCHNORM_TABLE(BATCHNORM_ISA) = {
    BATCHNORM_NAME(BATCHNORM_ISA),
    {kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()},
    merge,
};

}  // namespace batchnorm
