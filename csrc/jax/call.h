// One call by XLA: the recipe that came with it, its buffers, and what went wrong.
#pragma once

#include "include/batchnorm_kernels.h"
#include "jax/xla_ffi.h"

namespace batchnorm::xla {

// What Python says of a call, as one array of int64 in this order.
struct Recipe {
  int64_t type;              // bn_type of the large arrays
  int64_t runs[5];           // [outer, group, middle, channel, inner]
  int64_t channels;          // of gamma and beta
  int64_t present;           // bit k: optional input k, of three, is there
  int64_t weights_by_group;  // whether weights differ along the second run
  int64_t epsilon_bits;      // a double
  int64_t activation;        // bn_activation
  int64_t slope_bits;        // a double: of leaky_relu

  double epsilon() const;
  double slope() const;
  bool has(int optional) const { return (present >> optional) & 1; }
};

class Call {
 public:
  // With so many inputs, besides the optional ones, and outputs, and one more output if `more` optional input is there.
  Call(const xla::CallFrame& frame, int inputs, int outputs, int more);

  // Whether the recipe could be read, and as many buffers came.
  bool is_valid() const { return recipe_ != nullptr; }

  const Recipe& recipe() const { return *recipe_; }
  const bn_sizes* sizes() const { return &sizes_; }

  // The next input; null for an optional one that is not there.
  const void* input() { return frame_.arguments.items[argument_++]->data; }
  const void* input(int optional) { return recipe_->has(optional) ? input() : nullptr; }
  // What follows the affine map, with this residual; null for nothing.
  const bn_epilogue* epilogue(const void* residual);
  void* output() { return frame_.results.items[result_++]->data; }

  // As many threads as XLA has for the inside of an operation.
  int threads() const;

  // What to tell XLA of a kernel's status; null where all is well.
  xla::Error* finish(int status) const;
  xla::Error* fail(xla::ErrorCode code, const char* message) const;

 private:
  const xla::CallFrame& frame_;
  const Recipe* recipe_ = nullptr;
  bn_sizes sizes_{};
  bn_epilogue epilogue_{};
  int argument_ = 0, result_ = 0;
};

// Tell XLA which interface this was built for, where it asks; whether it did.
bool answer_metadata(const xla::CallFrame& frame);

}  // namespace batchnorm::xla
