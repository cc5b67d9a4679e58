// The public header's functions: they check what they are given, choose the type, and let nothing be thrown.
#include <new>
#include <stdexcept>

#include "include/batchnorm_kernels.h"
#include "library/calls.h"
#include "library/isas.h"
#include "library/pool.h"

namespace batchnorm {
namespace {

constexpr int64_t kElementBytes[kElementTypes] = {4, 8, 2, 2};

static_assert(int(kTanh) == int(BN_TANH) && int(kGelu) == int(BN_GELU) && int(kRelu6) == int(BN_RELU6),
              "activations are numbered as in the public header");

// An epilogue as the kernels take it: null for one that changes nothing, unless h is asked for.
class GivenEpilogue {
 public:
  GivenEpilogue(const bn_epilogue* given, bool residual_allowed, const void* pulled) {
    if (given == nullptr) {
      status_ = pulled == nullptr ? BN_OK : BN_BAD_EPILOGUE;
      return;
    }
    const bool known = given->activation >= 0 && given->activation < kActivations;
    if (!known || (given->residual != nullptr && !residual_allowed)) {
      status_ = BN_BAD_EPILOGUE;
      return;
    }
    epilogue_ = {given->activation, given->slope, given->residual};
    changes_ = given->activation != BN_IDENTITY || given->residual != nullptr || pulled != nullptr;
  }

  int status() const { return status_; }
  const Epilogue* get() const { return changes_ ? &epilogue_ : nullptr; }

 private:
  Epilogue epilogue_{};
  bool changes_ = false;
  int status_ = BN_OK;
};

// Run `work` with a call and a null pointer to the statistics' type.
template <class Work>
int guarded(int type, const bn_sizes* s, const void* weights, int weights_by_group, int threads, Work work) {
  if (type < 0 || type >= kElementTypes) return BN_BAD_TYPE;
  Call call;
  if (s == nullptr || !simplify(s->outer, s->group, s->middle, s->channel, s->inner, weights != nullptr,
                                weights_by_group != 0, &call.runs)) {
    return BN_BAD_SIZE;
  }
  call.isa = &isa_in_use();
  call.kernels = &call.isa->kernels[type];
  call.epilogues = &call.isa->epilogues[type];
  call.element = kElementBytes[type];
  const TeamScope scope(threads < 0);
  call.threads = threads < 0 ? -threads : threads;
  try {
    if (type == kFloat64) {
      work(call, static_cast<double*>(nullptr));
    } else {
      work(call, static_cast<float*>(nullptr));
    }
  } catch (const std::bad_alloc&) {
    return BN_NO_MEMORY;
  } catch (const std::length_error&) {
    return BN_NO_MEMORY;
  }
  return BN_OK;
}

template <class T>
const T* as(const void* array, const T*) {
  return static_cast<const T*>(array);
}

template <class T>
T* as(void* array, const T*) {
  return static_cast<T*>(array);
}

template <class T>
void blend(int64_t groups, int64_t channels, const T* rows, double factor, double share, T* old) {
  // Kept whole or replaced whole, whatever the other value is: infinity times zero would be NaN.
  if (share == 0.0) return;
  const T scale = T(factor / double(groups)), portion = T(share);
  for (int64_t channel = 0; channel < channels; ++channel) {
    T sum = rows[channel];
    for (int64_t group = 1; group < groups; ++group) sum += rows[group * channels + channel];
    old[channel] = share == 1.0 ? scale * sum : old[channel] + portion * (scale * sum - old[channel]);
  }
}

}  // namespace
}  // namespace batchnorm

using namespace batchnorm;

int bn_moments(int type, const bn_sizes* sizes, const void* x, const void* weights, int weights_by_group, void* total,
               void* effective, void* mean, void* rest, void* variance, int threads) {
  return guarded(type, sizes, weights, weights_by_group, threads, [&](const Call& call, auto* t) {
    find_moments(call, x, as(weights, t), weights_by_group != 0 ? sizes->group : 1, as(total, t), as(effective, t),
                 as(mean, t), as(rest, t), as(variance, t));
  });
}

int bn_apply(int type, const bn_sizes* sizes, const void* x, const void* mean, const void* scale, const void* shift,
             const bn_epilogue* epilogue, void* y, int threads) {
  const GivenEpilogue e(epilogue, true, nullptr);
  if (e.status() != BN_OK) return e.status();
  return guarded(type, sizes, nullptr, 0, threads, [&](const Call& call, auto* t) {
    apply(call, x, as(mean, t), as(scale, t), as(shift, t), e.get(), y);
  });
}

