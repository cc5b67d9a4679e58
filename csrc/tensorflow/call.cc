#include "tensorflow/call.h"

#include <atomic>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace batchnorm::tf {
namespace {

std::atomic<int> told{0};

int processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const int number = int(std::thread::hardware_concurrency());
  return number > 0 ? number : 1;
}

size_t bytes_of(TF_DataType type) { return type == TF_DOUBLE ? 8 : type == TF_FLOAT ? 4 : 2; }

}  // namespace

int threads() {
  const int number = told.load(std::memory_order_relaxed);
  static const int all = processors();
  return number > 0 ? number : all;
}

Call::Call(const Recipe& recipe, TF_OpKernelContext* context)
    : recipe_(recipe), context_(context), status_(TF_NewStatus()) {
  held_.reserve(12);
}

Call::~Call() {
  for (TF_Tensor* tensor : held_) TF_DeleteTensor(tensor);
  TF_DeleteStatus(status_);
}

void Call::fail(TF_Code code, const char* message) {
  if (failed_) return;
  failed_ = true;
  if (message != nullptr) TF_SetStatus(status_, code, message);
  TF_OpKernelContext_Failure(context_, status_);
}

void Call::plan(int input_of_x) {
  TF_GetInput(context_, input_of_x, &x_, status_);
  if (TF_GetCode(status_) != TF_OK) return fail(TF_INTERNAL, nullptr);
  held_.push_back(x_);
  const std::string wrong = find_sizes(recipe_, x_, &sizes_);
  if (!wrong.empty()) fail(TF_INVALID_ARGUMENT, wrong.c_str());
}

const void* Call::input(int index, int64_t elements) {
  if (failed_) return nullptr;
  TF_Tensor* tensor = nullptr;
  TF_GetInput(context_, index, &tensor, status_);
  if (TF_GetCode(status_) != TF_OK) return fail(TF_INTERNAL, nullptr), nullptr;
  held_.push_back(tensor);
  if (TF_TensorElementCount(tensor) != elements) {
    return fail(TF_INVALID_ARGUMENT, "an input has another number of elements than the shape of x asks for"), nullptr;
  }
  return TF_TensorData(tensor);
}

const void* Call::large(int index) { return input(index, failed_ ? 0 : TF_TensorElementCount(x_)); }

const void* Call::statistic(int index) { return input(index, sizes_.statistics()); }

const void* Call::per_channel(int index) { return input(index, sizes_.channels); }

const void* Call::weights(int index) {
  const bn_sizes& runs = sizes_.runs;
  return input(index, runs.outer * (recipe_.weights_by_group ? runs.group : 1) * runs.middle * runs.inner);
}

const bn_epilogue* Call::epilogue(int input_of_residual) {
  if (recipe_.activation == BN_IDENTITY && !recipe_.residual) return nullptr;
  epilogue_ = {recipe_.activation, recipe_.slope, recipe_.residual ? large(input_of_residual) : nullptr};
  return &epilogue_;
}

void* Call::output(int index, TF_DataType type, const int64_t* shape, int rank) {
  if (failed_) return nullptr;
  size_t bytes = bytes_of(type);
  for (int axis = 0; axis < rank; ++axis) bytes *= size_t(shape[axis]);
  TF_Tensor* tensor = TF_AllocateOutput(context_, index, type, shape, rank, bytes, status_);
  if (TF_GetCode(status_) != TF_OK) return fail(TF_RESOURCE_EXHAUSTED, nullptr), nullptr;
  held_.push_back(tensor);
  return TF_TensorData(tensor);
}

void* Call::new_large(int index) {
  if (failed_) return nullptr;
  std::vector<int64_t> shape;
  for (int axis = 0; axis < TF_NumDims(x_); ++axis) shape.push_back(TF_Dim(x_, axis));
  return output(index, recipe_.element, shape.data(), int(shape.size()));
}

void* Call::new_statistic(int index) {
  const int64_t shape[] = {sizes_.ghosts, sizes_.channels};
  return output(index, recipe_.statistic, shape, 2);
}

void* Call::new_total(int index) {
  const int64_t shape[] = {recipe_.weights_by_group ? sizes_.ghosts : 1, 1};
  return output(index, recipe_.statistic, shape, 2);
}

void* Call::new_per_channel(int index) { return output(index, recipe_.statistic, &sizes_.channels, 1); }

void* Call::new_averages(int index) {
  const int64_t shape[] = {3, sizes_.channels};
  return output(index, recipe_.statistic, shape, 2);
}

void Call::finish(int status) {
  switch (status) {
    case BN_OK:
      return;
    case BN_NO_MEMORY:
      return fail(TF_RESOURCE_EXHAUSTED, "batchnorm kernels: no memory");
    case BN_BAD_SIZE:
      return fail(TF_INVALID_ARGUMENT, "batchnorm kernels: a size is negative, or the array is too large to address");
    case BN_BAD_EPILOGUE:
      return fail(TF_INVALID_ARGUMENT,
                  "batchnorm kernels: with weights or a residual, the gradient of x needs what was kept in `pulled`");
    default:
      return fail(TF_INTERNAL, "batchnorm kernels: no such element type or instruction set");
  }
}

}  // namespace batchnorm::tf

// How many threads may work on a call; 0 stands for all the processors that the process may use.
extern "C" __attribute__((visibility("default"))) void batchnorm_tensorflow_set_threads(int number) {
  batchnorm::tf::told.store(number, std::memory_order_relaxed);
}
