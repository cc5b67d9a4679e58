// The kernels for one instruction set: this file is compiled once for each, with BATCHNORM_ISA naming it.
#include "kernels/epilogue.h"
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

// Write finish(affine term, its offset).
template <class Element, class Finish>
void apply_and(const Block& b, const Element* x, const Stat<Element>* mean, const Stat<Element>* scale,
               const Stat<Element>* shift, Element* y, bool streaming, int64_t ahead, Finish finish) {
  typedef Stat<Element> T;
  if (is_plane(b)) {
    for (int64_t c = 0; c < b.channels; ++c) {
      const Same<T> m{mean[c]}, a{scale[c]}, s{shift[c]};
      each_piece_backwards(b, [&](int64_t at, int64_t, int64_t n) {
        at += c * b.inner;
        write(finish(Affine<Element, Same>{x + at, m, a, s}, at), n, y + at, streaming, 0, ahead);
      });
    }
  } else {
    each_part(b, [&](const Block& part, int64_t c) {
      const int64_t in_line = rows_in_line<Element>(part);
      Line<T> rooms[3];
      const Row<T> m{as_columns(part, in_line, mean + c, &rooms[0])};
      const Row<T> a{as_columns(part, in_line, scale + c, &rooms[1])};
      const Row<T> s{as_columns(part, in_line, shift + c, &rooms[2])};
      each_run(part, in_line, [&](int64_t at, int64_t, int64_t lines, int64_t stride, int64_t rows) {
        at += c * part.inner;
        const int64_t width = rows * part.channels * part.inner, jump = stride == width ? 0 : stride;
        for (int64_t line = 0; line < lines; ++line, at += stride) {
          write(finish(Affine<Element, Row>{x + at, m, a, s}, at), width, y + at, streaming, jump);
        }
      });
    });
  }
  if (streaming) finish_streams();
}

template <class Element, template <class> class Known, class Act>
Activated<Element, Known, Act> activated(const Affine<Element, Known>& affine, const Element* residual, Act act) {
  return {affine, residual, act};
}

template <class Element>
void apply(const Block& b, const void* x, const void* mean, const void* scale, const void* shift,
           const Epilogue* epilogue, void* y, bool streaming, int64_t ahead) {
  typedef Stat<Element> T;
  const auto run = [&](auto finish) {
    apply_and(b, static_cast<const Element*>(x), static_cast<const T*>(mean), static_cast<const T*>(scale),
              static_cast<const T*>(shift), static_cast<Element*>(y), streaming, ahead, finish);
  };
  if (b.count() == 0) return;
  if (epilogue == nullptr) return run([](const auto& affine, int64_t) { return affine; });
  const Element* residual = static_cast<const Element*>(epilogue->residual);
  with_activation<T>(*epilogue, [&](auto act) {
    run([=](const auto& affine, int64_t at) { return activated(affine, moved(residual, at), act); });
  });
}

template <class Element, class Pulls>
void sum_pulls(const Block& b, const Pulls& pulls, const Element* x, const Stat<Element>* mean, double* first,
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

template <class Element>
void grad_sums(const Block& b, const void* dy, const void* x, const void* mean, const Epilogue* epilogue,
               const void* scale, const void* shift, void* pulled, double* first, double* second) {
  typedef Stat<Element> T;
  const Element* given = static_cast<const Element*>(dy);
  const auto run = [&](const auto& pulls) {
    sum_pulls(b, pulls, static_cast<const Element*>(x), static_cast<const T*>(mean), first, second);
  };
  if (epilogue == nullptr) return run(GivenPulls<Element>{given});
  with_activation<T>(*epilogue, [&](auto act) {
    run(PullsThrough<Element, decltype(act)>{given, static_cast<const Element*>(epilogue->residual),
                                             static_cast<Element*>(pulled), static_cast<const T*>(scale),
                                             static_cast<const T*>(shift), act});
  });
}

// What is known of the channels.
template <class T>
struct InputTerms {
  const T *mean, *slope, *tilt, *offset;
};

template <class Element, class Pulls>
void write_input(const Block& b, const Pulls& pulls, const Element* x, const Stat<Element>* weights,
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
      const int64_t in_line = order == Order::kByRow || order == Order::kCycle ? 1 : rows_in_line<Element>(part);
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

template <class Element>
void grad_input(const Block& b, const void* dy, const void* x, const void* weights, const void* mean, const void* slope,
                const void* tilt, const void* offset, const Epilogue* epilogue, const void* shift, void* dx,
                bool streaming) {
  typedef Stat<Element> T;
  const Element* given = static_cast<const Element*>(dy);
  const T *w = static_cast<const T*>(weights), *scale = static_cast<const T*>(slope);
  const InputTerms<T> known{static_cast<const T*>(mean), scale, static_cast<const T*>(tilt),
                            static_cast<const T*>(offset)};
  const auto run = [&](const auto& pulls) {
    write_input(b, pulls, static_cast<const Element*>(x), w, known, static_cast<Element*>(dx), streaming);
  };
  if (epilogue == nullptr) return run(GivenPulls<Element>{given});
  with_activation<T>(*epilogue, [&](auto act) {
    run(PullsThrough<Element, decltype(act)>{given, nullptr, nullptr, scale, static_cast<const T*>(shift), act});
  });
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
