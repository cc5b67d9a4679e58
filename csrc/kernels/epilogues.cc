// The kernels with an activation and a residual, for one instruction set. Apart from isa.cc, so that the compiler has as
// much room for each.
#include "kernels/epilogue.h"

namespace batchnorm {
namespace {

// Write finish(affine term, its offset).
template <class Element, class Finish>
void write_affine(const Block& b, const Element* x, const Stat<Element>* mean, const Stat<Element>* scale,
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
      const int64_t in_line = rows_in_line<Element>(part, kNarrowestWritten);
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
           const Epilogue& epilogue, void* y, bool streaming, int64_t ahead) {
  typedef Stat<Element> T;
  const Element* residual = static_cast<const Element*>(epilogue.residual);
  with_activation<T>(epilogue, [&](auto act) {
    write_affine(b, static_cast<const Element*>(x), static_cast<const T*>(mean), static_cast<const T*>(scale),
                 static_cast<const T*>(shift), static_cast<Element*>(y), streaming, ahead,
                 [=](const auto& affine, int64_t at) { return activated(affine, moved(residual, at), act); });
  });
}

template <class Element>
void grad_sums(const Block& b, const void* dy, const void* x, const void* mean, const Epilogue& epilogue,
               const void* scale, const void* shift, void* pulled, double* first, double* second) {
  typedef Stat<Element> T;
  with_activation<T>(epilogue, [&](auto act) {
    const PullsThrough<Element, decltype(act)> pulls{static_cast<const Element*>(dy),
                                                     static_cast<const Element*>(epilogue.residual),
                                                     static_cast<Element*>(pulled),
                                                     static_cast<const T*>(scale),
                                                     static_cast<const T*>(shift),
                                                     act};
    sum_pulls(b, pulls, static_cast<const Element*>(x), static_cast<const T*>(mean), first, second);
  });
}

template <class Element>
void grad_input(const Block& b, const void* dy, const void* x, const void* mean, const void* slope, const void* tilt,
                const void* offset, const Epilogue& epilogue, const void* shift, void* dx, bool streaming) {
  typedef Stat<Element> T;
  const InputTerms<T> known{static_cast<const T*>(mean), static_cast<const T*>(slope), static_cast<const T*>(tilt),
                            static_cast<const T*>(offset)};
  with_activation<T>(epilogue, [&](auto act) {
    const PullsThrough<Element, decltype(act)> pulls{
        static_cast<const Element*>(dy), nullptr, nullptr, known.slope, static_cast<const T*>(shift), act};
    const T* no_weights = nullptr;
    write_input(b, pulls, static_cast<const Element*>(x), no_weights, known, static_cast<Element*>(dx), streaming);
  });
}

template <class Element>
constexpr EpilogueKernels kernels() {
  return {apply<Element>, grad_sums<Element>, grad_input<Element>};
}

}  // namespace

extern const EpilogueKernels BATCHNORM_TABLE(BATCHNORM_ISA, _epilogues)[kElementTypes];
const EpilogueKernels BATCHNORM_TABLE(BATCHNORM_ISA, _epilogues)[kElementTypes] = {
    kernels<float>(), kernels<double>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace batchnorm
