// The ops: what each is called, takes and gives, and which kernel it runs. Registered when the library is loaded.
//
// T is the type of large arrays and U that of statistics, which are [ghosts, channels]. gamma, beta and weights may be
// absent: each is a list of one tensor or none. The list has types of its own, as an empty one could not tell U.
//
// The ops named Plain do everything that a layer without options needs in a TensorFlow 1 graph, which runs node
// by node, so each further node costs time at small sizes. Their statistics are [channels].
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <vector>

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
  call.finish(bn_apply(call.recipe().type, call.runs(), x, in[0], in[1], in[2], nullptr, y, threads()));
}

void grad_sums(Call& call) {
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1), *mean = call.statistic(2);
  void* out[] = {call.new_statistic(0), call.new_statistic(1)};
  if (call.failed()) return;
  call.finish(bn_grad_sums(call.recipe().type, call.runs(), dy, x, mean, nullptr, nullptr, nullptr, nullptr, out[0],
                           out[1], threads()));
}

void grad_input(Call& call) {
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1);
  const void* in[] = {call.statistic(2), call.statistic(3), call.statistic(4), call.statistic(5)};
  const void* weights = call.recipe().weighted ? call.weights(6) : nullptr;
  void* dx = call.new_large(0);
  if (call.failed()) return;
  call.finish(bn_grad_input(call.recipe().type, call.runs(), dy, x, weights, call.recipe().weights_by_group, in[0],
                            in[1], in[2], in[3], nullptr, nullptr, dx, threads()));
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
  call.finish(bn_train(recipe.type, call.runs(), x, gamma, beta, call.channels(), recipe.epsilon, nullptr, out[0],
                       out[1], out[2], out[3], out[4], nullptr, threads()));
}

// What the moving averages take, as [3, channels]: the mean, the variance (times N / (N - 1) if of_sample) and N. They
// are one array, since each array passes through the nodes of two conditions.
template <typename U>
void tell_averages(const Call& call, const void* mean, const void* variance, void* averages) {
  const int64_t channels = call.channels();
  const double count = double(call.count());
  const double factor = !call.recipe().of_sample ? 1 : count > 1 ? count / (count - 1) : 0;
  const U* in = static_cast<const U*>(variance);
  U* out = std::copy_n(static_cast<const U*>(mean), channels, static_cast<U*>(averages));
  out = std::transform(in, in + channels, out, [factor](U value) { return U(value * factor); });
  std::fill_n(out, channels, U(count));
}

// The gradients of plain_infer with respect to its inputs per channel, and the scale for that of x. `sums` and
// `centered` hold the sums of dy and dy * (x - mean), and become the gradients of beta and gamma.
template <typename U>
void finish_infer_gradients(const Call& call, const void* variance, const void* gamma, void* sums, void* centered,
                            void* scale, void* dmean, void* dvariance) {
  for (int64_t channel = 0; channel < call.channels(); ++channel) {
    const double inverse = 1 / std::sqrt(double(static_cast<const U*>(variance)[channel]) + call.recipe().epsilon);
    const double factor = gamma == nullptr ? 1 : double(static_cast<const U*>(gamma)[channel]);
    U* product = static_cast<U*>(centered) + channel;
    static_cast<U*>(scale)[channel] = U(factor * inverse);
    static_cast<U*>(dmean)[channel] = U(-factor * inverse * double(static_cast<const U*>(sums)[channel]));
    static_cast<U*>(dvariance)[channel] = U(-0.5 * factor * inverse * inverse * inverse * double(*product));
    *product = U(inverse * double(*product));
  }
}

void gradients(Call& call) {
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1);
  const void* in[] = {call.statistic(2), call.statistic(3), call.statistic(4), call.statistic(5)};
  void* out[] = {call.new_large(0), call.new_statistic(1), call.new_statistic(2)};
  if (call.failed()) return;
  call.finish(bn_gradients(call.recipe().type, call.runs(), dy, x, in[0], in[1], in[2], in[3],
                           call.recipe().epsilon, nullptr, nullptr, nullptr, out[0], out[1], out[2], threads()));
}

void plain_train(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(0);
  const void* x = call.large(0);
  const void* gamma = recipe.scaled ? call.per_channel(1) : nullptr;
  const void* beta = recipe.centered ? call.per_channel(recipe.scaled ? 2 : 1) : nullptr;
  void* out[] = {call.new_large(0),       call.new_per_channel(1), call.new_per_channel(2),
                 call.new_per_channel(3), call.new_per_channel(4), call.new_averages(5)};
  if (call.failed()) return;
  const int status = bn_train(recipe.type, call.runs(), x, gamma, beta, call.channels(), recipe.epsilon, nullptr,
                              out[0], out[1], out[2], out[3], out[4], nullptr, threads());
  if (recipe.statistic == TF_DOUBLE) {
    tell_averages<double>(call, out[1], out[3], out[5]);
  } else {
    tell_averages<float>(call, out[1], out[3], out[5]);
  }
  call.finish(status);
}

void plain_gradients(Call& call) {
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1);
  const void* in[] = {call.per_channel(2), call.per_channel(3), call.per_channel(4), call.per_channel(5)};
  void* out[] = {call.new_large(0), call.new_per_channel(1), call.new_per_channel(2)};
  if (call.failed()) return;
  call.finish(bn_gradients(call.recipe().type, call.runs(), dy, x, in[0], in[1], in[2], in[3], call.recipe().epsilon,
                           nullptr, nullptr, nullptr, out[0], out[1], out[2], threads()));
}

