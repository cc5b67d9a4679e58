/* Batch normalization on CPU memory: what the bindings of every framework call.
 *
 * Memory. Every large array (x, y, dy, dx) is dense in row-major order and seen as five runs,
 *
 *     [outer, group, middle, channel, inner]
 *
 * where `group` and `channel` are kept (each pair has its own statistics) and the other three are reduced:
 *
 *     channels last        [N, H, W, C]               [1, 1, N*H*W, C, 1]
 *     channels first       [N, C, H, W]               [1, 1, N, C, H*W]
 *     ghosts, contiguous   [G*v, H, W, C]             [1, G, v*H*W, C, 1]
 *     ghosts, interleaved  [v*G, H, W, C]             [v, G, H*W, C, 1]
 *     both                 [v*G, C, H, W]             [v, G, 1, C, H*W]
 *     two axes apart       [N, H, W, C], axes (1, 3)  [N, H, W, C, 1]
 *
 * Not accepted: three or more kept runs apart from each other, and arrays with gaps; permute or copy those first.
 * A size may be 0: then nothing is read, and moments are 0. Outputs must not overlap inputs, and are written whole.
 *
 * Types. All large arrays of a call have one element type. Everything per channel is of the statistics' type, float
 * for elements of at most 32 bits and double for double, as one dense array of group*channel numbers, [group, channel]
 * in row-major order (gamma and beta: of `channels` numbers, see bn_train).
 *
 * Weights, where not null, are of the statistics' type, dense over [outer, group or 1, middle, inner] and the same for
 * all channels; `weights_by_group` says whether the second size is `group` (ghosts) or 1 (two channel axes).
 *
 * Threads. `threads` is the most that may work on the call, the calling one among them. The numbers do not depend on
 * it, nor on chance. Calls may come from several threads at once; one that finds the workers busy does its own work.
 * A negative number is as many threads of the team that bn_use_team named, if any.
 *
 * Every function returns BN_OK or says what is wrong; nothing is thrown. Sizes are 64 bits throughout.
 */
#ifndef BATCHNORM_KERNELS_H
#define BATCHNORM_KERNELS_H

#include <stdint.h>

#if defined(_WIN32)
#define BN_PUBLIC __declspec(dllexport)
#else
#define BN_PUBLIC __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum bn_status { BN_OK = 0, BN_BAD_TYPE = 1, BN_BAD_SIZE = 2, BN_NO_MEMORY = 3, BN_BAD_ISA = 4, BN_BAD_EPILOGUE = 5 };

enum bn_type { BN_FLOAT32 = 0, BN_FLOAT64 = 1, BN_BFLOAT16 = 2, BN_FLOAT16 = 3 };

typedef struct bn_sizes {
  int64_t outer, group, middle, channel, inner;
} bn_sizes;

enum bn_activation {
  BN_IDENTITY = 0,
  BN_RELU = 1,
  BN_RELU6 = 2,
  BN_LEAKY_RELU = 3,
  BN_HARD_TANH = 4,
  BN_HARD_SWISH = 5,
  BN_SILU = 6,
  BN_GELU = 7,      /* u * Phi(u), where Phi is the normal distribution's cumulative function */
  BN_GELU_TANH = 8, /* 0.5 u (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))) */
  BN_SIGMOID = 9,
  BN_TANH = 10
};

/* What follows the affine map in the same pass: y = act(u), u = (x - mean) * scale + shift + residual.
 *
 * `slope` is that of leaky_relu below zero, and the residual is an array like x, or null. A null epilogue is the
 * identity without a residual. At its kinks a clip (relu, relu6, hard_tanh) has the derivative 0, and leaky_relu its
 * slope. NaN in u gives NaN in y. So does minus infinity for hard_swish, silu and both gelus, as in the frameworks. The
 * derivative at a large finite u is 0 or 1 (leaky_relu: or its slope).
 *
 * u, act and act' are of the statistics' type, and y and h are rounded once to the element. Take e = 2^-24 for float
 * and 2^-53 for double. For any finite u, values are off by at most 8e times the value. Those of gelu_tanh, and of gelu
 * in double, are off by at most 8e times u, so that their left tails have fewer digits; so have values below 2^-116
 * (double: 2^-960). Derivatives are off by at most 8e. */
typedef struct bn_epilogue {
  int activation;
  double slope;
  const void* residual;
} bn_epilogue;

/* Mean and mean squared deviation, and the weights' totals. The mean comes in two parts: `mean` is rounded to the
 * statistics' type, and mean + rest is what was found. x - mean is exact near the mean, so that whoever minds the rest
 * loses no digits to a mean far from zero. bn_train and bn_gradients do.
 *
 * total and effective (either may be null) take W = sum of w and W*W / sum of w*w for each group, [group] of them or
 * one without `weights_by_group`; without weights both are the count. Where W is 0, mean and variance are 0, unless
 * x is not finite. The rest is always finite. */
