#include "library/calls.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "library/passes.h"

namespace batchnorm {
namespace {

const char* at(const Call& call, const void* array, int64_t offset) {
  return static_cast<const char*>(array) + offset * call.element;
}

char* at(const Call& call, void* array, int64_t offset) {
  return static_cast<char*>(array) + offset * call.element;
}

bool streams(const Call& call) {
  return exceeds_caches(call.runs.count() * call.runs.statistics() * call.element);
}

// Sums of squares as a variance; where nothing had weight, zero, or NaN from NaN.
double share_of(const Weight& weight) { return weight.total > 0.0 ? 1.0 / weight.total : 0.0; }

// The arrays begin at the first of `many` channels.
template <class T>
void store_moments(const Weight& weight, int64_t many, const double* mean, const double* squares, T* to_mean,
                   T* to_rest, T* to_variance) {
  const double share = share_of(weight), alive = weight.total > 0.0 ? 1.0 : 0.0;
  for (int64_t c = 0; c < many; ++c) {
    const double found = alive == 0.0 ? mean[c] * alive : mean[c];
    to_mean[c] = T(found);
    // What the rounding lost; an infinite mean has lost nothing.
    const double lost = found - double(T(found));
    to_rest[c] = lost - lost == 0.0 ? T(lost) : T(0);
  }
  for (int64_t c = 0; c < many; ++c) to_variance[c] = T(squares[c] * share);
}

// gamma / sqrt(variance + epsilon), and beta less the share in y of the mean's rest, if any, of the statistics from
// `from` to `to`, of which number k has channel k % channels; in the statistics' own type, as the composed passes reckon
// it. `scale` and `shift` begin at `from`.
template <class T>
void scale_and_shift(int64_t from, int64_t to, const T* rest, const T* variance, double epsilon, const T* gamma,
                     const T* beta, int64_t channels, T* scale, T* shift) {
  for (int64_t k = from; k < to;) {
    const int64_t channel = k % channels, many = std::min(to - k, channels - channel);
    T *scales = scale + (k - from), *shifts = shift + (k - from);
    for (int64_t c = 0; c < many; ++c) scales[c] = T(1) / std::sqrt(variance[k + c] + T(epsilon));
    for (int64_t c = 0; c < many && gamma != nullptr; ++c) scales[c] *= gamma[channel + c];
    for (int64_t c = 0; c < many; ++c) shifts[c] = beta == nullptr ? T(0) : beta[channel + c];
    for (int64_t c = 0; c < many && rest != nullptr; ++c) shifts[c] -= rest[k + c] * scales[c];
    k += many;
  }
}

// `totals`: of how many groups the weights' squares are wanted. They are the same for all channels, so that the first
// task of a group finds them for all.
template <class T>
auto moments_of(const Call& call, const void* x, const T* weights, int64_t totals) {
  return [&call, x, weights, totals](const Located& at_, const Task& task, Weight* weight, double* mean,
                                     double* squares) {
    const T* w = weights == nullptr ? nullptr : weights + at_.weight_offset;
    const double total = call.kernels->moments(at_.block, at(call, x, at_.offset), w, mean, squares);
    weight->total = w == nullptr ? double(at_.block.count()) : total;
    if (w != nullptr && task.channel_from == 0 && task.group < totals) {
      weight->squares = call.kernels->weight_squares(at_.block, w);
    }
  };
}

void add(int64_t channels, Weight*, double* first, double* second, Weight, const double* other_first,
         const double* other_second) {
  for (int64_t c = 0; c < channels; ++c) first[c] += other_first[c], second[c] += other_second[c];
}

template <class T>
auto gradient_sums_of(const Call& call, const void* dy, const void* x, const T* mean) {
  return [&call, dy, x, mean](const Located& at_, const Task& task, Weight*, double* first, double* second) {
    const int64_t k = task.group * call.runs.channel + task.channel_from;
    call.kernels->grad_sums(at_.block, at(call, dy, at_.offset), at(call, x, at_.offset), mean + k, first, second);
  };
}

template <class T>
void nothing(const Located&, const Task&, const T*, const T*, int64_t) {}

}  // namespace

template <class T>
void find_moments(const Call& call, const void* x, const T* weights, int64_t totals, T* total, T* effective, T* mean,
                  T* rest, T* variance) {
  const Runs& n = call.runs;
  for (T* each : {total, effective}) {
    if (each != nullptr) std::fill(each, each + totals, weights == nullptr ? T(n.count()) : T(0));
  }
  const Plan plan =
      weights == nullptr ? plan_sums(n, call.element) : plan_weighted(n, call.element, call.threads);
  sum_and_follow<T>(
      plan, call.threads, moments_of(call, x, weights, effective == nullptr ? 0 : totals), call.isa->merge,
      [&](int64_t group, int64_t from, int64_t to, const Weight& weight, const double* means, const double* squares, T*,
          T*) {
        const int64_t k = group * n.channel + from;
        store_moments(weight, to - from, means, squares, mean + k, rest + k, variance + k);
        if (weights == nullptr || from > 0 || group >= totals) return;
        if (total != nullptr) total[group] = T(weight.total);
        if (effective != nullptr) {
          effective[group] = T(weight.total > 0.0 ? weight.total * weight.total / weight.squares : 0.0);
        }
      },
      nothing<T>);
}

template <class T>
void apply(const Call& call, const void* x, const T* mean, const T* scale, const T* shift, void* y) {
  const bool streaming = streams(call);
  each(plan_each(call.runs, call.element), call.threads, [&](const Located& at_, const Task& task) {
    const int64_t k = task.group * call.runs.channel + task.channel_from;
    call.kernels->apply(at_.block, at(call, x, at_.offset), mean + k, scale + k, shift + k, at(call, y, at_.offset),
                        streaming, 0);
  });
}

template <class T>
void sum_gradients(const Call& call, const void* dy, const void* x, const T* mean, T* dy_sum, T* dy_centered_sum) {
  sum_and_follow<T>(
      plan_sums(call.runs, 2 * call.element), call.threads, gradient_sums_of(call, dy, x, mean), add,
      [&](int64_t group, int64_t from, int64_t to, const Weight&, const double* first, const double* second, T*, T*) {
        const int64_t k = group * call.runs.channel;
        for (int64_t c = from; c < to; ++c) {
          dy_sum[k + c] = T(first[c - from]);
          dy_centered_sum[k + c] = T(second[c - from]);
        }
      },
      nothing<T>);
}

template <class T>
void find_input_gradient(const Call& call, const void* dy, const void* x, const T* weights, const T* mean,
                         const T* slope, const T* tilt, const T* offset, void* dx) {
  const bool streaming = streams(call);
  each(plan_each(call.runs, 2 * call.element), call.threads, [&](const Located& at_, const Task& task) {
    const int64_t k = task.group * call.runs.channel + task.channel_from;
    call.kernels->grad_input(at_.block, at(call, dy, at_.offset), at(call, x, at_.offset),
                             weights == nullptr ? nullptr : weights + at_.weight_offset, mean + k, slope + k, tilt + k,
                             offset + k, at(call, dx, at_.offset), streaming);
  });
}

template <class T>
void train(const Call& call, const void* x, const T* gamma, const T* beta, int64_t channels, double epsilon, void* y,
           T* mean, T* rest, T* variance, T* scale) {
  const Runs& n = call.runs;
  const bool streaming = streams(call);
  sum_and_follow<T>(
      plan_sums(n, call.element), call.threads, moments_of<T>(call, x, nullptr, 0), call.isa->merge,
      [&](int64_t group, int64_t from, int64_t to, const Weight& weight, const double* means, const double* squares,
          T* shift, T*) {
        const int64_t k = group * n.channel + from;
        store_moments(weight, to - from, means, squares, mean + k, rest + k, variance + k);
        scale_and_shift(k, k + to - from, rest, variance, epsilon, gamma, beta, channels, scale + k, shift);
      },
      [&](const Located& at_, const Task& task, const T* shift, const T*, int64_t ahead) {
        const int64_t k = task.group * n.channel + task.channel_from;
        call.kernels->apply(at_.block, at(call, x, at_.offset), mean + k, scale + k, shift, at(call, y, at_.offset),
                            streaming, ahead);
      });
}

template <class T>
void infer(const Call& call, const void* x, const T* gamma, const T* beta, int64_t channels, const T* mean,
           const T* variance, double epsilon, void* y) {
  const int64_t many = call.runs.statistics();
  std::vector<T> scale(size_t(many), T(0)), shift(size_t(many), T(0));
  scale_and_shift<T>(0, many, nullptr, variance, epsilon, gamma, beta, channels, scale.data(), shift.data());
  apply(call, x, mean, scale.data(), shift.data(), y);
}

template <class T>
void find_gradients(const Call& call, const void* dy, const void* x, const T* mean, const T* rest, const T* variance,
                    const T* scale, double epsilon, void* dx, T* dy_sum, T* dy_xhat_sum) {
  const Runs& n = call.runs;
  const bool streaming = streams(call);
  const double share = n.count() > 0 ? 1.0 / double(n.count()) : 0.0;
  sum_and_follow<T>(
      plan_sums(n, 2 * call.element), call.threads, gradient_sums_of(call, dy, x, mean), add,
      [&](int64_t group, int64_t from, int64_t to, const Weight&, const double* first, const double* second, T* tilt,
          T* offset) {
        const int64_t k = group * n.channel + from, many = to - from;
        // With few enough arrays in each loop the compiler makes vectors of it.
        for (int64_t c = 0; c < many; ++c) {
          dy_sum[k + c] = T(first[c]);
          offset[c] = T(-double(scale[k + c]) * share * first[c]);
        }
        for (int64_t c = 0; c < many; ++c) {
          const double inverse = 1.0 / std::sqrt(double(variance[k + c]) + epsilon);
          const double xhat_sum = (second[c] - double(rest[k + c]) * first[c]) * inverse;
          dy_xhat_sum[k + c] = T(xhat_sum);
          tilt[c] = T(-double(scale[k + c]) * share * inverse * xhat_sum);
        }
        for (int64_t c = 0; c < many; ++c) offset[c] -= rest[k + c] * tilt[c];
      },
      [&](const Located& at_, const Task& task, const T* tilt, const T* offset, int64_t) {
        const int64_t k = task.group * n.channel + task.channel_from;
        call.kernels->grad_input(at_.block, at(call, dy, at_.offset), at(call, x, at_.offset), nullptr, mean + k,
                                 scale + k, tilt, offset, at(call, dx, at_.offset), streaming);
      });
}

#define BATCHNORM_CALLS(T)                                                                                           \
  template void find_moments<T>(const Call&, const void*, const T*, int64_t, T*, T*, T*, T*, T*);                            \
  template void apply<T>(const Call&, const void*, const T*, const T*, const T*, void*);                             \
  template void sum_gradients<T>(const Call&, const void*, const void*, const T*, T*, T*);                           \
  template void find_input_gradient<T>(const Call&, const void*, const void*, const T*, const T*, const T*, const T*, \
                                       const T*, void*);                                                             \
  template void train<T>(const Call&, const void*, const T*, const T*, int64_t, double, void*, T*, T*, T*, T*);      \
  template void infer<T>(const Call&, const void*, const T*, const T*, int64_t, const T*, const T*, double, void*);  \
  template void find_gradients<T>(const Call&, const void*, const void*, const T*, const T*, const T*, const T*,      \
                                  double, void*, T*, T*);

BATCHNORM_CALLS(float)
BATCHNORM_CALLS(double)

}  // namespace batchnorm
