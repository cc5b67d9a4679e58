#include "jax/call.h"

#include <algorithm>
#include <cstring>

namespace batchnorm::xla {

namespace {

double as_double(int64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

double Recipe::epsilon() const { return as_double(epsilon_bits); }
double Recipe::slope() const { return as_double(slope_bits); }

Call::Call(const xla::CallFrame& frame, int inputs, int outputs, int more) : frame_(frame) {
  const xla::Attributes& attributes = frame.attributes;
  if (attributes.size != 1 || attributes.types[0] != xla::kArray) return;
  const auto* array = static_cast<const xla::Array*>(attributes.items[0]);
  if (array->type != xla::kS64 || array->size * sizeof(int64_t) != sizeof(Recipe)) return;
  const auto* recipe = static_cast<const Recipe*>(array->data);
  const int64_t given = inputs + recipe->has(0) + recipe->has(1) + recipe->has(2);
  const int64_t wanted = outputs + (more >= 0 && recipe->has(more));
  if (frame.arguments.size != given || frame.results.size != wanted) return;
  recipe_ = recipe;
  const int64_t* runs = recipe_->runs;
  sizes_ = {runs[0], runs[1], runs[2], runs[3], runs[4]};
}

const bn_epilogue* Call::epilogue(const void* residual) {
  if (recipe_->activation == BN_IDENTITY && residual == nullptr) return nullptr;
  epilogue_ = {int(recipe_->activation), recipe_->slope(), residual};
  return &epilogue_;
}

int Call::threads() const {
  int64_t number = 1;
  xla::ThreadsArguments asked{sizeof asked, nullptr, frame_.context, &number};
  // Without a pool of its own XLA computes on the calling thread, and says so by an error.
  if (xla::Error* error = frame_.api->count_threads(&asked)) {
    xla::DestroyArguments destroyed{sizeof destroyed, nullptr, error};
    frame_.api->destroy_error(&destroyed);
    return 1;
  }
  return int(std::clamp<int64_t>(number, 1, 1 << 16));
}

xla::Error* Call::fail(xla::ErrorCode code, const char* message) const {
  xla::ErrorArguments error{sizeof error, nullptr, message, code};
  return frame_.api->create_error(&error);
}

xla::Error* Call::finish(int status) const {
  switch (status) {
    case BN_OK:
      return nullptr;
    case BN_NO_MEMORY:
      return fail(xla::kResourceExhausted, "batchnorm kernels: no memory");
    case BN_BAD_SIZE:
      return fail(xla::kInvalidArgument, "batchnorm kernels: a size is negative, or the array is too large to address");
    default:
      return fail(xla::kInternal, "batchnorm kernels: no such element type or instruction set");
  }
}

bool answer_metadata(const xla::CallFrame& frame) {
  for (xla::Extension* extension = frame.extensions; extension != nullptr; extension = extension->next) {
    if (extension->type != xla::kMetadataExtension) continue;
    xla::Metadata* metadata = reinterpret_cast<xla::MetadataExtension*>(extension)->metadata;
    metadata->version.major = xla::kMajor;
    metadata->version.minor = xla::kMinor;
    return true;
  }
  return false;
}

}  // namespace batchnorm::xla
