// The kernels for Python: addresses in, numbers written there. The callers own the arrays and know their shapes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <array>
#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "include/batchnorm_kernels.h"

namespace nb = nanobind;

namespace {

using Address = std::uintptr_t;  // 0 where there is no array
using Sizes = std::array<std::int64_t, 5>;

void* at(Address address) { return reinterpret_cast<void*>(address); }

bn_sizes as_sizes(const Sizes& s) { return {s[0], s[1], s[2], s[3], s[4]}; }

void check(int status) {
  switch (status) {
    case BN_OK:
      return;
    case BN_NO_MEMORY:
      throw std::bad_alloc();
    case BN_BAD_TYPE:
      throw std::invalid_argument("batchnorm kernels: no such element type");
    case BN_BAD_ISA:
      throw std::invalid_argument("batchnorm kernels: no such instruction set on this machine");
    default:
      throw std::invalid_argument("batchnorm kernels: a size is negative, or the array is too large to address");
  }
}

// Call one of the kernels without the interpreter's lock.
template <class Kernel, class... Arguments>
void run(Kernel kernel, Arguments... arguments) {
  int status;
  {
    nb::gil_scoped_release released;
    status = kernel(arguments...);
  }
  check(status);
}

void moments(int type, Sizes sizes, Address x, Address weights, bool by_group, Address total, Address effective,
             Address mean, Address rest, Address variance, int threads) {
  const bn_sizes s = as_sizes(sizes);
  run(bn_moments, type, &s, at(x), at(weights), int(by_group), at(total), at(effective), at(mean), at(rest),
      at(variance), threads);
}

void apply(int type, Sizes sizes, Address x, Address mean, Address scale, Address shift, Address y, int threads) {
  const bn_sizes s = as_sizes(sizes);
  run(bn_apply, type, &s, at(x), at(mean), at(scale), at(shift), at(y), threads);
}

void grad_sums(int type, Sizes sizes, Address dy, Address x, Address mean, Address dy_sum, Address dy_centered_sum,
               int threads) {
  const bn_sizes s = as_sizes(sizes);
  run(bn_grad_sums, type, &s, at(dy), at(x), at(mean), at(dy_sum), at(dy_centered_sum), threads);
}

void grad_input(int type, Sizes sizes, Address dy, Address x, Address weights, bool by_group, Address mean,
                Address slope, Address tilt, Address offset, Address dx, int threads) {
  const bn_sizes s = as_sizes(sizes);
  run(bn_grad_input, type, &s, at(dy), at(x), at(weights), int(by_group), at(mean), at(slope), at(tilt), at(offset),
      at(dx), threads);
}

void train(int type, Sizes sizes, Address x, Address gamma, Address beta, std::int64_t channels, double epsilon,
           Address y, Address mean, Address rest, Address variance, Address scale, int threads) {
  const bn_sizes s = as_sizes(sizes);
  run(bn_train, type, &s, at(x), at(gamma), at(beta), channels, epsilon, at(y), at(mean), at(rest), at(variance),
      at(scale), threads);
}

void infer(int type, Sizes sizes, Address x, Address gamma, Address beta, std::int64_t channels, Address mean,
           Address variance, double epsilon, Address y, int threads) {
  const bn_sizes s = as_sizes(sizes);
  run(bn_infer, type, &s, at(x), at(gamma), at(beta), channels, at(mean), at(variance), epsilon, at(y), threads);
}

void gradients(int type, Sizes sizes, Address dy, Address x, Address mean, Address rest, Address variance,
               Address scale, double epsilon, Address dx, Address dy_sum, Address dy_xhat_sum, int threads) {
  const bn_sizes s = as_sizes(sizes);
  run(bn_gradients, type, &s, at(dy), at(x), at(mean), at(rest), at(variance), at(scale), epsilon, at(dx),
      at(dy_sum), at(dy_xhat_sum), threads);
}

void blend(int type, std::int64_t groups, std::int64_t channels, Address rows, double factor, double share,
           Address old) {
  check(bn_blend(type, groups, channels, at(rows), factor, share, at(old)));
}

}  // namespace

NB_MODULE(_native, module) {
  module.attr("FLOAT32") = int(BN_FLOAT32);
  module.attr("FLOAT64") = int(BN_FLOAT64);
  module.attr("BFLOAT16") = int(BN_BFLOAT16);
  module.attr("FLOAT16") = int(BN_FLOAT16);
  module.def("moments", moments);
  module.def("apply", apply);
  module.def("grad_sums", grad_sums);
  module.def("grad_input", grad_input);
  module.def("train", train);
  module.def("infer", infer);
  module.def("gradients", gradients);
  module.def("blend", blend);
  module.def("use_team", [](Address team) { bn_use_team(reinterpret_cast<bn_team>(team)); });
  module.def("instructions", bn_instructions);
  module.def("select_instructions", [](std::optional<std::string> name) {
    check(bn_select_instructions(name.has_value() ? name->c_str() : nullptr));
  }, nb::arg("name").none());
  module.def("has_instructions", [](const char* name) { return bn_has_instructions(name) != 0; });
}
