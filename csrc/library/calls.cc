#include "library/calls.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "library/memory.h"
#include "library/passes.h"

namespace batchnorm {
namespace {

const char* at(const Call& call, const void* array, int64_t offset) {
  return static_cast<const char*>(array) + offset * call.element;
}

char* at(const Call& call, void* array, int64_t offset) {
  return static_cast<char*>(array) + offset * call.element;
}

bool has_residual(const Epilogue* epilogue) { return epilogue != nullptr && epilogue->residual != nullptr; }

// Get ready to write a large array, or none; whether past the caches.
bool starts_writing(const Call& call, void* array) {
  const int64_t bytes = call.runs.count() * call.runs.statistics() * call.element;
  advise_huge_pages(array, bytes);
  return exceeds_caches(bytes);
}

// The epilogue of a task whose arrays begin at `offset`.
Epilogue at(const Call& call, const Epilogue& whole, int64_t offset) {
  return {whole.activation, whole.slope, whole.residual == nullptr ? nullptr : at(call, whole.residual, offset)};
}

// One task of bn_apply, by what is known from its first channel on.
template <class T>
void apply_to(const Call& call, const Located& at_, const void* x, const T* mean, const T* scale, const T* shift,
              const Epilogue* epilogue, void* y, bool streaming, int64_t ahead) {
  x = at(call, x, at_.offset), y = at(call, y, at_.offset);
  if (epilogue == nullptr) return call.kernels->apply(at_.block, x, mean, scale, shift, y, streaming, ahead);
  call.epilogues->apply(at_.block, x, mean, scale, shift, at(call, *epilogue, at_.offset), y, streaming, ahead);
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
auto gradient_sums_of(const Call& call, const void* dy, const void* x, const T* mean, const Epilogue* epilogue,
                      const T* scale, const T* shift, void* pulled) {
  return [=, &call](const Located& at_, const Task& task, Weight*, double* first, double* second) {
    const int64_t k = task.group * call.runs.channel + task.channel_from;
    const void *from = at(call, dy, at_.offset), *x_from = at(call, x, at_.offset);
    if (epilogue == nullptr) return call.kernels->grad_sums(at_.block, from, x_from, mean + k, first, second);
    call.epilogues->grad_sums(at_.block, from, x_from, mean + k, at(call, *epilogue, at_.offset), scale + k, shift + k,
                              pulled == nullptr ? nullptr : at(call, pulled, at_.offset), first, second);
  };
}

// What a pass over dy and x reads and writes of one position until another pass may follow.
int64_t bytes_of_sums(const Call& call, const Epilogue* epilogue, const void* pulled) {
  return call.element * (2 + (has_residual(epilogue) ? 1 : 0) + (pulled != nullptr ? 1 : 0));
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
void apply(const Call& call, const void* x, const T* mean, const T* scale, const T* shift, const Epilogue* epilogue,
           void* y) {
  const bool streaming = starts_writing(call, y);
  const Plan plan = plan_each(call.runs, has_residual(epilogue) ? 2 * call.element : call.element);
  each(plan, call.threads, [&](const Located& at_, const Task& task) {
    const int64_t k = task.group * call.runs.channel + task.channel_from;
    apply_to(call, at_, x, mean + k, scale + k, shift + k, epilogue, y, streaming, 0);
  });
}

template <class T>
void sum_gradients(const Call& call, const void* dy, const void* x, const T* mean, const Epilogue* epilogue,
                   const T* scale, const T* shift, void* pulled, T* dy_sum, T* dy_centered_sum) {
  starts_writing(call, pulled);
  sum_and_follow<T>(
      plan_sums(call.runs, bytes_of_sums(call, epilogue, pulled)), call.threads,
      gradient_sums_of(call, dy, x, mean, epilogue, scale, shift, pulled), add,
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
                         const T* slope, const T* tilt, const T* offset, const Epilogue* epilogue, const T* shift,
                         void* dx) {
  const bool streaming = starts_writing(call, dx);
  each(plan_each(call.runs, 2 * call.element), call.threads, [&](const Located& at_, const Task& task) {
    const int64_t k = task.group * call.runs.channel + task.channel_from;
    const void *from = at(call, dy, at_.offset), *x_from = at(call, x, at_.offset);
    void* to = at(call, dx, at_.offset);
    if (epilogue != nullptr) {
      return call.epilogues->grad_input(at_.block, from, x_from, mean + k, slope + k, tilt + k, offset + k, *epilogue,
                                        shift + k, to, streaming);
    }
    call.kernels->grad_input(at_.block, from, x_from, weights == nullptr ? nullptr : weights + at_.weight_offset,
                             mean + k, slope + k, tilt + k, offset + k, to, streaming);
  });
}

template <class T>
void train(const Call& call, const void* x, const T* gamma, const T* beta, int64_t channels, double epsilon,
           const Epilogue* epilogue, void* y, T* mean, T* rest, T* variance, T* scale, T* shift) {
  const Runs& n = call.runs;
  const bool streaming = starts_writing(call, y);
  sum_and_follow<T>(
      plan_sums(n, call.element), call.threads, moments_of<T>(call, x, nullptr, 0), call.isa->merge,
      [&](int64_t group, int64_t from, int64_t to, const Weight& weight, const double* means, const double* squares,
          T* kept, T*) {
        const int64_t k = group * n.channel + from;
        store_moments(weight, to - from, means, squares, mean + k, rest + k, variance + k);
        scale_and_shift(k, k + to - from, rest, variance, epsilon, gamma, beta, channels, scale + k, kept);
        if (shift != nullptr) std::copy(kept, kept + (to - from), shift + k);
      },
      [&](const Located& at_, const Task& task, const T* kept, const T*, int64_t ahead) {
        const int64_t k = task.group * n.channel + task.channel_from;
        apply_to(call, at_, x, mean + k, scale + k, kept, epilogue, y, streaming, ahead);
      });
}

template <class T>
void infer(const Call& call, const void* x, const T* gamma, const T* beta, int64_t channels, const T* mean,
           const T* variance, double epsilon, const Epilogue* epilogue, void* y) {
  const int64_t many = call.runs.statistics();
  std::vector<T> scale(size_t(many), T(0)), shift(size_t(many), T(0));
  scale_and_shift<T>(0, many, nullptr, variance, epsilon, gamma, beta, channels, scale.data(), shift.data());
  apply(call, x, mean, scale.data(), shift.data(), epilogue, y);
}

template <class T>
void find_gradients(const Call& call, const void* dy, const void* x, const T* mean, const T* rest, const T* variance,
                    const T* scale, double epsilon, const Epilogue* epilogue, const T* shift, void* pulled, void* dx,
                    T* dy_sum, T* dy_xhat_sum) {
  const Runs& n = call.runs;
  starts_writing(call, pulled);
  const bool streaming = starts_writing(call, dx);
  const double share = n.count() > 0 ? 1.0 / double(n.count()) : 0.0;
  // What the second pass reads for dy, and whether it finds h again.
  const void* pulls = pulled != nullptr ? pulled : dy;
  const Epilogue* again = pulled != nullptr ? nullptr : epilogue;
  sum_and_follow<T>(
      plan_sums(n, bytes_of_sums(call, epilogue, pulled)), call.threads,
      gradient_sums_of(call, dy, x, mean, epilogue, scale, shift, pulled), add,
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
        const void *from = at(call, pulls, at_.offset), *x_from = at(call, x, at_.offset);
        void* to = at(call, dx, at_.offset);
        if (again != nullptr) {
          return call.epilogues->grad_input(at_.block, from, x_from, mean + k, scale + k, tilt, offset, *again,
                                            shift + k, to, streaming);
        }
        call.kernels->grad_input(at_.block, from, x_from, nullptr, mean + k, scale + k, tilt, offset, to, streaming);
      });
}

#define BATCHNORM_CALLS(T)                                                                                            \
  template void find_moments<T>(const Call&, const void*, const T*, int64_t, T*, T*, T*, T*, T*);                     \
  template void apply<T>(const Call&, const void*, const T*, const T*, const T*, const Epilogue*, void*);             \
  template void sum_gradients<T>(const Call&, const void*, const void*, const T*, const Epilogue*, const T*,          \
                                 const T*, void*, T*, T*);                                                            \
  template void find_input_gradient<T>(const Call&, const void*, const void*, const T*, const T*, const T*, const T*, \
                                       const T*, const Epilogue*, const T*, void*);                                   \
  template void train<T>(const Call&, const void*, const T*, const T*, int64_t, double, const Epilogue*, void*, T*,   \
                         T*, T*, T*, T*);                                                                             \
  template void infer<T>(const Call&, const void*, const T*, const T*, int64_t, const T*, const T*, double,           \
                         const Epilogue*, void*);                                                                     \
  template void find_gradients<T>(const Call&, const void*, const void*, const T*, const T*, const T*, const T*,      \
                                  double, const Epilogue*, const T*, void*, void*, T*, T*);

BATCHNORM_CALLS(float)
BATCHNORM_CALLS(double)

}  // namespace batchnorm
