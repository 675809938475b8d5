// Which variant this machine runs best. Compiled into the portable variant only, which any machine can load.
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

// AMX with int8 and bfloat16 products (leaf 7: bits 22, 24, 25 of edx), and a kernel that lends it to this process.
static bool has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & wanted) == wanted &&
         syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
}
#else
[[maybe_unused]] static bool has_tiles() { return false; }
#endif

extern "C" __attribute__((visibility("default"))) const char* fathom_best_variant() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool vnni_bf16 = avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
  if (vnni_bf16 && has_tiles()) return "avx512_amx";
  if (vnni_bf16) return "avx512_vnni_bf16";
  if (avx512) return "avx512";
  if (avx2) return "avx2";  // every processor with AVX2 also has F16C
#endif
  return "portable";
}
