// The kernels for Python: addresses in, numbers written there. The callers own the arrays and know their shapes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <array>
#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "include/batchnorm_kernels.h"

namespace nb = nanobind;

namespace {

using Address = std::uintptr_t;  // 0 where there is no array
using Sizes = std::array<std::int64_t, 5>;

void* at(Address address) { return reinterpret_cast<void*>(address); }

bn_sizes as_sizes(const Sizes& s) { return {s[0], s[1], s[2], s[3], s[4]}; }

// Activation, slope, residual.
using Given = std::optional<std::tuple<int, double, Address>>;

// The epilogue of a call, if one is given.
class Epilogue {
 public:
  explicit Epilogue(const Given& given) : given_(given.has_value()) {
    if (given_) epilogue_ = {std::get<0>(*given), std::get<1>(*given), at(std::get<2>(*given))};
  }

  const bn_epilogue* get() const { return given_ ? &epilogue_ : nullptr; }

 private:
  bool given_;
  bn_epilogue epilogue_;
};

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
    case BN_BAD_EPILOGUE:
      throw std::invalid_argument(
          "batchnorm kernels: no such activation, or a residual, weights or `pulled` that do not go with the call");
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

void apply(int type, Sizes sizes, Address x, Address mean, Address scale, Address shift, Address y, int threads,
           Given epilogue) {
  const bn_sizes s = as_sizes(sizes);
  const Epilogue e(epilogue);
  run(bn_apply, type, &s, at(x), at(mean), at(scale), at(shift), e.get(), at(y), threads);
}

void grad_sums(int type, Sizes sizes, Address dy, Address x, Address mean, Address dy_sum, Address dy_centered_sum,
               int threads, Given epilogue, Address scale, Address shift, Address pulled) {
  const bn_sizes s = as_sizes(sizes);
  const Epilogue e(epilogue);
  run(bn_grad_sums, type, &s, at(dy), at(x), at(mean), e.get(), at(scale), at(shift), at(pulled), at(dy_sum),
      at(dy_centered_sum), threads);
}

void grad_input(int type, Sizes sizes, Address dy, Address x, Address weights, bool by_group, Address mean,
                Address slope, Address tilt, Address offset, Address dx, int threads, Given epilogue, Address shift) {
  const bn_sizes s = as_sizes(sizes);
  const Epilogue e(epilogue);
  run(bn_grad_input, type, &s, at(dy), at(x), at(weights), int(by_group), at(mean), at(slope), at(tilt), at(offset),
      e.get(), at(shift), at(dx), threads);
}

void train(int type, Sizes sizes, Address x, Address gamma, Address beta, std::int64_t channels, double epsilon,
           Address y, Address mean, Address rest, Address variance, Address scale, int threads, Given epilogue,
           Address shift) {
  const bn_sizes s = as_sizes(sizes);
  const Epilogue e(epilogue);
  run(bn_train, type, &s, at(x), at(gamma), at(beta), channels, epsilon, e.get(), at(y), at(mean), at(rest),
      at(variance), at(scale), at(shift), threads);
}

void infer(int type, Sizes sizes, Address x, Address gamma, Address beta, std::int64_t channels, Address mean,
           Address variance, double epsilon, Address y, int threads, Given epilogue) {
  const bn_sizes s = as_sizes(sizes);
  const Epilogue e(epilogue);
  run(bn_infer, type, &s, at(x), at(gamma), at(beta), channels, at(mean), at(variance), epsilon, e.get(), at(y),
      threads);
}

void gradients(int type, Sizes sizes, Address dy, Address x, Address mean, Address rest, Address variance,
               Address scale, double epsilon, Address dx, Address dy_sum, Address dy_xhat_sum, int threads,
               Given epilogue, Address shift, Address pulled) {
  const bn_sizes s = as_sizes(sizes);
  const Epilogue e(epilogue);
  run(bn_gradients, type, &s, at(dy), at(x), at(mean), at(rest), at(variance), at(scale), epsilon, e.get(), at(shift),
      at(pulled), at(dx), at(dy_sum), at(dy_xhat_sum), threads);
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
  nb::dict activations;
  activations["identity"] = int(BN_IDENTITY);
  activations["relu"] = int(BN_RELU);
  activations["relu6"] = int(BN_RELU6);
  activations["leaky_relu"] = int(BN_LEAKY_RELU);
  activations["hard_tanh"] = int(BN_HARD_TANH);
  activations["hard_swish"] = int(BN_HARD_SWISH);
  activations["silu"] = int(BN_SILU);
  activations["gelu"] = int(BN_GELU);
  activations["gelu_tanh"] = int(BN_GELU_TANH);
  activations["sigmoid"] = int(BN_SIGMOID);
  activations["tanh"] = int(BN_TANH);
  module.attr("ACTIVATIONS") = activations;
  module.def("moments", moments);
  module.def("apply", apply, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("epilogue") = nb::none());
  module.def("grad_sums", grad_sums, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("epilogue") = nb::none(), nb::arg("scale") = 0, nb::arg("shift") = 0, nb::arg("pulled") = 0);
  module.def("grad_input", grad_input, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("epilogue") = nb::none(), nb::arg("shift") = 0);
  module.def("train", train, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("epilogue") = nb::none(), nb::arg("shift") = 0);
  module.def("infer", infer, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("epilogue") = nb::none());
  module.def("gradients", gradients, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg("epilogue") = nb::none(), nb::arg("shift") = 0, nb::arg("pulled") = 0);
  module.def("blend", blend);
  module.def("use_team", [](Address team) { bn_use_team(reinterpret_cast<bn_team>(team)); });
  module.def("instructions", bn_instructions);
  module.def("select_instructions", [](std::optional<std::string> name) {
    check(bn_select_instructions(name.has_value() ? name->c_str() : nullptr));
  }, nb::arg("name").none());
  module.def("has_instructions", [](const char* name) { return bn_has_instructions(name) != 0; });
}
