// The passes of a training step that are not matrix products: each reads its tensors once, where PyTorch's chain of
// operations reads and writes them a dozen times. Products stay with PyTorch (oneDNN uses AMX where the machine has it).
//
// Rows are independent and sums over rows are taken over fixed blocks in order, so results do not depend on the number of
// threads. Values are float32 or bfloat16 (type 0 or 1); all arithmetic is float32.
// N tokens, D hidden size, K choices, M = N*K, P rows after padding, F width of an expert, V vocabulary.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct BFloat16 {
  uint16_t bits;
};

inline float load(float value) { return value; }
inline float load(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
inline void store(float* to, float value) { *to = value; }
inline void store(BFloat16* to, float value) {  // to nearest, ties to even; NaN stays NaN
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// e^x within 2 ulp between -87 and 88, outside the value at the end (Cody and Waite's reduction, degree-6 polynomial). Written
// with plain comparisons and the rounding trick 1.5 * 2^23, which compilers turn into vector code. NaN stays NaN.
inline float exponential(float x) {
  float clamped = x < -87.0f ? -87.0f : x;
  clamped = clamped > 88.0f ? 88.0f : clamped;
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - 0x4b400000u + 127u) << 23;
  return p * std::bit_cast<float>(exponent);
}

inline float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }

constexpr int64_t BLOCK = 256;  // rows whose sums are taken together

template <class T>
float inverse_root_mean_square(const T* x, int64_t d, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < d; i++) sum += load(x[i]) * load(x[i]);
  return 1.0f / std::sqrt(sum / static_cast<float>(d) + eps);
}

template <class T>
void rms_norm(const T* x, const T* weight, T* out, int64_t n, int64_t d, float eps) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < n; row++) {
    const T* from = x + row * d;
    const float inverse = inverse_root_mean_square(from, d, eps);
#pragma omp simd
    for (int64_t i = 0; i < d; i++) store(out + row * d + i, load(from[i]) * inverse * load(weight[i]));
  }
}

// dx = inverse * (g w - normed * mean(g w normed)); dw = sum of g normed over rows.
template <class T>
void rms_norm_backward(const T* x, const T* weight, const T* gradient, T* dx, float* dweight, int64_t n, int64_t d,
                       float eps) {
  const int64_t blocks = (n + BLOCK - 1) / BLOCK;
  std::vector<float> sums(static_cast<size_t>(blocks * d), 0.0f);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks; block++) {
    float* sum = sums.data() + block * d;
    for (int64_t row = block * BLOCK; row < std::min(n, (block + 1) * BLOCK); row++) {
      const T *from = x + row * d, *g = gradient + row * d;
      const float inverse = inverse_root_mean_square(from, d, eps);
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < d; i++) {
        const float both = load(g[i]) * load(from[i]) * inverse;
        sum[i] += both;
        dot += both * load(weight[i]);
      }
      const float mean = dot / static_cast<float>(d);
#pragma omp simd
      for (int64_t i = 0; i < d; i++)
        store(dx + row * d + i, inverse * (load(g[i]) * load(weight[i]) - load(from[i]) * inverse * mean));
    }
  }
  for (int64_t i = 0; i < d; i++) dweight[i] = 0;
  for (int64_t block = 0; block < blocks; block++)
    for (int64_t i = 0; i < d; i++) dweight[i] += sums[static_cast<size_t>(block * d + i)];
}

// inner = silu(gate) * up, of rows [gate F ; up F].
template <class T>
void swiglu(const T* both, T* inner, int64_t p, int64_t f) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < p; row++) {
    const T *gate = both + row * 2 * f, *up = gate + f;
#pragma omp simd
    for (int64_t i = 0; i < f; i++) {
      const float g = load(gate[i]);
      store(inner + row * f + i, g * logistic(g) * load(up[i]));
    }
  }
}

// `gradient` is that of the inner rows of an output with weight 1. Gives the weighted inner rows (for the gradient of the
// down projection), the gradient of [gate ; up], and of the weights. Without weights they count as 1.
template <class T>
void swiglu_backward(const T* both, const T* gradient, const float* weights, T* inner, T* dboth, float* dweights, int64_t p,
                     int64_t f) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < p; row++) {
    const T *gate = both + row * 2 * f, *up = gate + f, *from = gradient + row * f;
    T *dgate = dboth + row * 2 * f, *dup = dgate + f;
    const float weight = weights ? weights[row] : 1.0f;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < f; i++) {
      const float g = load(gate[i]), u = load(up[i]), d = load(from[i]), sigmoid = logistic(g), silu = g * sigmoid;
      dot += d * silu * u;
      store(inner + row * f + i, silu * u * weight);
      store(dgate + i, d * weight * u * (sigmoid + silu * (1.0f - sigmoid)));
      store(dup + i, d * weight * silu);
    }
    if (dweights) dweights[row] = dot;
  }
}

