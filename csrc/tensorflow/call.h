// One run of one op: its inputs, its outputs, and what went wrong.
#pragma once

#include <vector>

#include "tensorflow/recipe.h"

namespace batchnorm::tf {

class Call {
 public:
  Call(const Recipe& recipe, TF_OpKernelContext* context);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const Recipe& recipe() const { return recipe_; }
  const bn_sizes* runs() const { return &sizes_.runs; }
  int64_t channels() const { return sizes_.channels; }
  // How many numbers each statistic is taken over.
  int64_t count() const { return sizes_.runs.outer * sizes_.runs.middle * sizes_.runs.inner; }
  bool failed() const { return failed_; }

  // Find the sizes by the input that holds x. To be called first.
  void plan(int input_of_x);

  // An input of as many numbers as the first, or as there are statistics, channels or weights.
  const void* large(int input);
  const void* statistic(int input);
  const void* per_channel(int input);
  const void* weights(int input);

  // What follows the affine map, with the residual, if any, from this input; null if nothing does.
  const bn_epilogue* epilogue(int input_of_residual);

  // An output of x's shape, or [ghosts, channels], or [ghosts, 1] where weights differ by group and else [1, 1].
  void* new_large(int output);
  void* new_statistic(int output);
  void* new_total(int output);
  // [channels] and [3, channels].
  void* new_per_channel(int output);
  void* new_averages(int output);

  // The status of a kernel.
  void finish(int status);

 private:
  const void* input(int index, int64_t elements);
  void* output(int index, TF_DataType type, const int64_t* shape, int rank);
  void fail(TF_Code code, const char* message);

  const Recipe& recipe_;
  TF_OpKernelContext* context_;
  TF_Status* status_;
  TF_Tensor* x_ = nullptr;
  Sizes sizes_{};
  bn_epilogue epilogue_{};
  bool failed_ = false;
  std::vector<TF_Tensor*> held_;
};

// How many threads may work on a call: what the process was told, or the processors it may use.
int threads();

}  // namespace batchnorm::tf
