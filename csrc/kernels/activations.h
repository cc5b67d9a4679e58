// The activations: value(u), and pull(dy, u) = act'(u) * dy.
//
// There are two kinds of them. Clips are a comparison or two, so they are compiled into each pass. All others are behind
// a call for each vector, which decides between them: a few functions serve every pass.
#pragma once

#include "kernels/block.h"
#include "kernels/vector_math.h"

namespace batchnorm {
namespace {

// u between two bounds, of which NaN is none. The derivative is 0 at a bound.
template <class T>
struct Clip {
  T low, high;

  template <int N>
  BATCHNORM_INLINE Vector<T, N> value(Vector<T, N> u) const {
    // In this order NaN passes.
    const Vector<T, N> lows = fill<T, N>(low), highs = fill<T, N>(high);
    const Vector<T, N> raised = select<T, N>(lows > u, lows, u);
    return select<T, N>(highs < raised, highs, raised);
  }

  template <int N>
  BATCHNORM_INLINE Vector<T, N> pull(Vector<T, N> dy, Vector<T, N> u) const {
    const Vector<T, N> zero = {}, lows = fill<T, N>(low), highs = fill<T, N>(high);
    return select<T, N>(u > lows, select<T, N>(u >= highs, zero, dy), zero);
  }
};

// What gelu_tanh is a logistic function of: u * (kGeluOne + kGeluThree * u²), twice the argument of the tanh.
constexpr double kGeluOne = 1.5957691216057308, kGeluThree = 0.071354816272600250;
constexpr double kDensity = 0.39894228040143268;  // 1 / sqrt(2 pi)
constexpr double kHalfRoot = 0.70710678118654752;

// Beyond these sizes of u, exp(-|u|) is zero, and so is what gelu_tanh has left to 0 or 1; so that no square overflows.
constexpr float kFarFloat = 105.0f, kGeluFarFloat = 11.0f;
constexpr double kGeluFar = 24.0, kNormalFar = 40.0;

template <int N>
inline Logistic<N> gelu_logistic(Floats<N> size, Floats<N> sign) {
  return logistic<N>(size * (float(kGeluOne) + float(kGeluThree) * size * size), sign);
}

template <int N>
inline Floats<N> hyperbolic(Floats<N> u) {
  const Floats<N> less = exponential<N>(-2.0f * magnitude_up_to<N>(u, 0.5f * kFarFloat)).less_one();
  return with_sign<N>(less / (less + 2.0f), u);
}

template <int N>
inline Floats<N> curve(int kind, float slope, Floats<N> u) {
  const Floats<N> zero = {};
  switch (kind) {
    case kLeakyRelu:
      return select<float, N>(u > zero, u, slope * u);
    case kHardSwish:
      return u * (Clip<float>{0.0f, 6.0f}.value<N>(u + 3.0f) / 6.0f);
    case kSilu:
      return u * logistic<N>(magnitude_up_to<N>(u, kFarFloat), u).value;
    case kGelu:
      return u * normal<N>(u).below;
    case kGeluTanh:
      return u * gelu_logistic<N>(magnitude_up_to<N>(u, kGeluFarFloat), u).value;
    case kSigmoid:
      return logistic<N>(magnitude_up_to<N>(u, kFarFloat), u).value;
    case kTanh:
      return hyperbolic<N>(u);
  }
  return u;
}

// The derivative.
template <int N>
inline Floats<N> steepness(int kind, float slope, Floats<N> u) {
  const Floats<N> zero = {}, one = fill<float, N>(1.0f);
  switch (kind) {
    case kLeakyRelu:
      return select<float, N>(u > zero, one, fill<float, N>(slope));
    case kHardSwish:
      return select<float, N>(u <= -3.0f, zero, select<float, N>(u >= 3.0f, one, (u + 1.5f) / 3.0f));
    case kSilu: {
      const Floats<N> size = magnitude_up_to<N>(u, kFarFloat);
      const Logistic<N> found = logistic<N>(size, u);
      return found.value + with_sign<N>(size, u) * found.derivative;
    }
    case kGelu: {
      const Normal<N> found = normal<N>(u);
      return found.below + with_sign<N>(magnitude_up_to<N>(u, 15.0f), u) * (float(kDensity) * found.bell);
    }
    case kGeluTanh: {
      const Floats<N> size = magnitude_up_to<N>(u, kGeluFarFloat);
      const Logistic<N> found = gelu_logistic<N>(size, u);
      const Floats<N> inner = float(kGeluOne) + float(3.0 * kGeluThree) * size * size;
      return found.value + with_sign<N>(size, u) * found.derivative * inner;
    }
    case kSigmoid:
      return logistic<N>(magnitude_up_to<N>(u, kFarFloat), u).derivative;
    case kTanh:
      return 4.0f * logistic<N>(2.0f * magnitude_up_to<N>(u, 0.5f * kFarFloat), u).derivative;
  }
  return one;
}

inline double bounded(double u, double most) { return u > most ? most : u < -most ? -most : u; }

struct LogisticOf {
  double value, derivative;

