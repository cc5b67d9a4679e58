// What one call of a kernel works on: some rows of some channels of one group.
#pragma once

#include <cstdint>

namespace batchnorm {

// x[segment, row, channel, position] lies at segment*segment_stride + row*row_stride + channel*inner + position, in
// elements, after the pointer that comes with the block. Weights w[segment, row, position] lie at
// segment*weight_stride + row*inner + position.
struct Block {
  int64_t segments, segment_stride;
  int64_t rows, row_stride;
  int64_t channels, inner;
  int64_t weight_stride;

  int64_t count() const { return segments * rows * inner; }
};

// Weight that went into a statistic, the same for all channels of a block.
struct Weight {
  double total = 0.0;
  double squares = 0.0;
};

enum Activation {
  kIdentity,
  kRelu,
  kRelu6,
  kLeakyRelu,
  kHardTanh,
  kHardSwish,
  kSilu,
  kGelu,
  kGeluTanh,
  kSigmoid,
  kTanh,
  kActivations
};

// What follows the affine map: act(u), u = (x - mean) * scale + shift + residual. The residual lies as x does, or is
// null.
struct Epilogue {
  int activation;
  double slope;
  const void* residual;
};

enum ElementType { kFloat32, kFloat64, kBFloat16, kFloat16, kElementTypes };

// The kernels for one element type. Large arrays are of that type, `const void*` statistics of its statistics' type.
struct Kernels {
  // Mean and sum of squared deviations of each channel; returns the total of the weights, where there are any.
  double (*moments)(const Block&, const void* x, const void* weights, double* mean, double* squares);
  // Sum of the weights' squares.
  double (*weight_squares)(const Block&, const void* weights);
  // y = (x - mean) * scale + shift. `stream` writes past the caches; `ahead` elements on lies what will likely be read
  // next, which is fetched on the way, 0 where nobody knows.
  void (*apply)(const Block&, const void* x, const void* mean, const void* scale, const void* shift, void* y,
                bool stream, int64_t ahead);
  // Sum of dy and sum of dy * (x - mean).
  void (*grad_sums)(const Block&, const void* dy, const void* x, const void* mean, double* first, double* second);
  // dx = slope * dy + w * (tilt * (x - mean) + offset).
  void (*grad_input)(const Block&, const void* dy, const void* x, const void* weights, const void* mean,
                     const void* slope, const void* tilt, const void* offset, void* dx, bool stream);
};

// The same with an epilogue: y = act(u), and h = act'(u) * dy in place of dy.
struct EpilogueKernels {
  void (*apply)(const Block&, const void* x, const void* mean, const void* scale, const void* shift, const Epilogue&,
                void* y, bool stream, int64_t ahead);
  // `pulled`, if not null, takes h.
  void (*grad_sums)(const Block&, const void* dy, const void* x, const void* mean, const Epilogue&, const void* scale,
                    const void* shift, void* pulled, double* first, double* second);
  // There are no weights and no residual, and the scale is the slope.
  void (*grad_input)(const Block&, const void* dy, const void* x, const void* mean, const void* slope,
                     const void* tilt, const void* offset, const Epilogue&, const void* shift, void* dx, bool stream);
};

// The kernels compiled for one instruction set.
struct Isa {
  const char* name;
  Kernels kernels[kElementTypes];
  const EpilogueKernels* epilogues;  // one for each type
  // Moments of a whole from those of its two parts, for some channels; the first part becomes the whole.
  void (*merge)(int64_t channels, Weight* weight, double* mean, double* squares, Weight other_weight,
                const double* other_mean, const double* other_squares);
};

// The name of an instruction set's table.
#define BATCHNORM_TABLE_OF(isa, table) isa##table
#define BATCHNORM_TABLE(isa, table) BATCHNORM_TABLE_OF(isa, table)

}  // namespace batchnorm