template <class T>
void gather(const T* from, const int64_t* source, T* out, int64_t p, int64_t d) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < p; row++) std::memcpy(out + row * d, from + source[row] * d, sizeof(T) * d);
}

// out[n] = sum over k of weights[n, k] * rows[position[n, k]], in the order of k; without weights the plain sum.
template <class T>
void weighted_sum(const T* rows, const int64_t* position, const float* weights, T* out, int64_t n, int64_t k, int64_t d) {
#pragma omp parallel
  {
    std::vector<float> sum(static_cast<size_t>(d));
#pragma omp for schedule(static)
    for (int64_t token = 0; token < n; token++) {
      for (int64_t choice = 0; choice < k; choice++) {
        const T* from = rows + position[token * k + choice] * d;
        const float weight = weights ? weights[token * k + choice] : 1.0f;
        float* to = sum.data();
        if (choice == 0) {
#pragma omp simd
          for (int64_t i = 0; i < d; i++) to[i] = weight * load(from[i]);
        } else {
#pragma omp simd
          for (int64_t i = 0; i < d; i++) to[i] += weight * load(from[i]);
        }
      }
#pragma omp simd
      for (int64_t i = 0; i < d; i++) store(out + token * d + i, sum[static_cast<size_t>(i)]);
    }
  }
}

template <class T>
float maximum(const T* x, int64_t n) {
  float result = -HUGE_VALF;
#pragma omp simd reduction(max : result)
  for (int64_t i = 0; i < n; i++) result = load(x[i]) > result ? load(x[i]) : result;
  return result;
}

// Turns logits into softmax - one_hot(target), zero in rows whose target is negative, and gives every row's loss.
template <class T>
void cross_entropy(T* logits, const int64_t* targets, float* losses, int64_t c, int64_t v) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < c; row++) {
    T* x = logits + row * v;
    const int64_t target = targets[row];
    if (target < 0) {
      std::memset(static_cast<void*>(x), 0, sizeof(T) * v);
      losses[row] = 0;
      continue;
    }
    const float top = maximum(x, v), wanted = load(x[target]) - top;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < v; i++) sum += exponential(load(x[i]) - top);
    const float inverse = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < v; i++) store(x + i, exponential(load(x[i]) - top) * inverse);
    store(x + target, exponential(wanted) * inverse - 1.0f);
    losses[row] = std::log(sum) - wanted;
  }
}

// scores [rows, T] of queries row % T against T keys, in place: softmax(scale * scores) up to the query, 0 after it.
template <class T>
void causal_softmax(T* scores, int64_t rows, int64_t t, float scale) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    T* x = scores + row * t;
    const int64_t seen = row % t + 1;
    const float top = maximum(x, seen) * scale;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < seen; i++) sum += exponential(load(x[i]) * scale - top);
    const float inverse = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < seen; i++) store(x + i, exponential(load(x[i]) * scale - top) * inverse);
    std::memset(static_cast<void*>(x + seen), 0, sizeof(T) * (t - seen));
  }
}

// gradient [rows, T] of the weights, in place: that of the scores, scale * w * (gradient - sum of w gradient).
template <class T>
void causal_softmax_backward(const T* weights, T* gradient, int64_t rows, int64_t t, float scale) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const T* w = weights + row * t;
    T* g = gradient + row * t;
    const int64_t seen = row % t + 1;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < seen; i++) dot += load(w[i]) * load(g[i]);
#pragma omp simd
    for (int64_t i = 0; i < seen; i++) store(g + i, scale * load(w[i]) * (load(g[i]) - dot));
    std::memset(static_cast<void*>(g + seen), 0, sizeof(T) * (t - seen));
  }
}

// Turns the adjacent pairs of every head by its row's angles; direction -1 turns back (the gradient).
template <class T>
void rotate_pairs(const T* x, const float* cosine, const float* sine, T* out, int64_t n, int64_t heads, int64_t pairs,
                  int64_t row_stride, int64_t head_stride, float direction) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < n; row++) {
    const float *c = cosine + row * pairs, *s = sine + row * pairs;
    for (int64_t head = 0; head < heads; head++) {
      const T* from = x + row * row_stride + head * head_stride;
      T* to = out + (row * heads + head) * 2 * pairs;
#pragma omp simd
      for (int64_t i = 0; i < pairs; i++) {
        const float a = load(from[2 * i]), b = load(from[2 * i + 1]), turn = direction * s[i];
        store(to + 2 * i, a * c[i] - b * turn);
        store(to + 2 * i + 1, b * c[i] + a * turn);
      }
    }
  }
}

