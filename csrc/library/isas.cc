#include "library/isas.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace batchnorm {

#if !defined(BATCHNORM_NEON)
extern const Isa baseline_isa;
#endif
#if defined(BATCHNORM_X86)
extern const Isa avx2_isa;
#endif
#if defined(BATCHNORM_AVX512)
extern const Isa avx512_isa;
#endif
#if defined(BATCHNORM_NEON)
extern const Isa neon_isa;
#endif

namespace {

struct Choice {
  const Isa* isa;
  bool (*runs_here)();
};

// Best first.
const Choice kChoices[] = {
#if defined(BATCHNORM_AVX512)
    {&avx512_isa,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("fma") != 0;
     }},
#endif
#if defined(BATCHNORM_X86)
    // Every processor with AVX2 has F16C.
    {&avx2_isa, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") != 0; }},
#endif
#if defined(BATCHNORM_NEON)
    {&neon_isa, [] { return true; }},
#endif
#if !defined(BATCHNORM_NEON)
    {&baseline_isa, [] { return true; }},
#endif
};

const Isa* find(const char* name) {
  for (const Choice& choice : kChoices) {
    if ((name == nullptr || std::strcmp(choice.isa->name, name) == 0) && choice.runs_here()) return choice.isa;
  }
  return nullptr;
}

const Isa* first_choice() {
  const char* asked = std::getenv("BATCHNORM_INSTRUCTIONS");
  const Isa* isa = asked == nullptr ? nullptr : find(asked);
  return isa == nullptr ? find(nullptr) : isa;
}

std::atomic<const Isa*>& current() {
  static std::atomic<const Isa*> isa{first_choice()};
  return isa;
}

}  // namespace

const Isa& isa_in_use() { return *current().load(std::memory_order_relaxed); }

bool select_isa(const char* name) {
  const Isa* isa = find(name);
  if (isa != nullptr) current().store(isa, std::memory_order_relaxed);
  return isa != nullptr;
}

bool has_isa(const char* name) { return name != nullptr && find(name) != nullptr; }

}  // namespace batchnorm