BN_PUBLIC int bn_moments(int type, const bn_sizes* sizes, const void* x, const void* weights, int weights_by_group,
                         void* total, void* effective, void* mean, void* rest, void* variance, int threads);

/* y = act(u), u = (x - mean) * scale + shift + residual. */
BN_PUBLIC int bn_apply(int type, const bn_sizes* sizes, const void* x, const void* mean, const void* scale,
                       const void* shift, const bn_epilogue* epilogue, void* y, int threads);

/* dy_sum = sum of h, dy_centered_sum = sum of h * (x - mean), where h is dy, or act'(u) * dy with an epilogue.
 *
 * u is computed again from x, scale and shift, which may be null without an epilogue. `pulled` may be null; it takes h,
 * which is the gradient of the residual, and needs an epilogue. */
BN_PUBLIC int bn_grad_sums(int type, const bn_sizes* sizes, const void* dy, const void* x, const void* mean,
                           const bn_epilogue* epilogue, const void* scale, const void* shift, void* pulled,
                           void* dy_sum, void* dy_centered_sum, int threads);

/* dx = slope * h + w * (tilt * (x - mean) + offset), with h as above and u = (x - mean) * slope + shift.
 *
 * An epilogue together with weights or a residual is BN_BAD_EPILOGUE: give what bn_grad_sums wrote to `pulled` as dy,
 * and no epilogue. Without one, shift may be null. */
BN_PUBLIC int bn_grad_input(int type, const bn_sizes* sizes, const void* dy, const void* x, const void* weights,
                            int weights_by_group, const void* mean, const void* slope, const void* tilt,
                            const void* offset, const bn_epilogue* epilogue, const void* shift, void* dx, int threads);

/* The moments, scale = gamma / sqrt(variance + epsilon), shift = beta - rest * scale and
 * y = act((x - mean) * scale + shift + residual) in one call.
 *
 * gamma and beta (either may be null: 1 and 0) hold `channels` numbers; the statistic k uses number k % channels. So
 * `channels` is `channel` if `group` counts ghost batches, and group*channel if it is a channel axis. `shift` may
 * be null. */
BN_PUBLIC int bn_train(int type, const bn_sizes* sizes, const void* x, const void* gamma, const void* beta,
                       int64_t channels, double epsilon, const bn_epilogue* epilogue, void* y, void* mean, void* rest,
                       void* variance, void* scale, void* shift, int threads);

/* y = act(gamma * (x - mean) / sqrt(variance + epsilon) + beta + residual) by given statistics, of which there are
 * group*channel. */
BN_PUBLIC int bn_infer(int type, const bn_sizes* sizes, const void* x, const void* gamma, const void* beta,
                       int64_t channels, const void* mean, const void* variance, double epsilon,
                       const bn_epilogue* epilogue, void* y, int threads);

/* The gradient of bn_train in one call, or of any y = act((x - m) * scale + ...) with a constant in place of `...`:
 *
 *     dx = scale * (h - dy_sum / N - (x - m) / (variance + epsilon) * dy_centered_sum / N)
 *
 * with m = mean + rest, dy_sum = sum of h, dy_centered_sum = sum of h * (x - m) and N numbers to a statistic;
 * dy_xhat_sum = dy_centered_sum / sqrt(variance + epsilon). h, shift and `pulled` are those of bn_grad_sums. A residual
 * needs `pulled`. */
BN_PUBLIC int bn_gradients(int type, const bn_sizes* sizes, const void* dy, const void* x, const void* mean,
                           const void* rest, const void* variance, const void* scale, double epsilon,
                           const bn_epilogue* epilogue, const void* shift, void* pulled, void* dx, void* dy_sum,
                           void* dy_xhat_sum, int threads);

/* Move a running average: old += share * (factor * mean - old), where mean is that of `groups` rows of `channels`
 * numbers. Of the types only the statistics' count: BN_FLOAT64, and BN_FLOAT32 for all others. */
BN_PUBLIC int bn_blend(int type, int64_t groups, int64_t channels, const void* rows, double factor, double share,
                       void* old);

/* Somebody else's threads: call work(data) on `threads` threads at once, the calling one among them, and return when
 * all have. Of this form is GOMP_parallel, by which compilers start an OpenMP region. Two pools in one process, of
 * which each waits in place for its next call, take the processors from each other. */
typedef void (*bn_team)(void (*work)(void* data), void* data, unsigned threads, unsigned flags);

/* Name the team for calls with a negative `threads`, or none with null. In a child of fork there is none. */
BN_PUBLIC void bn_use_team(bn_team team);

/* The instruction set in use: "baseline", "avx2", "avx512" or "neon". The machine's best one, unless the environment
 * variable BATCHNORM_INSTRUCTIONS or bn_select_instructions names another (null: the best again). */
BN_PUBLIC const char* bn_instructions(void);
BN_PUBLIC int bn_select_instructions(const char* name);

/* Whether this library has code for an instruction set, and the processor has the instructions. */
BN_PUBLIC int bn_has_instructions(const char* name);

#ifdef __cplusplus
}
#endif
#endif