// AdamW (Loshchilov and Hutter 2019, algorithm 2) in one pass; `decay` is 1 - rate * weight_decay.
template <class T>
void adamw(float* weight, const float* gradient, T* first, T* second, int64_t n, float scale, float decay, float beta1,
           float beta2, float eps, float step, float root) {
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < n; i++) {
    const float g = gradient[i] * scale;
    const float m = load(first[i]) + (1.0f - beta1) * (g - load(first[i]));
    const float v = load(second[i]) * beta2 + (1.0f - beta2) * g * g;
    store(first + i, m);
    store(second + i, v);
    weight[i] = weight[i] * decay - step * m / (std::sqrt(v) / root + eps);
  }
}

template <class F>
void by_type(int type, F run) {
  if (type == 0)
    run(float());
  else
    run(BFloat16());
}

template <class T>
T* as(void* pointer) {
  return static_cast<T*>(pointer);
}
template <class T>
const T* as(const void* pointer) {
  return static_cast<const T*>(pointer);
}

}  // namespace

EXPORT void fathom_rms_norm(int type, const void* x, const void* weight, void* out, int64_t n, int64_t d, float eps) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    rms_norm(as<T>(x), as<T>(weight), as<T>(out), n, d, eps);
  });
}

EXPORT void fathom_rms_norm_backward(int type, const void* x, const void* weight, const void* gradient, void* dx,
                                     float* dweight, int64_t n, int64_t d, float eps) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    rms_norm_backward(as<T>(x), as<T>(weight), as<T>(gradient), as<T>(dx), dweight, n, d, eps);
  });
}

EXPORT void fathom_swiglu(int type, const void* both, void* inner, int64_t p, int64_t f) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    swiglu(as<T>(both), as<T>(inner), p, f);
  });
}

EXPORT void fathom_swiglu_backward(int type, const void* both, const void* gradient, const float* weights, void* inner,
                                   void* dboth, float* dweights, int64_t p, int64_t f) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    swiglu_backward(as<T>(both), as<T>(gradient), weights, as<T>(inner), as<T>(dboth), dweights, p, f);
  });
}

EXPORT void fathom_gather(int type, const void* from, const int64_t* source, void* out, int64_t p, int64_t d) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    gather(as<T>(from), source, as<T>(out), p, d);
  });
}

EXPORT void fathom_weighted_sum(int type, const void* rows, const int64_t* position, const float* weights, void* out,
                                int64_t n, int64_t k, int64_t d) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    weighted_sum(as<T>(rows), position, weights, as<T>(out), n, k, d);
  });
}

EXPORT void fathom_cross_entropy(int type, void* logits, const int64_t* targets, float* losses, int64_t c, int64_t v) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    cross_entropy(as<T>(logits), targets, losses, c, v);
  });
}

EXPORT void fathom_causal_softmax(int type, void* scores, int64_t rows, int64_t t, float scale) {
  by_type(type, [&](auto value) {
    using T = decltype(value);
    causal_softmax(as<T>(scores), rows, t, scale);
  });
}

EXPORT void fathom_causal_softmax_backward(int type, const void* weights, void* gradient, int64_t rows, int64_t t,
                                           float scale) {
  by_type(type, [&](auto value) {
    using T = decltype(value);
    causal_softmax_backward(as<T>(weights), as<T>(gradient), rows, t, scale);
  });
}

EXPORT void fathom_rotate_pairs(int type, const void* x, const float* cosine, const float* sine, void* out, int64_t n,
                                int64_t heads, int64_t pairs, int64_t row_stride, int64_t head_stride, float direction) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    rotate_pairs(as<T>(x), cosine, sine, as<T>(out), n, heads, pairs, row_stride, head_stride, direction);
  });
}

EXPORT void fathom_adamw(int type, float* weight, const float* gradient, void* first, void* second, int64_t n, float scale,
                         float decay, float beta1, float beta2, float eps, float step, float root) {
  by_type(type, [&](auto t) {
    using T = decltype(t);
    adamw(weight, gradient, as<T>(first), as<T>(second), n, scale, decay, beta1, beta2, eps, step, root);
  });
}
