// The ops on single passes and whole steps: what each is called, takes and gives, and which kernel it runs. Registered
// when the library is loaded.
//
// T is the type of large arrays and U that of statistics, which are [ghosts, channels]. gamma, beta and weights may be
// absent: each is a list of one tensor or none. The list has types of its own, as an empty one could not tell U. The
// residual and what its gradient needs are lists of a number of tensors, 1 or 0: T and U are told by others.
//
// Ops with an activation compute what bn_epilogue describes; `pulled` is act'(u) * dy, the gradient of the residual.
#include "tensorflow/register.h"

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
  const bn_epilogue* epilogue = call.epilogue(4);
  void* y = call.new_large(0);
  if (call.failed()) return;
  call.finish(bn_apply(call.recipe().type, call.runs(), x, in[0], in[1], in[2], epilogue, y, threads()));
}

void grad_sums(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1), *mean = call.statistic(2);
  const void* scale = recipe.shifted ? call.statistic(3) : nullptr;
  const void* shift = recipe.shifted ? call.statistic(4) : nullptr;
  const bn_epilogue* epilogue = call.epilogue(recipe.shifted ? 5 : 3);
  void* out[] = {call.new_statistic(0), call.new_statistic(1)};
  void* pulled = recipe.keeps ? call.new_large(2) : nullptr;
  if (call.failed()) return;
  call.finish(bn_grad_sums(recipe.type, call.runs(), dy, x, mean, epilogue, scale, shift, pulled, out[0], out[1],
                           threads()));
}

void grad_input(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1);
  const void* in[] = {call.statistic(2), call.statistic(3), call.statistic(4), call.statistic(5)};
  const void* weights = recipe.weighted ? call.weights(6) : nullptr;
  const void* shift = recipe.shifted ? call.statistic(recipe.weighted ? 7 : 6) : nullptr;
  const bn_epilogue* epilogue = call.epilogue(-1);
  void* dx = call.new_large(0);
  if (call.failed()) return;
  call.finish(bn_grad_input(recipe.type, call.runs(), dy, x, weights, recipe.weights_by_group, in[0], in[1], in[2],
                            in[3], epilogue, shift, dx, threads()));
}

void train(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(0);
  int next = 0;
  const void* x = call.large(next++);
  const void* gamma = recipe.scaled ? call.per_channel(next++) : nullptr;
  const void* beta = recipe.centered ? call.per_channel(next++) : nullptr;
  const bn_epilogue* epilogue = call.epilogue(next);
  void* out[] = {call.new_large(0), call.new_statistic(1), call.new_statistic(2), call.new_statistic(3),
                 call.new_statistic(4)};
  if (call.failed()) return;
  call.finish(bn_train(recipe.type, call.runs(), x, gamma, beta, call.channels(), recipe.epsilon, epilogue, out[0],
                       out[1], out[2], out[3], out[4], nullptr, threads()));
}

void gradients(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1);
  const void* in[] = {call.statistic(2), call.statistic(3), call.statistic(4), call.statistic(5)};
  const void* shift = recipe.shifted ? call.statistic(6) : nullptr;
  const bn_epilogue* epilogue = call.epilogue(recipe.shifted ? 7 : 6);
  void* out[] = {call.new_large(0), call.new_statistic(1), call.new_statistic(2)};
  void* pulled = recipe.keeps ? call.new_large(3) : nullptr;
  if (call.failed()) return;
  call.finish(bn_gradients(recipe.type, call.runs(), dy, x, in[0], in[1], in[2], in[3], recipe.epsilon, epilogue, shift,
                           pulled, out[0], out[1], out[2], threads()));
}

const bool registered = [] {
  add_op<moments>("BatchnormKernelsMoments", {"x: T", "weights: weight_types"},
                  {"total: U", "effective: U", "mean: U", "rest: U", "variance: U"}, {kWeighted, kByGroup},
                  set_shapes<0, kStatistic, kStatistic, kStatistic, kStatistic, kStatistic>);
  add_op<apply>("BatchnormKernelsApply", {"x: T", "mean: U", "scale: U", "shift: U", "residual: residuals * T"},
                {"y: T"}, {kActivation, kSlope, kResidual}, set_shapes<0, kLarge>);
  add_op<grad_sums>(
      "BatchnormKernelsGradSums",
      {"dy: T", "x: T", "mean: U", "scale: shifts * U", "shift: shifts * U", "residual: residuals * T"},
      {"dy_sum: U", "dy_centered_sum: U", "pulled: keeps * T"}, {kActivation, kSlope, kShift, kResidual, kPulled},
      set_shapes<1, kStatistic, kStatistic, kOptionalLarge>);
  add_op<grad_input>("BatchnormKernelsGradInput",
                     {"dy: T", "x: T", "mean: U", "slope: U", "tilt: U", "offset: U", "weights: weight_types",
                      "shift: shifts * U"},
                     {"dx: T"}, {kWeighted, kByGroup, kActivation, kSlope, kShift}, set_shapes<1, kLarge>);
  add_op<train>("BatchnormKernelsTrain",
                {"x: T", "gamma: gamma_types", "beta: beta_types", "residual: residuals * T"},
                {"y: T", "mean: U", "rest: U", "variance: U", "scale: U"},
                {kGamma, kBeta, kEpsilon, kActivation, kSlope, kResidual},
                set_shapes<0, kLarge, kStatistic, kStatistic, kStatistic, kStatistic>);
  add_op<gradients>("BatchnormKernelsGradients",
                    {"dy: T", "x: T", "mean: U", "rest: U", "variance: U", "scale: U", "shift: shifts * U",
                     "residual: residuals * T"},
                    {"dx: T", "dy_sum: U", "dy_xhat_sum: U", "pulled: keeps * T"},
                    {kEpsilon, kActivation, kSlope, kShift, kResidual, kPulled},
                    set_shapes<1, kLarge, kStatistic, kStatistic, kOptionalLarge>);
  return true;
}();

}  // namespace
}  // namespace batchnorm::tf