void plain_infer(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(0);
  const void *x = call.large(0), *mean = call.per_channel(1), *variance = call.per_channel(2);
  const void* gamma = recipe.scaled ? call.per_channel(3) : nullptr;
  const void* beta = recipe.centered ? call.per_channel(recipe.scaled ? 4 : 3) : nullptr;
  void* y = call.new_large(0);
  if (call.failed()) return;
  call.finish(bn_infer(recipe.type, call.runs(), x, gamma, beta, call.channels(), mean, variance, recipe.epsilon,
                       nullptr, y, threads()));
}

void plain_infer_gradients(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1), *mean = call.per_channel(2), *variance = call.per_channel(3);
  const void* gamma = recipe.scaled ? call.per_channel(4) : nullptr;
  void* out[] = {call.new_large(0), call.new_per_channel(1), call.new_per_channel(2), call.new_per_channel(3),
                 call.new_per_channel(4)};
  if (call.failed()) return;
  const size_t bytes = size_t(call.channels()) * (recipe.statistic == TF_DOUBLE ? 8 : 4);
  std::vector<char> scale(bytes), zero(bytes);
  int status = bn_grad_sums(recipe.type, call.runs(), dy, x, mean, nullptr, nullptr, nullptr, nullptr, out[1], out[2],
                            threads());
  if (recipe.statistic == TF_DOUBLE) {
    finish_infer_gradients<double>(call, variance, gamma, out[1], out[2], scale.data(), out[3], out[4]);
  } else {
    finish_infer_gradients<float>(call, variance, gamma, out[1], out[2], scale.data(), out[3], out[4]);
  }
  if (status == BN_OK) {
    status = bn_apply(recipe.type, call.runs(), dy, zero.data(), scale.data(), zero.data(), nullptr, out[0], threads());
  }
  call.finish(status);
}

// Shapes. A C shape function may ask for the shapes of an op's inputs but not for its attributes, so the sizes of
// statistics are left open; whoever builds a graph knows them and sets them. But TensorFlow's optimizer learns shapes
// from these functions alone, and if it knows the shape of statistics, it leaves out what is zero anyway.

enum Kind { kLarge, kStatistic, kPerChannel, kAverages };

void set_shape(TF_ShapeInferenceContext* context, int output, Kind kind, int input_of_x, TF_Status* status) {
  const bool shows_channels = TF_ShapeInferenceContextNumInputs(context) > input_of_x + 1;
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  if (kind == kLarge) {
    TF_ShapeInferenceContextGetInput(context, input_of_x, shape, status);
  } else if (kind == kPerChannel && shows_channels) {
    // The inputs after x, if any, are [channels].
    TF_ShapeInferenceContextGetInput(context, input_of_x + 1, shape, status);
  } else if (kind == kPerChannel) {
    TF_DeleteShapeHandle(shape);
    shape = TF_ShapeInferenceContextVectorFromSize(context, size_t(-1));
  } else if (kind == kAverages) {
    TF_ShapeHandle* three = TF_ShapeInferenceContextVectorFromSize(context, 3);
    TF_ShapeHandle* channels = TF_ShapeInferenceContextVectorFromSize(context, size_t(-1));
    if (shows_channels) TF_ShapeInferenceContextGetInput(context, input_of_x + 1, channels, status);
    if (TF_GetCode(status) == TF_OK) {
      TF_ShapeInferenceContextConcatenateShapes(context, three, channels, shape, status);
    }
    TF_DeleteShapeHandle(three);
    TF_DeleteShapeHandle(channels);
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
constexpr const char* kGamma = "gamma_types: list({float, double}) >= 0";
constexpr const char* kBeta = "beta_types: list({float, double}) >= 0";

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
                {kGamma, kBeta, kEpsilon},
                set_shapes<0, kLarge, kStatistic, kStatistic, kStatistic, kStatistic>);
  add_op<gradients>("BatchnormKernelsGradients",
                    {"dy: T", "x: T", "mean: U", "rest: U", "variance: U", "scale: U"},
                    {"dx: T", "dy_sum: U", "dy_xhat_sum: U"}, {kEpsilon},
                    set_shapes<1, kLarge, kStatistic, kStatistic>);
  add_op<plain_train>(
      "BatchnormKernelsPlainTrain", {"x: T", "gamma: gamma_types", "beta: beta_types"},
      {"y: T", "mean: U", "rest: U", "variance: U", "scale: U", "averages: U"},
      {kGamma, kBeta, kEpsilon, "of_sample: int = 0"},
      set_shapes<0, kLarge, kPerChannel, kPerChannel, kPerChannel, kPerChannel, kAverages>);
  // gamma is there only for the derivative of this op.
  add_op<plain_gradients>("BatchnormKernelsPlainGradients",
                          {"dy: T", "x: T", "mean: U", "rest: U", "variance: U", "scale: U", "gamma: gamma_types"},
                          {"dx: T", "dbeta: U", "dgamma: U"}, {kGamma, kEpsilon},
                          set_shapes<1, kLarge, kPerChannel, kPerChannel>);
  add_op<plain_infer>("BatchnormKernelsPlainInfer",
                      {"x: T", "mean: U", "variance: U", "gamma: gamma_types", "beta: beta_types"}, {"y: T"},
                      {kGamma, kBeta, kEpsilon}, set_shapes<0, kLarge>);
  add_op<plain_infer_gradients>("BatchnormKernelsPlainInferGradients",
                                {"dy: T", "x: T", "mean: U", "variance: U", "gamma: gamma_types"},
                                {"dx: T", "dbeta: U", "dgamma: U", "dmean: U", "dvariance: U"}, {kGamma, kEpsilon},
                                set_shapes<1, kLarge, kPerChannel, kPerChannel, kPerChannel, kPerChannel>);
  return true;
}();

}  // namespace
}  // namespace batchnorm::tf
