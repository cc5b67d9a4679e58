// The kernels for one instruction set: this file and epilogues.cc are compiled once for each, with BATCHNORM_ISA naming
// it.
#include "kernels/moments_planes.h"
#include "kernels/passes.h"

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
      const int64_t in_line = rows_in_line<Element>(part, kNarrowestWritten);
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
  sum_pulls(b, GivenPulls<Element>{static_cast<const Element*>(dy)}, static_cast<const Element*>(x),
            static_cast<const Stat<Element>*>(mean), first, second);
}

template <class Element>
void grad_input(const Block& b, const void* dy, const void* x, const void* weights, const void* mean, const void* slope,
                const void* tilt, const void* offset, void* dx, bool streaming) {
  typedef Stat<Element> T;
  const InputTerms<T> known{static_cast<const T*>(mean), static_cast<const T*>(slope), static_cast<const T*>(tilt),
                            static_cast<const T*>(offset)};
  write_input(b, GivenPulls<Element>{static_cast<const Element*>(dy)}, static_cast<const Element*>(x),
              static_cast<const T*>(weights), known, static_cast<Element*>(dx), streaming);
}

template <class Element>
constexpr Kernels kernels() {
  return {moments<Element>, weight_squares<Element>, apply<Element>, grad_sums<Element>, grad_input<Element>};
}

}  // namespace

#define BATCHNORM_NAME_OF(isa) #isa
#define BATCHNORM_NAME(isa) BATCHNORM_NAME_OF(isa)

extern const EpilogueKernels BATCHNORM_TABLE(BATCHNORM_ISA, _epilogues)[kElementTypes];
extern const Isa BATCHNORM_TABLE(BATCHNORM_ISA, _isa);
const Isa BATCHNORM_TABLE(BATCHNORM_ISA, _isa) = {
    BATCHNORM_NAME(BATCHNORM_ISA),
    {kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()},
    BATCHNORM_TABLE(BATCHNORM_ISA, _epilogues),
    merge,
};

}  // namespace batchnorm
