#include "tensorflow/recipe.h"

#include <cstring>

namespace batchnorm::tf {
namespace {

constexpr int kMostAxes = 256;

int64_t read_number(TF_OpKernelConstruction* construction, const char* name, TF_Status* status) {
  int64_t number = 0;
  if (TF_GetCode(status) == TF_OK && TF_OpKernelConstruction_HasAttr(construction, name, status)) {
    TF_OpKernelConstruction_GetAttrInt64(construction, name, &number, status);
  }
  return number;
}

double read_double(TF_OpKernelConstruction* construction, const char* name, TF_Status* status) {
  const int64_t bits = read_number(construction, name, status);
  double number;
  std::memcpy(&number, &bits, sizeof bits);
  return number;
}

// Whether an optional input or output is there, of which there are 1 or 0.
bool is_counted(TF_OpKernelConstruction* construction, const char* name, TF_Status* status) {
  const int64_t number = read_number(construction, name, status);
  if (TF_GetCode(status) == TF_OK && number > 1) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT, "scale, shift, residual and pulled are one tensor each, or none");
  }
  return number == 1;
}

void read_epilogue(TF_OpKernelConstruction* construction, Recipe* recipe, TF_Status* status) {
  recipe->residual = is_counted(construction, "residuals", status);
  recipe->shifted = is_counted(construction, "shifts", status);
  recipe->keeps = is_counted(construction, "keeps", status);
  recipe->slope = read_double(construction, "slope_bits", status);
  const int64_t activation = read_number(construction, "activation", status);
  if (TF_GetCode(status) != TF_OK) return;
  if (activation < BN_IDENTITY || activation > BN_TANH) {
    return TF_SetStatus(status, TF_INVALID_ARGUMENT, "there is no activation of this number");
  }
  recipe->activation = int(activation);
  const bool derived = TF_OpKernelConstruction_HasAttr(construction, "shifts", status);
  if (TF_GetCode(status) == TF_OK && derived && recipe->shifted != (activation != BN_IDENTITY)) {
    return TF_SetStatus(status, TF_INVALID_ARGUMENT, "the derivative of an activation, and only that, takes a shift");
  }
  if (TF_GetCode(status) == TF_OK && derived && !recipe->shifted && (recipe->residual || recipe->keeps)) {
    return TF_SetStatus(status, TF_INVALID_ARGUMENT, "without an activation, the residual's gradient is dy");
  }
}

// Whether an optional input is there: a list of types with one entry.
bool is_given(TF_OpKernelConstruction* construction, const char* name, const Recipe& recipe, TF_Status* status) {
  if (TF_GetCode(status) != TF_OK || !TF_OpKernelConstruction_HasAttr(construction, name, status)) return false;
  int32_t listed = 0, ignored = 0;
  TF_OpKernelConstruction_GetAttrSize(construction, name, &listed, &ignored, status);
  if (TF_GetCode(status) != TF_OK || listed == 0) return false;
  TF_DataType type = recipe.statistic;
  if (listed == 1) TF_OpKernelConstruction_GetAttrTypeList(construction, name, &type, 1, status);
  if (TF_GetCode(status) == TF_OK && (listed > 1 || type != recipe.statistic)) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT, "gamma, beta and weights are one tensor of the statistics' type, or none");
  }
  return true;
}

}  // namespace

void read_recipe(TF_OpKernelConstruction* construction, Recipe* recipe, TF_Status* status) {
  TF_OpKernelConstruction_GetAttrType(construction, "T", &recipe->element, status);
  if (TF_GetCode(status) != TF_OK) return;
  int32_t listed = 0, ignored = 0;
  TF_OpKernelConstruction_GetAttrSize(construction, "bounds", &listed, &ignored, status);
  if (TF_GetCode(status) != TF_OK) return;
  if (listed != 6) return TF_SetStatus(status, TF_INVALID_ARGUMENT, "bounds must be 6 numbers");
  TF_OpKernelConstruction_GetAttrInt64List(construction, "bounds", recipe->bounds, 6, status);
  recipe->statistic = recipe->element == TF_DOUBLE ? TF_DOUBLE : TF_FLOAT;
  recipe->type = recipe->element == TF_DOUBLE     ? BN_FLOAT64
                 : recipe->element == TF_BFLOAT16 ? BN_BFLOAT16
                 : recipe->element == TF_HALF     ? BN_FLOAT16
                                                  : BN_FLOAT32;
  recipe->ghost_order = read_number(construction, "ghost_order", status);
  recipe->ghost_size = read_number(construction, "ghost_size", status);
  recipe->weighted = is_given(construction, "weight_types", *recipe, status);
  recipe->weights_by_group = read_number(construction, "weights_by_group", status) != 0;
  recipe->scaled = is_given(construction, "gamma_types", *recipe, status);
  recipe->centered = is_given(construction, "beta_types", *recipe, status);
  recipe->of_sample = read_number(construction, "of_sample", status) != 0;
  recipe->epsilon = read_double(construction, "epsilon_bits", status);
  read_epilogue(construction, recipe, status);
}

std::string find_sizes(const Recipe& recipe, const TF_Tensor* x, Sizes* sizes) {
  int rank = TF_NumDims(x);
  if (rank > kMostAxes) return "x has too many axes";
  int64_t shape[kMostAxes + 1];
  int64_t* end = shape;
  int ghost_axis = -1;
  int first = 0;
  sizes->ghosts = 1;
  if (recipe.ghost_order != kNoGhosts) {
    const int64_t batch = rank > 0 ? TF_Dim(x, 0) : 0, size = recipe.ghost_size;
    if (rank < 1 || size < 1) return "ghosts need a batch axis, and a size of at least 1";
    if (batch % size != 0) {
      const std::string asked = std::to_string(size);
      return "ghost batches of " + asked + " examples were asked for. Their size must divide the batch size, which is " +
             std::to_string(batch) + ". Use batches of a multiple of " + asked + ", or another ghost size";
    }
    const bool interleaved = recipe.ghost_order == kInterleaved;
    sizes->ghosts = batch / size;
    ghost_axis = interleaved ? 1 : 0;
    *end++ = interleaved ? size : sizes->ghosts;
    *end++ = interleaved ? sizes->ghosts : size;
    first = 1;
  }
  for (int axis = first; axis < rank; ++axis) *end++ = TF_Dim(x, axis);

  const int64_t* bounds = recipe.bounds;
  if (bounds[0] != 0 || bounds[5] != end - shape) return "the runs do not fit the rank of x";
  int64_t runs[5];
  sizes->channels = 1;
  for (int run = 0; run < 5; ++run) {
    if (bounds[run] > bounds[run + 1]) return "the runs are out of order";
    runs[run] = 1;
    for (int64_t axis = bounds[run]; axis < bounds[run + 1]; ++axis) {
      runs[run] *= shape[axis];
      if ((run == 1 || run == 3) && axis != ghost_axis) sizes->channels *= shape[axis];
    }
  }
  sizes->runs = {runs[0], runs[1], runs[2], runs[3], runs[4]};
  return {};
}

}  // namespace batchnorm::tf
