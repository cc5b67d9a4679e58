#include "library/levels.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace batchnorm {

#if !defined(BATCHNORM_NEON)
extern const Level baseline_level;
#endif
#if defined(BATCHNORM_X86)
extern const Level avx2_level;
#endif
#if defined(BATCHNORM_AVX512)
extern const Level avx512_level;
#endif
#if defined(BATCHNORM_NEON)
extern const Level neon_level;
#endif

namespace {

struct Choice {
  const Level* level;
  bool (*runs_here)();
};

// Best first.
const Choice kChoices[] = {
#if defined(BATCHNORM_AVX512)
    {&avx512_level,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("fma") != 0;
     }},
#endif
#if defined(BATCHNORM_X86)
    // Every processor with AVX2 has F16C.
    {&avx2_level, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") != 0; }},
#endif
#if defined(BATCHNORM_NEON)
    {&neon_level, [] { return true; }},
#endif
#if !defined(BATCHNORM_NEON)
    {&baseline_level, [] { return true; }},
#endif
};

const Level* find(const char* name) {
  for (const Choice& choice : kChoices) {
    if ((name == nullptr || std::strcmp(choice.level->name, name) == 0) && choice.runs_here()) return choice.level;
  }
  return nullptr;
}

const Level* first_choice() {
  const char* asked = std::getenv("BATCHNORM_INSTRUCTIONS");
  const Level* level = asked == nullptr ? nullptr : find(asked);
  return level == nullptr ? find(nullptr) : level;
}

std::atomic<const Level*>& current() {
  static std::atomic<const Level*> level{first_choice()};
  return level;
}

}  // namespace

const Level& level_in_use() { return *current().load(std::memory_order_relaxed); }

bool select_level(const char* name) {
  const Level* level = find(name);
  if (level != nullptr) current().store(level, std::memory_order_relaxed);
  return level != nullptr;
}

bool has_level(const char* name) { return name != nullptr && find(name) != nullptr; }

}  // namespace batchnorm
