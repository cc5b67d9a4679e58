// The functions that XLA calls: which buffers each takes and gives, in order, and which kernel it runs.
//
// Statistics are [ghosts, channels] throughout. Python finds the functions by name and registers them.
#include "jax/call.h"

namespace batchnorm::xla {
namespace {

// x, [weights] -> total, effective, mean, rest, variance
int moments(Call& call) {
  const void *x = call.input(), *weights = call.input(0);
  void *total = call.output(), *effective = call.output(), *mean = call.output(), *rest = call.output(),
       *variance = call.output();
  return bn_moments(int(call.recipe().type), call.sizes(), x, weights, int(call.recipe().weights_by_group), total,
                    effective, mean, rest, variance, call.threads());
}

// x, mean, scale, shift, [residual] -> y
int apply(Call& call) {
  const void *x = call.input(), *mean = call.input(), *scale = call.input(), *shift = call.input(),
             *residual = call.input(0);
  return bn_apply(int(call.recipe().type), call.sizes(), x, mean, scale, shift, call.epilogue(residual), call.output(),
                  call.threads());
}

// dy, x, mean -> dy_sum, dy_centered_sum
int grad_sums(Call& call) {
  const void *dy = call.input(), *x = call.input(), *mean = call.input();
  void *first = call.output(), *second = call.output();
  return bn_grad_sums(int(call.recipe().type), call.sizes(), dy, x, mean, nullptr, nullptr, nullptr, nullptr, first,
                      second, call.threads());
}

// dy, x, mean, slope, tilt, offset, [weights] -> dx
int grad_input(Call& call) {
  const void *dy = call.input(), *x = call.input(), *mean = call.input(), *slope = call.input(), *tilt = call.input(),
             *offset = call.input(), *weights = call.input(0);
  return bn_grad_input(int(call.recipe().type), call.sizes(), dy, x, weights, int(call.recipe().weights_by_group),
                       mean, slope, tilt, offset, nullptr, nullptr, call.output(), call.threads());
}

// x, [gamma], [beta], [residual] -> y, mean, rest, variance, scale
int train(Call& call) {
  const Recipe& recipe = call.recipe();
  const void *x = call.input(), *gamma = call.input(0), *beta = call.input(1), *residual = call.input(2);
  void *y = call.output(), *mean = call.output(), *rest = call.output(), *variance = call.output(),
       *scale = call.output();
  return bn_train(int(recipe.type), call.sizes(), x, gamma, beta, recipe.channels, recipe.epsilon(),
                  call.epilogue(residual), y, mean, rest, variance, scale, nullptr, call.threads());
}

// dy, x, mean, rest, variance, scale, [shift], [residual] -> dx, sum of h, sum of h * xhat, [h]
int gradients(Call& call) {
  const void *dy = call.input(), *x = call.input(), *mean = call.input(), *rest = call.input(),
             *variance = call.input(), *scale = call.input(), *shift = call.input(0), *residual = call.input(1);
  void *dx = call.output(), *sums = call.output(), *products = call.output(),
       *pulled = residual == nullptr ? nullptr : call.output();
  return bn_gradients(int(call.recipe().type), call.sizes(), dy, x, mean, rest, variance, scale, call.recipe().epsilon(),
                      call.epilogue(residual), shift, pulled, dx, sums, products, call.threads());
}

xla::Error* handle(const xla::CallFrame& frame, int (*body)(Call&), int inputs, int outputs, int more) {
  if (answer_metadata(frame)) return nullptr;
  Call call(frame, inputs, outputs, more);
  if (!call.is_valid()) return call.fail(xla::kInvalidArgument, "batchnorm kernels: a call of another form than made");
  return call.finish(body(call));
}

}  // namespace
}  // namespace batchnorm::xla

// Inputs that are always there, outputs, and which optional input has an output of its own, -1 for none.
#define TARGET(name, inputs, outputs, more)                                                      \
  extern "C" __attribute__((visibility("default"))) batchnorm::xla::Error* batchnorm_jax_##name( \
      const batchnorm::xla::CallFrame* frame) {                                                  \
    return batchnorm::xla::handle(*frame, batchnorm::xla::name, inputs, outputs, more);          \
  }

TARGET(moments, 1, 5, -1)
TARGET(apply, 4, 1, -1)
TARGET(grad_sums, 3, 2, -1)
TARGET(grad_input, 6, 1, -1)
TARGET(train, 1, 5, -1)
TARGET(gradients, 6, 3, 1)
