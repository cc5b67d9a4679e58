// Calls from several threads at once, each asking for helpers, give the same bits as calls alone; so does a child of
// fork made while the helpers are at work.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "test/reference.h"

namespace {

using reference::Array;

constexpr bn_sizes kSizes[] = {{1, 1, 4000, 33, 1}, {1, 1, 8, 40, 400}, {1, 12, 300, 33, 1}, {4, 6, 100, 32, 1}};

struct Result {
  Array y, mean, rest, variance, scale, shift, dx, first, second;

  explicit Result(const bn_sizes& n)
      : y(BN_FLOAT32, size(n)), mean(BN_FLOAT32, many(n)), rest(BN_FLOAT32, many(n)),
        variance(BN_FLOAT32, many(n)), scale(BN_FLOAT32, many(n)), shift(BN_FLOAT32, many(n)),
        dx(BN_FLOAT32, size(n)), first(BN_FLOAT32, many(n)), second(BN_FLOAT32, many(n)) {}

  static int64_t many(const bn_sizes& n) { return n.group * n.channel; }
  static int64_t size(const bn_sizes& n) { return n.outer * many(n) * n.middle * n.inner; }

  void run(const bn_sizes& n, Array& x, int threads) {
    const bn_epilogue epilogue{BN_RELU, 0.0, nullptr};
    bn_train(BN_FLOAT32, &n, x.data(), nullptr, nullptr, n.channel, 1e-3, &epilogue, y.data(), mean.data(),
             rest.data(), variance.data(), scale.data(), shift.data(), threads);
    bn_gradients(BN_FLOAT32, &n, x.data(), x.data(), mean.data(), rest.data(), variance.data(), scale.data(), 1e-3,
                 &epilogue, shift.data(), nullptr, dx.data(), first.data(), second.data(), threads);
  }

  bool same(Result& other) {
    const auto equal = [](Array& a, Array& b) { return std::memcmp(a.data(), b.data(), size_t(a.size() * 4)) == 0; };
    return equal(y, other.y) && equal(mean, other.mean) && equal(rest, other.rest) && equal(variance, other.variance) && equal(dx, other.dx) &&
           equal(first, other.first) && equal(second, other.second);
  }
};

Array make_input(const bn_sizes& n, unsigned seed) {
  std::mt19937 source(seed);
  Array x(BN_FLOAT32, Result::size(n));
  for (int64_t i = 0; i < x.size(); ++i) x.set(i, double(source() % 1000) / 100.0);
  return x;
}

}  // namespace

int main() {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < 4; ++caller) {
    callers.emplace_back([caller, &wrong] {
      const bn_sizes& n = kSizes[caller];
      Array x = make_input(n, caller);
      Result alone(n);
      alone.run(n, x, 1);
      for (int round = 0; round < 12; ++round) {
        Result helped(n);
        helped.run(n, x, 2 + round % 3);
        if (!helped.same(alone)) ++wrong;
      }
    });
  }
// ThreadSanitizer and QEMU do not follow threads into a child of many.
#if !defined(__SANITIZE_THREAD__) && !defined(BATCHNORM_EMULATED)
  const pid_t child = fork();
  if (child == 0) {
    const bn_sizes& n = kSizes[0];
    Array x = make_input(n, 9);
    Result alone(n), helped(n);
    alone.run(n, x, 1);
    helped.run(n, x, 3);
    _exit(helped.same(alone) ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) ++wrong;
#endif
  for (std::thread& caller : callers) caller.join();
  std::printf(wrong == 0 ? "concurrent calls agree\n" : "concurrent calls differ\n");
  return wrong == 0 ? 0 : 1;
}
