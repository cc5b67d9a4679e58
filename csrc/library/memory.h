// Advice to the operating system about memory that is about to be written.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace batchnorm {

// Ask for huge pages under a large array that will be written whole. Frameworks allocate outputs that the system has not
// backed yet; with pages of 4 KB, faulting them in takes longer than the arithmetic. Where the memory is there already,
// this changes nothing.
inline void advise_huge_pages(void* array, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = uintptr_t(1) << 21;
  constexpr int64_t kLarge = 2 * int64_t(kHuge);
  if (array == nullptr || bytes < kLarge) return;
  const uintptr_t start = reinterpret_cast<uintptr_t>(array), end = start + uintptr_t(bytes);
  const uintptr_t from = (start + kHuge - 1) / kHuge * kHuge, to = end / kHuge * kHuge;
  // It may be refused, for example by a kernel without huge pages; then nothing is lost.
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#else
  (void)array;
  (void)bytes;
#endif
}

}  // namespace batchnorm
