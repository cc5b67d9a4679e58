// The ops: what each is called, takes and gives, and which kernel it runs. Registered when the library is loaded.
//
// T is the type of large arrays and U that of statistics, which are [ghosts, channels]. gamma, beta and weights may be
// absent: each is a list of one tensor or none. The list has types of its own, as an empty one could not tell U.
#include <cstdio>
#include <initializer_list>

#include "tensorflow/call.h"

namespace batchnorm::tf {
namespace {

void moments(Call& call) {
  const bool weighted = call.recipe().weighted;
  call.plan(0);
  const void* x = call.large(0);
  const void* weights = weighted ? call.weights(1) : nullptr;
  void* out[] = {call.new_total(0), call.new_total(1), call.new_statistic(2), call.new_statistic(3),
                 call.new_statistic(4)};
  if (call.failed()) return;
  call.finish(bn_moments(call.recipe().type, call.runs(), x, weights, call.recipe().weights_by_group, out[0], out[1],
                         out[2], out[3], out[4], threads()));
}

void apply(Call& call) {
  call.plan(0);
  const void* x = call.large(0);
  const void* in[] = {call.statistic(1), call.statistic(2), call.statistic(3)};
  void* y = call.new_large(0);
  if (call.failed()) return;
  call.finish(bn_apply(call.recipe().type, call.runs(), x, in[0], in[1], in[2], y, threads()));
}

void grad_sums(Call& call) {
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1), *mean = call.statistic(2);
  void* out[] = {call.new_statistic(0), call.new_statistic(1)};
  if (call.failed()) return;
  call.finish(bn_grad_sums(call.recipe().type, call.runs(), dy, x, mean, out[0], out[1], threads()));
}

void grad_input(Call& call) {
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1);
  const void* in[] = {call.statistic(2), call.statistic(3), call.statistic(4), call.statistic(5)};
  const void* weights = call.recipe().weighted ? call.weights(6) : nullptr;
  void* dx = call.new_large(0);
  if (call.failed()) return;
  call.finish(bn_grad_input(call.recipe().type, call.runs(), dy, x, weights, call.recipe().weights_by_group, in[0],
                            in[1], in[2], in[3], dx, threads()));
}

void train(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(0);
  const void* x = call.large(0);
  const void* gamma = recipe.scaled ? call.per_channel(1) : nullptr;
  const void* beta = recipe.centered ? call.per_channel(recipe.scaled ? 2 : 1) : nullptr;
  void* out[] = {call.new_large(0), call.new_statistic(1), call.new_statistic(2), call.new_statistic(3),
                 call.new_statistic(4)};
  if (call.failed()) return;
  call.finish(bn_train(recipe.type, call.runs(), x, gamma, beta, call.channels(), recipe.epsilon, out[0], out[1],
                       out[2], out[3], out[4], threads()));
}

void gradients(Call& call) {
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1);
  const void* in[] = {call.statistic(2), call.statistic(3), call.statistic(4), call.statistic(5)};
  void* out[] = {call.new_large(0), call.new_statistic(1), call.new_statistic(2)};
  if (call.failed()) return;
  call.finish(bn_gradients(call.recipe().type, call.runs(), dy, x, in[0], in[1], in[2], in[3],
                           call.recipe().epsilon, out[0], out[1], out[2], threads()));
}

// Shapes. What a C shape function may ask of an op is its inputs' shapes and no attribute, so the sizes of statistics
// are left open; whoever builds a graph knows them and says so.

enum Kind { kLarge, kStatistic };

void set_shape(TF_ShapeInferenceContext* context, int output, Kind kind, int input_of_x, TF_Status* status) {
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  if (kind == kLarge) {
    TF_ShapeInferenceContextGetInput(context, input_of_x, shape, status);
  } else {
    // One unknown size for both would tell the graph's optimizer that there are as many groups as channels.
    TF_ShapeHandle* groups = TF_ShapeInferenceContextVectorFromSize(context, size_t(-1));
    TF_ShapeHandle* channels = TF_ShapeInferenceContextVectorFromSize(context, size_t(-1));
    TF_ShapeInferenceContextConcatenateShapes(context, groups, channels, shape, status);
    TF_DeleteShapeHandle(groups);
    TF_DeleteShapeHandle(channels);
  }
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetOutput(context, output, shape, status);
  TF_DeleteShapeHandle(shape);
}

template <int input_of_x, Kind... kinds>
void set_shapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  int output = 0;
  for (Kind kind : {kinds...}) {
    set_shape(context, output++, kind, input_of_x, status);
    if (TF_GetCode(status) != TF_OK) return;
  }
}

