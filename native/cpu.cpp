#include "cpu.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lstmserve {

extern const Path portable;
extern const Path avx2;
extern const Path avx512;
extern const Path avx512_bf16;
extern const Path amx_bf16;

namespace {

// Bits of CPUID and XCR0 as in the Software Developer's Manual, volume 2, CPUID, and volume 1, chapter 13.
struct Features {
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx_bf16 = false;
};

#if defined(__x86_64__)

std::uint64_t enabled_states() {
  std::uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

// Linux hands the tiles out on request only: arch_prctl(2), ARCH_REQ_XCOMP_PERM for XTILEDATA.
bool tiles_granted() {
#if defined(__linux__)
  constexpr long request = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}

Features detect() {
  Features found;
  std::uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool fma = c >> 12 & 1, f16c = c >> 29 & 1, osxsave = c >> 27 & 1;
  if (!osxsave || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const std::uint64_t states = enabled_states();
  constexpr std::uint64_t ymm = 0x6, zmm = 0xe6, tiles = 0x60000;
  const auto has = [](std::uint32_t bits, int n) { return (bits >> n & 1) != 0; };
  found.avx2 = has(b, 5) && fma && f16c && (states & ymm) == ymm;
  found.avx512 = found.avx2 && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31) && (states & zmm) == zmm;
  const bool amx = has(d, 22) && has(d, 24) && (states & tiles) == tiles;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return found;
  found.avx512_bf16 = found.avx512 && has(a, 5);
  found.amx_bf16 = found.avx512_bf16 && amx && tiles_granted();
  return found;
}

#else

Features detect() { return {}; }

#endif

std::vector<const Path*> detect_paths() {
  [[maybe_unused]] const Features found = detect();
  std::vector<const Path*> result;
#if defined(LSTMSERVE_EMULATE_AMX)
  if (found.avx512_bf16) result.push_back(&amx_bf16);
#elif defined(LSTMSERVE_AMX)
  if (found.amx_bf16) result.push_back(&amx_bf16);
#endif
#if defined(LSTMSERVE_AVX512_BF16)
  if (found.avx512_bf16) result.push_back(&avx512_bf16);
#endif
#if defined(LSTMSERVE_AVX512)
  if (found.avx512) result.push_back(&avx512);
#endif
#if defined(LSTMSERVE_AVX2)
  if (found.avx2) result.push_back(&avx2);
#endif
  result.push_back(&portable);
  return result;
}

}  // namespace

const std::vector<const Path*>& paths() {
  static const std::vector<const Path*> found = detect_paths();
  return found;
}

}  // namespace lstmserve
