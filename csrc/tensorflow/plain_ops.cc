// The ops named Plain do everything that a layer without options needs in a TensorFlow 1 graph, which runs node
// by node, so each further node costs time at small sizes. Their statistics are [channels].
#include <algorithm>
#include <cmath>
#include <vector>

#include "tensorflow/register.h"

namespace batchnorm::tf {
namespace {

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

// What bn_train added to (x - mean) * scale.
template <typename U>
void find_shift(const Call& call, const void* beta, const void* rest, const void* scale, void* shift) {
  for (int64_t channel = 0; channel < call.channels(); ++channel) {
    const U added = beta == nullptr ? U(0) : static_cast<const U*>(beta)[channel];
    const U moved = static_cast<const U*>(rest)[channel] * static_cast<const U*>(scale)[channel];
    static_cast<U*>(shift)[channel] = added - moved;
  }
}

void plain_gradients(Call& call) {
  const Recipe& recipe = call.recipe();
  call.plan(1);
  const void *dy = call.large(0), *x = call.large(1);
  const void* in[] = {call.per_channel(2), call.per_channel(3), call.per_channel(4), call.per_channel(5)};
  const void* beta = recipe.centered ? call.per_channel(recipe.scaled ? 7 : 6) : nullptr;
  const bn_epilogue* epilogue = call.epilogue(-1);
  void* out[] = {call.new_large(0), call.new_per_channel(1), call.new_per_channel(2)};
  if (call.failed()) return;
  std::vector<double> shift(epilogue == nullptr ? 0 : size_t(call.channels()));
  if (epilogue != nullptr && recipe.statistic == TF_DOUBLE) find_shift<double>(call, beta, in[1], in[3], shift.data());
  if (epilogue != nullptr && recipe.statistic == TF_FLOAT) find_shift<float>(call, beta, in[1], in[3], shift.data());
  call.finish(bn_gradients(recipe.type, call.runs(), dy, x, in[0], in[1], in[2], in[3], recipe.epsilon, epilogue,
                           shift.data(), nullptr, out[0], out[1], out[2], threads()));
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

const bool registered = [] {
  add_op<plain_train>(
      "BatchnormKernelsPlainTrain", {"x: T", "gamma: gamma_types", "beta: beta_types"},
      {"y: T", "mean: U", "rest: U", "variance: U", "scale: U", "averages: U"},
      {kGamma, kBeta, kEpsilon, "of_sample: int = 0"},
      set_shapes<0, kLarge, kPerChannel, kPerChannel, kPerChannel, kPerChannel, kAverages>);
  // gamma is there only for the derivative of this op. With an activation, dy is the gradient of its result.
  add_op<plain_gradients>("BatchnormKernelsPlainGradients",
                          {"dy: T", "x: T", "mean: U", "rest: U", "variance: U", "scale: U", "gamma: gamma_types",
                           "beta: beta_types"},
                          {"dx: T", "dbeta: U", "dgamma: U"},
                          {kGamma, kEpsilon, kActivation, kSlope, "beta_types: list({float, double}) >= 0 = []"},
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