// Kernels.

void* create(TF_OpKernelConstruction* construction) {
  TF_Status* status = TF_NewStatus();
  Recipe* recipe = new Recipe;
  read_recipe(construction, recipe, status);
  if (TF_GetCode(status) != TF_OK) {
    TF_OpKernelConstruction_Failure(construction, status);
    delete recipe;
    recipe = nullptr;
  }
  TF_DeleteStatus(status);
  return recipe;
}

void destroy(void* recipe) { delete static_cast<Recipe*>(recipe); }

template <void (*body)(Call&)>
void compute(void* recipe, TF_OpKernelContext* context) {
  Call call(*static_cast<const Recipe*>(recipe), context);
  body(call);
}

// Registration.

using List = std::initializer_list<const char*>;

void report(const char* name, const TF_Status* status) {
  if (TF_GetCode(status) != TF_OK) std::fprintf(stderr, "batchnorm: %s: %s\n", name, TF_Message(status));
}

template <void (*body)(Call&)>
void add_op(const char* name, List inputs, List outputs, List attributes,
            void (*shapes)(TF_ShapeInferenceContext*, TF_Status*)) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(op, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(op, output);
  TF_OpDefinitionBuilderAddAttr(op, "T: {float, double, bfloat16, half}");
  TF_OpDefinitionBuilderAddAttr(op, "U: {float, double}");
  TF_OpDefinitionBuilderAddAttr(op, "bounds: list(int)");
  TF_OpDefinitionBuilderAddAttr(op, "ghost_order: int = 0");
  TF_OpDefinitionBuilderAddAttr(op, "ghost_size: int = 0");
  for (const char* attribute : attributes) TF_OpDefinitionBuilderAddAttr(op, attribute);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, shapes);
  TF_RegisterOpDefinition(op, status);
  report(name, status);
  for (TF_DataType type : {TF_FLOAT, TF_DOUBLE, TF_BFLOAT16, TF_HALF}) {
    TF_KernelBuilder* kernel = TF_NewKernelBuilder(name, "CPU", create, compute<body>, destroy);
    TF_KernelBuilder_TypeConstraint(kernel, "T", type, status);
    TF_KernelBuilder_TypeConstraint(kernel, "U", type == TF_DOUBLE ? TF_DOUBLE : TF_FLOAT, status);
    TF_RegisterKernelBuilder(name, kernel, status);
    report(name, status);
  }
  TF_DeleteStatus(status);
}

constexpr const char* kWeighted = "weight_types: list({float, double}) >= 0";
constexpr const char* kByGroup = "weights_by_group: int = 0";
// Attributes have no wider float than 32 bits.
constexpr const char* kEpsilon = "epsilon_bits: int";

const bool registered = [] {
  add_op<moments>("BatchnormKernelsMoments", {"x: T", "weights: weight_types"},
                  {"total: U", "effective: U", "mean: U", "rest: U", "variance: U"}, {kWeighted, kByGroup},
                  set_shapes<0, kStatistic, kStatistic, kStatistic, kStatistic, kStatistic>);
  add_op<apply>("BatchnormKernelsApply", {"x: T", "mean: U", "scale: U", "shift: U"}, {"y: T"}, {},
                set_shapes<0, kLarge>);
  add_op<grad_sums>("BatchnormKernelsGradSums", {"dy: T", "x: T", "mean: U"}, {"dy_sum: U", "dy_centered_sum: U"}, {},
                    set_shapes<1, kStatistic, kStatistic>);
  add_op<grad_input>(
      "BatchnormKernelsGradInput",
      {"dy: T", "x: T", "mean: U", "slope: U", "tilt: U", "offset: U", "weights: weight_types"}, {"dx: T"},
      {kWeighted, kByGroup}, set_shapes<1, kLarge>);
  add_op<train>("BatchnormKernelsTrain", {"x: T", "gamma: gamma_types", "beta: beta_types"},
                {"y: T", "mean: U", "rest: U", "variance: U", "scale: U"},
                {"gamma_types: list({float, double}) >= 0", "beta_types: list({float, double}) >= 0", kEpsilon},
                set_shapes<0, kLarge, kStatistic, kStatistic, kStatistic, kStatistic>);
  add_op<gradients>("BatchnormKernelsGradients",
                    {"dy: T", "x: T", "mean: U", "rest: U", "variance: U", "scale: U"},
                    {"dx: T", "dy_sum: U", "dy_xhat_sum: U"}, {kEpsilon},
                    set_shapes<1, kLarge, kStatistic, kStatistic>);
  return true;
}();

}  // namespace
}  // namespace batchnorm::tf