  explicit LogisticOf(double u) {
    const double e = __builtin_exp(-__builtin_fabs(u)), inverse = 1.0 / (1.0 + e);
    value = (u < 0.0 ? e : 1.0) * inverse;
    derivative = e * inverse * inverse;
  }
};

inline double gelu_argument(double u) { return u * (kGeluOne + kGeluThree * u * u); }

inline double curve(int kind, double slope, double u) {
  switch (kind) {
    case kLeakyRelu:
      return u > 0.0 ? u : slope * u;
    case kHardSwish:
      return u * (Clip<double>{0.0, 6.0}.value<1>(u + 3.0) / 6.0);
    case kSilu:
      return u * LogisticOf(u).value;
    case kGelu:
      return u * (0.5 * __builtin_erfc(-kHalfRoot * u));
    case kGeluTanh:
      return u * LogisticOf(gelu_argument(bounded(u, kGeluFar))).value;
    case kSigmoid:
      return LogisticOf(u).value;
    case kTanh:
      return __builtin_tanh(u);
  }
  return u;
}

inline double steepness(int kind, double slope, double u) {
  switch (kind) {
    case kLeakyRelu:
      return u > 0.0 ? 1.0 : slope;
    case kHardSwish:
      return u <= -3.0 ? 0.0 : u >= 3.0 ? 1.0 : (u + 1.5) / 3.0;
    case kSilu: {
      const LogisticOf found(u);
      return found.value + bounded(u, 1e3) * found.derivative;
    }
    case kGelu: {
      const double near = bounded(u, kNormalFar);
      return 0.5 * __builtin_erfc(-kHalfRoot * near) + near * kDensity * __builtin_exp(-0.5 * near * near);
    }
    case kGeluTanh: {
      const double near = bounded(u, kGeluFar);
      const LogisticOf found(gelu_argument(near));
      return found.value + near * found.derivative * (kGeluOne + 3.0 * kGeluThree * near * near);
    }
    case kSigmoid:
      return LogisticOf(u).derivative;
    case kTanh:
      return 4.0 * LogisticOf(2.0 * u).derivative;
  }
  return 1.0;
}

// Full vectors only: never inlined, so that each is compiled once.
typedef Vector<float, kLanes<float>> FullFloats;
typedef Vector<double, kLanes<double>> FullDoubles;

__attribute__((noinline)) FullFloats curve_of(int kind, float slope, FullFloats u) {
  return curve<kLanes<float>>(kind, slope, u);
}

__attribute__((noinline)) FullFloats steepness_of(int kind, float slope, FullFloats u) {
  return steepness<kLanes<float>>(kind, slope, u);
}

__attribute__((noinline)) FullDoubles curve_of(int kind, double slope, FullDoubles u) {
  for (int lane = 0; lane < kLanes<double>; ++lane) u[lane] = curve(kind, slope, u[lane]);
  return u;
}

__attribute__((noinline)) FullDoubles steepness_of(int kind, double slope, FullDoubles u) {
  for (int lane = 0; lane < kLanes<double>; ++lane) u[lane] = steepness(kind, slope, u[lane]);
  return u;
}

// A vector as a full one, and back.
template <class T, int N>
inline Vector<T, kLanes<T>> fill_up(Vector<T, N> v) {
  Vector<T, kLanes<T>> full = {};
  std::memcpy(&full, &v, sizeof(v));
  return full;
}

template <class T, int N>
inline Vector<T, N> first_of(Vector<T, kLanes<T>> full) {
  return load_bits<Vector<T, N>>(&full);
}

// Any activation, decided at run time.
template <class T>
struct Curve {
  int kind;
  T slope;

  template <int N>
  BATCHNORM_INLINE Vector<T, N> value(Vector<T, N> u) const {
    return first_of<T, N>(curve_of(kind, slope, fill_up<T, N>(u)));
  }

  template <int N>
  BATCHNORM_INLINE Vector<T, N> pull(Vector<T, N> dy, Vector<T, N> u) const {
    return first_of<T, N>(steepness_of(kind, slope, fill_up<T, N>(u))) * dy;
  }
};

// Call run(activation) for the one that an epilogue names.
template <class T, class Run>
inline void with_activation(const Epilogue& epilogue, Run run) {
  const T none = T(__builtin_nan(""));
  switch (epilogue.activation) {
    case kRelu:
      return run(Clip<T>{T(0), none});
    case kRelu6:
      return run(Clip<T>{T(0), T(6)});
    case kHardTanh:
      return run(Clip<T>{T(-1), T(1)});
    default:
      return run(Curve<T>{epilogue.activation, T(epilogue.slope)});
  }
}

}  // namespace
}  // namespace batchnorm
