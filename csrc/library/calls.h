// The calls of the public header for one type of statistics. They may throw std::bad_alloc. An epilogue may be null.
#pragma once

#include "library/plan.h"

namespace batchnorm {

// What every call knows: sizes, kernels, the elements' size, and how many may work on it.
struct Call {
  Runs runs;
  const Isa* isa;
  const Kernels* kernels;
  const EpilogueKernels* epilogues;
  int64_t element;
  int threads;
};

template <class T>
void find_moments(const Call&, const void* x, const T* weights, int64_t totals, T* total, T* effective, T* mean,
                  T* rest, T* variance);

template <class T>
void apply(const Call&, const void* x, const T* mean, const T* scale, const T* shift, const Epilogue*, void* y);

template <class T>
void sum_gradients(const Call&, const void* dy, const void* x, const T* mean, const Epilogue*, const T* scale,
                   const T* shift, void* pulled, T* dy_sum, T* dy_centered_sum);

template <class T>
void find_input_gradient(const Call&, const void* dy, const void* x, const T* weights, const T* mean, const T* slope,
                         const T* tilt, const T* offset, const Epilogue*, const T* shift, void* dx);

template <class T>
void train(const Call&, const void* x, const T* gamma, const T* beta, int64_t channels, double epsilon,
           const Epilogue*, void* y, T* mean, T* rest, T* variance, T* scale, T* shift);

template <class T>
void infer(const Call&, const void* x, const T* gamma, const T* beta, int64_t channels, const T* mean,
           const T* variance, double epsilon, const Epilogue*, void* y);

template <class T>
void find_gradients(const Call&, const void* dy, const void* x, const T* mean, const T* rest, const T* variance,
                    const T* scale, double epsilon, const Epilogue*, const T* shift, void* pulled, void* dx, T* dy_sum,
                    T* dy_xhat_sum);

}  // namespace batchnorm
