// Every kernel on random sizes, types, alignments, weights and instruction sets against plain loops:
// random_calls [CASES [INSTRUCTIONS]].
#include <cstdio>
#include <cstdlib>

#include "test/reference.h"

namespace {

using reference::Array;

std::mt19937 source;

int64_t below(int64_t n) { return int64_t(source() % uint64_t(n)); }

void fill(Array* array, double center) {
  for (int64_t i = 0; i < array->size(); ++i) array->set(i, center + double(below(512) - 256) / 128.0);
}

struct Tester {
  int type;
  bn_sizes n;
  const char* isa;

  void near(const char* what, double got, double want, double tolerance) const {
    if (std::fabs(got - want) <= tolerance * std::fmax(1.0, std::fabs(want))) return;
    std::printf("%s at %s, type %d, sizes %ld %ld %ld %ld %ld: got %.9g, expected %.9g\n", what, isa, type,
                long(n.outer), long(n.group), long(n.middle), long(n.channel), long(n.inner), got, want);
    std::exit(1);
  }

  void ok(int status) const { near("status", status, BN_OK, 0.0); }
};

void run_case(const char* isa) {
  const int type = int(below(4)), statistics = type == BN_FLOAT64 ? BN_FLOAT64 : BN_FLOAT32;
  const int64_t longest[] = {4, 40, 300, 900};
  const auto size = [&] { return 1 + below(longest[below(2)]); };
  bn_sizes n{1 + below(4), 1 + below(4), size(), size(), below(2) == 0 ? 1 : 1 + below(longest[below(4)])};
  if (below(20) == 0) n.outer = 0;
  const Tester t{type, n, isa};
  const int64_t many = n.group * n.channel, size_of_x = n.outer * many * n.middle * n.inner;
  const bool by_group = below(2) == 0, weighted = below(2) == 0;
  const int threads = 1 + int(below(3));
  Array x(type, size_of_x, below(4)), dy(type, size_of_x, below(4)), y(type, size_of_x, below(4));
  Array weights(statistics, n.outer * (by_group ? n.group : 1) * n.middle * n.inner, below(2));
  Array mean(statistics, many), rest(statistics, many), variance(statistics, many), scale(statistics, many), tilt(statistics, many),
      total(statistics, by_group ? n.group : 1), first(statistics, many), second(statistics, many);
  // A mean far from zero, where 16 bits can hold it.
  fill(&x, statistics == type && below(2) == 0 ? 1e4 : 0.0);
  fill(&dy, 0.0);
  for (int64_t i = 0; i < weights.size(); ++i) weights.set(i, double(below(3)));
  const double loose = type == BN_FLOAT64 ? 1e-9 : type == BN_FLOAT32 ? 2e-3 : type == BN_FLOAT16 ? 4e-3 : 2e-2;
  // Of what the mean costs no digits.
  const double close = type == BN_FLOAT32 ? 2e-5 : loose;
  void* w = weighted ? weights.data() : nullptr;

  t.ok(bn_moments(type, &n, x.data(), w, by_group, total.data(), nullptr, mean.data(), rest.data(), variance.data(),
                  threads));
  const auto wanted = reference::moments(n, x, weighted ? &weights : nullptr, by_group);
  for (int64_t k = 0; k < many; ++k) {
    t.near("mean", mean.at(k), wanted.mean[size_t(k)], type == BN_FLOAT64 ? 1e-12 : 1e-6);
    t.near("rest", mean.at(k) + rest.at(k) - wanted.mean[size_t(k)], 0.0, type == BN_FLOAT64 ? 1e-11 : 1e-6);
    t.near("variance", variance.at(k), wanted.variance[size_t(k)], type == BN_FLOAT64 ? 1e-9 : 1e-5);
    scale.set(k, 0.5 + double(k % 3));
    tilt.set(k, 0.25 * double(k % 5));
  }

  t.ok(bn_apply(type, &n, x.data(), mean.data(), scale.data(), tilt.data(), nullptr,
                y.data(), threads));
  reference::each(n, by_group, [&](int64_t e, int64_t k, int64_t) {
    t.near("y", y.at(e), (x.at(e) - mean.at(k)) * scale.at(k) + tilt.at(k), loose);
  });

  t.ok(bn_grad_sums(type, &n, dy.data(), x.data(), mean.data(), nullptr, nullptr, nullptr, nullptr, first.data(),
                    second.data(), threads));
  std::vector<double> sum(size_t(many), 0.0), centered(size_t(many), 0.0);
  reference::each(n, by_group, [&](int64_t e, int64_t k, int64_t) {
    sum[size_t(k)] += dy.at(e);
    centered[size_t(k)] += dy.at(e) * (x.at(e) - mean.at(k));
  });
  const double terms = std::fmax(1.0, double(n.outer * n.middle * n.inner));
  for (int64_t k = 0; k < many; ++k) {
    t.near("dy_sum", first.at(k) / terms, sum[size_t(k)] / terms, 1e-5);
    t.near("dy_centered_sum", second.at(k) / terms, centered[size_t(k)] / terms, 1e-5);
  }

  t.ok(bn_grad_input(type, &n, dy.data(), x.data(), w, by_group, mean.data(), scale.data(), tilt.data(),
                     scale.data(), nullptr, nullptr, y.data(), threads));
  reference::each(n, by_group, [&](int64_t e, int64_t k, int64_t at) {
    const double pulled = tilt.at(k) * (x.at(e) - mean.at(k)) + scale.at(k);
    t.near("dx", y.at(e), scale.at(k) * dy.at(e) + (weighted ? weights.at(at) : 1.0) * pulled, loose);
  });

  // What the calls know in two parts.
  const std::vector<double> whole = reference::moments(n, x, nullptr, by_group).mean;
  Array gamma(statistics, n.channel), beta(statistics, n.channel);
  fill(&gamma, 2.0);
  fill(&beta, 0.0);
  const bool plain = below(4) == 0;
  t.ok(bn_train(type, &n, x.data(), plain ? nullptr : gamma.data(), plain ? nullptr : beta.data(), n.channel, 0.125,
                nullptr, y.data(), mean.data(), rest.data(), variance.data(), scale.data(), nullptr, threads));
  reference::each(n, by_group, [&](int64_t e, int64_t k, int64_t) {
    const double g = plain ? 1.0 : gamma.at(k % n.channel), b = plain ? 0.0 : beta.at(k % n.channel);
    t.near("normalized", y.at(e), g * (x.at(e) - whole[size_t(k)]) / std::sqrt(variance.at(k) + 0.125) + b, close);
  });
  t.ok(bn_infer(type, &n, x.data(), gamma.data(), beta.data(), n.channel, mean.data(), variance.data(), 0.125,
                nullptr, y.data(), threads));

  t.ok(bn_gradients(type, &n, dy.data(), x.data(), mean.data(), rest.data(), variance.data(), scale.data(), 0.125,
                    nullptr, nullptr, nullptr, y.data(), first.data(), second.data(), threads));
  std::vector<double> other(size_t(many), 0.0);
  reference::each(n, by_group,
                  [&](int64_t e, int64_t k, int64_t) { other[size_t(k)] += dy.at(e) * (x.at(e) - whole[size_t(k)]); });
  reference::each(n, by_group, [&](int64_t e, int64_t k, int64_t) {
    const double share = other[size_t(k)] / terms / (variance.at(k) + 0.125);
    const double want = scale.at(k) * (dy.at(e) - sum[size_t(k)] / terms - (x.at(e) - whole[size_t(k)]) * share);
    t.near("gradient", y.at(e), want, 2.0 * close);
  });
}

// The same calls with an activation and perhaps a residual.
void run_epilogue_case(const char* isa) {
  const int type = int(below(4)), statistics = type == BN_FLOAT64 ? BN_FLOAT64 : BN_FLOAT32;
  const int64_t longest[] = {4, 40, 300, 900};
  const auto size = [&] { return 1 + below(longest[below(2)]); };
  const bn_sizes n{1 + below(4), 1 + below(4), size(), size(), below(2) == 0 ? 1 : 1 + below(longest[below(4)])};
  const Tester t{type, n, isa};
  const int64_t many = n.group * n.channel, size_of_x = n.outer * many * n.middle * n.inner;
  const int threads = 1 + int(below(3));
  const bool residual = below(2) == 0, keeps = residual || below(2) == 0;
  Array x(type, size_of_x, below(4)), dy(type, size_of_x, below(4)), z(type, size_of_x, below(4)),
      y(type, size_of_x, below(4)), pulled(type, size_of_x, below(4));
  Array mean(statistics, many), rest(statistics, many), variance(statistics, many), scale(statistics, many),
      shift(statistics, many), first(statistics, many), second(statistics, many);
  fill(&x, 0.0);
  fill(&dy, 0.0);
  fill(&z, 0.0);
  for (int64_t k = 0; k < many; ++k) {
    mean.set(k, 0.25);
    variance.set(k, 1.0 + double(k % 2));
    scale.set(k, 0.5 + double(k % 3));
    // No u of a clip is at one of its bounds.
    shift.set(k, 0.001 + 0.25 * double(k % 5));
  }
  const bn_epilogue epilogue{int(below(11)), 0.375, residual ? z.data() : nullptr};
  const auto u = [&](int64_t e, int64_t k) {
    return (x.at(e) - mean.at(k)) * scale.at(k) + shift.at(k) + (residual ? z.at(e) : 0.0);
  };
  const auto activated = [&](double v) { return reference::activate(epilogue.activation, epilogue.slope, v); };
  const double loose = type == BN_FLOAT64 ? 1e-9 : type == BN_FLOAT32 ? 1e-4 : type == BN_FLOAT16 ? 4e-3 : 2e-2;
  const double terms = double(n.outer * n.middle * n.inner);

  t.ok(bn_apply(type, &n, x.data(), mean.data(), scale.data(), shift.data(), &epilogue, y.data(), threads));
  reference::each(n, false, [&](int64_t e, int64_t k, int64_t) {
    t.near("activated", y.at(e), activated(u(e, k)).value, loose);
  });

  t.ok(bn_grad_sums(type, &n, dy.data(), x.data(), mean.data(), &epilogue, scale.data(), shift.data(),
                    keeps ? pulled.data() : nullptr, first.data(), second.data(), threads));
  std::vector<double> h(size_t(size_of_x), 0.0), sum(size_t(many), 0.0), centered(size_t(many), 0.0);
  reference::each(n, false, [&](int64_t e, int64_t k, int64_t) {
    h[size_t(e)] = activated(u(e, k)).derivative * dy.at(e);
    sum[size_t(k)] += h[size_t(e)];
    centered[size_t(k)] += h[size_t(e)] * (x.at(e) - mean.at(k));
    if (keeps) t.near("pulled", pulled.at(e), h[size_t(e)], loose);
  });
  for (int64_t k = 0; k < many; ++k) {
    t.near("sum of h", first.at(k) / terms, sum[size_t(k)] / terms, 1e-5);
    t.near("centered sum of h", second.at(k) / terms, centered[size_t(k)] / terms, 1e-5);
  }

  t.ok(bn_gradients(type, &n, dy.data(), x.data(), mean.data(), rest.data(), variance.data(), scale.data(), 0.125,
                    &epilogue, shift.data(), keeps ? pulled.data() : nullptr, y.data(), first.data(), second.data(),
                    threads));
  reference::each(n, false, [&](int64_t e, int64_t k, int64_t) {
    const double share = centered[size_t(k)] / terms / (variance.at(k) + 0.125);
    const double want = scale.at(k) * (h[size_t(e)] - sum[size_t(k)] / terms - (x.at(e) - mean.at(k)) * share);
    t.near("gradient with an epilogue", y.at(e), want, 4.0 * loose);
  });

  const bn_epilogue alone{epilogue.activation, epilogue.slope, nullptr};
  t.near("refused", bn_grad_input(type, &n, dy.data(), x.data(), nullptr, 0, mean.data(), scale.data(), rest.data(),
                                  shift.data(), &epilogue, shift.data(), y.data(), threads),
         residual ? BN_BAD_EPILOGUE : BN_OK, 0.0);
  t.ok(bn_grad_input(type, &n, dy.data(), x.data(), nullptr, 0, mean.data(), scale.data(), rest.data(), shift.data(),
                     &alone, shift.data(), y.data(), threads));
  reference::each(n, false, [&](int64_t e, int64_t k, int64_t) {
    const double v = (x.at(e) - mean.at(k)) * scale.at(k) + shift.at(k);
    t.near("dx with an activation", y.at(e), scale.at(k) * activated(v).derivative * dy.at(e) + shift.at(k), loose);
  });

  t.ok(bn_infer(type, &n, x.data(), scale.data(), shift.data(), many, mean.data(), variance.data(), 0.125, &epilogue,
                y.data(), threads));
  const auto normal = [&](int64_t e, int64_t k) {
    return scale.at(k) * (x.at(e) - mean.at(k)) / std::sqrt(variance.at(k) + 0.125);
  };
  reference::each(n, false, [&](int64_t e, int64_t k, int64_t) {
    const double want = activated(normal(e, k) + shift.at(k) + (residual ? z.at(e) : 0.0)).value;
    t.near("inference with an epilogue", y.at(e), want, loose);
  });

  Array gammas(statistics, many), betas(statistics, many);
  for (int64_t k = 0; k < many; ++k) gammas.set(k, scale.at(k)), betas.set(k, shift.at(k));
  t.ok(bn_train(type, &n, x.data(), gammas.data(), betas.data(), many, 0.125, &epilogue, y.data(), mean.data(),
                rest.data(), variance.data(), scale.data(), shift.data(), threads));
  reference::each(n, false, [&](int64_t e, int64_t k, int64_t) {
    t.near("shift", shift.at(k), betas.at(k) - rest.at(k) * scale.at(k), 1e-6);
    t.near("trained with an epilogue", y.at(e), activated(u(e, k)).value, loose);
  });
}

// Some emulators round a tie to a half upwards, where processors round it to the even one.
#if defined(BATCHNORM_TIES_EITHER_WAY)
constexpr bool kTiesToEven = false;
#else
constexpr bool kTiesToEven = true;
#endif

// Every 16-bit number times 1.5: read exactly, rounded to the nearest, ties to even; infinities and NaN stay.
void check_rounding(const char* isa, int type, bn_sizes n) {
  const Tester t{type, n, isa};
  const int64_t many = 1 << 16, infinity = type == BN_FLOAT16 ? 0x7c00 : 0x7f80;
  Array x(type, many), y(type, many), zero(BN_FLOAT32, n.channel), scale(BN_FLOAT32, n.channel);
  for (int64_t k = 0; k < n.channel; ++k) scale.set(k, 1.5);
  for (int64_t i = 0; i < many; ++i) static_cast<uint16_t*>(x.data())[i] = uint16_t(i);
  t.ok(bn_apply(type, &n, x.data(), zero.data(), scale.data(), zero.data(), nullptr, y.data(), 1));
  for (int64_t i = 0; i < many; ++i) {
    const int64_t given = i & 0x7fff, got = static_cast<const uint16_t*>(y.data())[i] & 0x7fff;
    if (given >= infinity) {
      t.near("infinity or NaN", (got > infinity) - (got < infinity), given > infinity, 0.0);
      continue;
    }
    const double want = 1.5 * x.at(given);
    const auto away = [&](int64_t bits) { return std::fabs(x.at(bits) - want); };
    const bool overflows = want >= 1.5 * x.at(infinity - 1) - 0.5 * x.at(infinity - 2);
    const int64_t below = got - (got > 0), above = got + (got < infinity - 1);
    const bool tie_is_right = !kTiesToEven || (got & 1) == 0;
    const bool nearest = away(got) < away(below) || got == below || (away(got) == away(below) && tie_is_right);
    const bool nearest_too = away(got) < away(above) || got == above || (away(got) == away(above) && tie_is_right);
    t.near("rounded", overflows ? got == infinity : nearest && nearest_too, 1.0, 0.0);
    t.near("sign", (i < 0x8000) == (static_cast<const uint16_t*>(y.data())[i] < 0x8000) || got == 0, 1.0, 0.0);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 200;
  const char* only = count > 2 ? arguments[2] : nullptr;
  int tried = 0;
  for (const char* isa : {"baseline", "avx2", "avx512", "neon"}) {
    if (only != nullptr && std::strcmp(isa, only) != 0) continue;
    if (bn_select_instructions(isa) != BN_OK) continue;
    source.seed(7);
    for (int i = 0; i < cases; ++i, ++tried) run_case(isa);
    for (int i = 0; i < cases; ++i, ++tried) run_epilogue_case(isa);
    for (const int type : {BN_BFLOAT16, BN_FLOAT16}) {
      check_rounding(isa, type, {1, 1, 1, 1, 1 << 16});
      check_rounding(isa, type, {1, 1, 1 << 10, 64, 1});
    }
  }
  const bn_sizes negative{1, -1, 1, 1, 1}, huge{int64_t(1) << 40, int64_t(1) << 40, 1, 1, 1};
  if (bn_apply(BN_FLOAT32, &negative, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1) != BN_BAD_SIZE) return 1;
  if (bn_apply(BN_FLOAT32, &huge, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1) != BN_BAD_SIZE) return 1;
  if (bn_apply(9, &negative, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1) != BN_BAD_TYPE) return 1;
  std::printf("%d random calls agree\n", tried);
  return tried > 0 ? 0 : 1;
}