int bn_grad_sums(int type, const bn_sizes* sizes, const void* dy, const void* x, const void* mean,
                 const bn_epilogue* epilogue, const void* scale, const void* shift, void* pulled, void* dy_sum,
                 void* dy_centered_sum, int threads) {
  const GivenEpilogue e(epilogue, true, pulled);
  if (e.status() != BN_OK) return e.status();
  return guarded(type, sizes, nullptr, 0, threads, [&](const Call& call, auto* t) {
    sum_gradients(call, dy, x, as(mean, t), e.get(), as(scale, t), as(shift, t), pulled, as(dy_sum, t),
                  as(dy_centered_sum, t));
  });
}

int bn_grad_input(int type, const bn_sizes* sizes, const void* dy, const void* x, const void* weights,
                  int weights_by_group, const void* mean, const void* slope, const void* tilt, const void* offset,
                  const bn_epilogue* epilogue, const void* shift, void* dx, int threads) {
  const GivenEpilogue e(epilogue, false, nullptr);
  if (e.status() != BN_OK) return e.status();
  if (epilogue != nullptr && weights != nullptr) return BN_BAD_EPILOGUE;
  return guarded(type, sizes, weights, weights_by_group, threads, [&](const Call& call, auto* t) {
    find_input_gradient(call, dy, x, as(weights, t), as(mean, t), as(slope, t), as(tilt, t), as(offset, t), e.get(),
                        as(shift, t), dx);
  });
}

int bn_train(int type, const bn_sizes* sizes, const void* x, const void* gamma, const void* beta, int64_t channels,
             double epsilon, const bn_epilogue* epilogue, void* y, void* mean, void* rest, void* variance, void* scale,
             void* shift, int threads) {
  const GivenEpilogue e(epilogue, true, nullptr);
  if (e.status() != BN_OK) return e.status();
  if (channels < 1 && (gamma != nullptr || beta != nullptr)) channels = 1;
  return guarded(type, sizes, nullptr, 0, threads, [&](const Call& call, auto* t) {
    train(call, x, as(gamma, t), as(beta, t), channels < 1 ? 1 : channels, epsilon, e.get(), y, as(mean, t),
          as(rest, t), as(variance, t), as(scale, t), as(shift, t));
  });
}

int bn_infer(int type, const bn_sizes* sizes, const void* x, const void* gamma, const void* beta, int64_t channels,
             const void* mean, const void* variance, double epsilon, const bn_epilogue* epilogue, void* y,
             int threads) {
  const GivenEpilogue e(epilogue, true, nullptr);
  if (e.status() != BN_OK) return e.status();
  return guarded(type, sizes, nullptr, 0, threads, [&](const Call& call, auto* t) {
    infer(call, x, as(gamma, t), as(beta, t), channels < 1 ? 1 : channels, as(mean, t), as(variance, t), epsilon,
          e.get(), y);
  });
}

int bn_gradients(int type, const bn_sizes* sizes, const void* dy, const void* x, const void* mean, const void* rest,
                 const void* variance, const void* scale, double epsilon, const bn_epilogue* epilogue,
                 const void* shift, void* pulled, void* dx, void* dy_sum, void* dy_xhat_sum, int threads) {
  const GivenEpilogue e(epilogue, pulled != nullptr, pulled);
  if (e.status() != BN_OK) return e.status();
  return guarded(type, sizes, nullptr, 0, threads, [&](const Call& call, auto* t) {
    find_gradients(call, dy, x, as(mean, t), as(rest, t), as(variance, t), as(scale, t), epsilon, e.get(),
                   as(shift, t), pulled, dx, as(dy_sum, t), as(dy_xhat_sum, t));
  });
}

const char* bn_instructions(void) { return isa_in_use().name; }

int bn_select_instructions(const char* name) { return select_isa(name) ? BN_OK : BN_BAD_ISA; }

int bn_has_instructions(const char* name) { return has_isa(name) ? 1 : 0; }

int bn_blend(int type, int64_t groups, int64_t channels, const void* rows, double factor, double share, void* old) {
  if (type < 0 || type >= kElementTypes) return BN_BAD_TYPE;
  if (groups < 1 || channels < 0) return BN_BAD_SIZE;
  if (type == BN_FLOAT64) {
    blend(groups, channels, static_cast<const double*>(rows), factor, share, static_cast<double*>(old));
  } else {
    blend(groups, channels, static_cast<const float*>(rows), factor, share, static_cast<float*>(old));
  }
  return BN_OK;
}
