// Which variant this machine runs best. Compiled into the portable variant only, which any machine can load.
extern "C" __attribute__((visibility("default"))) const char* fathom_best_variant() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16")) return "avx512_vnni_bf16";
  if (avx512) return "avx512";
  if (avx2) return "avx2";  // every processor with AVX2 also has F16C
#endif
  return "portable";
}
