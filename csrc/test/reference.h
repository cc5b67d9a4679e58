// Every call of the public header in plain loops over double: what the kernels are compared with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "include/batchnorm_kernels.h"

namespace reference {

inline int64_t element_bytes(int type) { return type == BN_FLOAT64 ? 8 : type == BN_FLOAT32 ? 4 : 2; }

inline float half(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const float size = exponent == 0 ? std::ldexp(float(fraction), -24) : std::ldexp(float(1024 + fraction), exponent - 25);
  return bits & 0x8000 ? -size : size;
}

// An array of exactly so many elements, at an odd place: a sanitizer sees any access beside it.
class Array {
 public:
  Array(int type, int64_t size, int64_t skipped = 0)
      : type_(type), size_(size), skipped_(skipped * element_bytes(type)),
        bytes_(new char[size_t(size * element_bytes(type) + skipped_)]()) {}

  void* data() { return bytes_.get() + skipped_; }

  double at(int64_t i) const {
    const char* from = bytes_.get() + skipped_ + i * element_bytes(type_);
    if (type_ == BN_FLOAT32) return read<float>(from);
    if (type_ == BN_FLOAT64) return read<double>(from);
    const uint16_t bits = read<uint16_t>(from);
    if (type_ == BN_FLOAT16) return half(bits);
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
  }

  void set(int64_t i, double value) {
    char* to = bytes_.get() + skipped_ + i * element_bytes(type_);
    if (type_ == BN_FLOAT32) return write(to, float(value));
    if (type_ == BN_FLOAT64) return write(to, value);
    if (type_ == BN_BFLOAT16) {
      const float single = float(value);
      uint32_t wide;
      std::memcpy(&wide, &single, sizeof(wide));
      return write(to, uint16_t(wide >> 16));
    }
    // Numbers of the tests are multiples of 2^-7 below 8, exact in a half.
    int exponent;
    const double fraction = std::frexp(std::fabs(value), &exponent);
    const uint16_t bits = value == 0.0 ? 0 : uint16_t(((exponent + 14) << 10) + int(fraction * 2048.0) - 1024);
    write(to, uint16_t(bits | (value < 0.0 ? 0x8000 : 0)));
  }

  int64_t size() const { return size_; }

 private:
  template <class T>
  static T read(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  template <class T>
  static void write(char* to, T value) {
    std::memcpy(to, &value, sizeof(value));
  }

  int type_;
  int64_t size_, skipped_;
  std::unique_ptr<char[]> bytes_;
};

// Call visit(element, statistic, weight index) for every element.
template <class Visit>
void each(const bn_sizes& n, bool by_group, Visit visit) {
  int64_t element = 0;
  for (int64_t o = 0; o < n.outer; ++o)
    for (int64_t g = 0; g < n.group; ++g)
      for (int64_t m = 0; m < n.middle; ++m)
        for (int64_t c = 0; c < n.channel; ++c)
          for (int64_t i = 0; i < n.inner; ++i) {
            const int64_t row = by_group ? (o * n.group + g) * n.middle + m : o * n.middle + m;
            visit(element++, g * n.channel + c, row * n.inner + i);
          }
}

// An activation's value, and its derivative.
struct Value {
  double value, derivative;
};

inline Value activate(int activation, double slope, double u) {
  const auto logistic = [](double v) { return 1.0 / (1.0 + std::exp(-v)); };
  const auto clip = [u](double low, double high) {
    return Value{u < low ? low : u > high ? high : u, u > low && u < high ? 1.0 : 0.0};
  };
  const double s = logistic(u), below = 0.5 * std::erfc(-u * std::sqrt(0.5)), root = std::sqrt(8.0 / std::acos(-1.0));
  const double t = logistic(root * (u + 0.044715 * u * u * u));
  switch (activation) {
    case BN_RELU:
      return clip(0.0, HUGE_VAL);
    case BN_RELU6:
      return clip(0.0, 6.0);
    case BN_LEAKY_RELU:
      return u > 0.0 ? Value{u, 1.0} : Value{slope * u, slope};
    case BN_HARD_TANH:
      return clip(-1.0, 1.0);
    case BN_HARD_SWISH:
      return {u <= -3.0 ? 0.0 : u >= 3.0 ? u : u * (u + 3.0) / 6.0, u <= -3.0 ? 0.0 : u >= 3.0 ? 1.0 : u / 3.0 + 0.5};
    case BN_SILU:
      return {u * s, s + u * s * (1.0 - s)};
    case BN_GELU:
      return {u * below, below + u * std::exp(-0.5 * u * u) * 0.25 * root};
    case BN_GELU_TANH:
      return {u * t, t + u * t * (1.0 - t) * root * (1.0 + 0.134145 * u * u)};
    case BN_SIGMOID:
      return {s, s * (1.0 - s)};
    case BN_TANH:
      return {std::tanh(u), 1.0 - std::tanh(u) * std::tanh(u)};
  }
  return {u, 1.0};
}

struct Moments {
  std::vector<double> total, mean, variance;
};

inline Moments moments(const bn_sizes& n, const Array& x, const Array* weights, bool by_group) {
  const size_t many = size_t(n.group * n.channel);
  Moments found{std::vector<double>(many), std::vector<double>(many), std::vector<double>(many)};
  const auto weight = [&](int64_t w) { return weights == nullptr ? 1.0 : weights->at(w); };
  each(n, by_group, [&](int64_t e, int64_t k, int64_t w) {
    found.total[size_t(k)] += weight(w);
    found.mean[size_t(k)] += weight(w) * x.at(e);
  });
  for (size_t k = 0; k < many; ++k) found.mean[k] = found.total[k] > 0.0 ? found.mean[k] / found.total[k] : 0.0;
  each(n, by_group, [&](int64_t e, int64_t k, int64_t w) {
    const double d = x.at(e) - found.mean[size_t(k)];
    found.variance[size_t(k)] += weight(w) * d * d;
  });
  for (size_t k = 0; k < many; ++k) found.variance[k] = found.total[k] > 0.0 ? found.variance[k] / found.total[k] : 0.0;
  return found;
}

}  // namespace reference
