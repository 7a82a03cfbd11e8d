// Shared by the kernels: numbers, vectors of 32 bytes and their exponentials, threads, the interface.
//
// NaN and infinite numbers go the way that torch's operations take them: no -ffast-math here.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Status : int64_t { DONE = 0, LABEL_OUT_OF_RANGE = 1, NO_MEMORY = 2, UNKNOWN_DTYPE = 3 };

struct bfloat16 {
  uint16_t bits;
};

inline float widened(float x) { return x; }
inline double widened(double x) { return x; }
inline float widened(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void narrow(float x, float &result) { result = x; }
inline void narrow(double x, double &result) { result = x; }
inline void narrow(float x, bfloat16 &result) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  result.bits = uint16_t(x == x ? rounded : 0x7fc0u);
}

template <class R> struct Vector;
template <> struct Vector<float> {
  typedef float Reals __attribute__((vector_size(32)));
  typedef uint32_t Bits __attribute__((vector_size(32)));
  typedef int32_t Integers __attribute__((vector_size(32)));
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float lowest = -87.0f;            // of which exp is a normal number
  static constexpr float round = 12582912.0f;        // 1.5 * 2^23: adding it rounds
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int exp_terms = 7, log_terms = 6;
  static Bits one() { return (Bits{} + bias) << mantissa; }  // of the number 1.0
};
template <> struct Vector<double> {
  typedef double Reals __attribute__((vector_size(32)));
  typedef uint64_t Bits __attribute__((vector_size(32)));
  typedef int64_t Integers __attribute__((vector_size(32)));
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double lowest = -708.0;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr int exp_terms = 13, log_terms = 12;
  static Bits one() { return (Bits{} + bias) << mantissa; }
};

template <class R> using Reals = typename Vector<R>::Reals;
template <class R> constexpr int64_t WIDTH = 32 / sizeof(R);
template <class R> constexpr R INFINITE = std::numeric_limits<R>::infinity();

template <class R> inline Reals<R> load(const R *from) {
  Reals<R> value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class R> inline void store(R *to, Reals<R> value) {
  std::memcpy(to, &value, sizeof value);
}
template <class R> inline Reals<R> splat(R value) { return value - Reals<R>{}; }

template <class To, class From> inline To same_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

template <class R> constexpr R over_factorial(int n) {
  R product = 1;
  for (int i = 2; i <= n; ++i) product *= i;
  return 1 / product;
}

// e^x for x <= 0 or NaN, to about one unit in the last place; 0 below the normal numbers.
template <class R> inline Reals<R> exponential(Reals<R> x) {
  using V = Vector<R>;
  const Reals<R> lowest = splat<R>(V::lowest);
  const Reals<R> bounded = x < lowest ? lowest : x;  // NaN stays NaN
  const Reals<R> shifted = bounded * R(1.4426950408889634074) + V::round;
  const Reals<R> power = shifted - V::round;
  const Reals<R> rest = (bounded - power * V::ln2_high) - power * V::ln2_low;
  Reals<R> series = splat<R>(over_factorial<R>(V::exp_terms));
  for (int i = V::exp_terms; i > 0; --i)  // unrolled: coefficients are constants
    series = series * rest + over_factorial<R>(i - 1);
  using Bits = typename V::Bits;
  const Bits exponent = (same_bits<Bits>(shifted) << V::mantissa) + V::one();
  const Reals<R> result = series * same_bits<Reals<R>>(exponent);
  return x < lowest ? Reals<R>{} : result;
}

// e^x and e^-x where both are normal numbers, or x is NaN: even and odd terms of one series.
template <class R> inline void exponentials(Reals<R> x, Reals<R> &above, Reals<R> &below) {
  using V = Vector<R>;
  using Bits = typename V::Bits;
  const Reals<R> shifted = x * R(1.4426950408889634074) + V::round;
  const Reals<R> power = shifted - V::round;
  const Reals<R> rest = (x - power * V::ln2_high) - power * V::ln2_low;
  const Reals<R> square = rest * rest;
  Reals<R> even = splat<R>(over_factorial<R>(V::exp_terms - 1));
  Reals<R> odd = splat<R>(over_factorial<R>(V::exp_terms));
  for (int i = V::exp_terms - 1; i > 0; i -= 2) {
    even = even * square + over_factorial<R>(i - 2);
    odd = odd * square + over_factorial<R>(i - 1);
  }
  odd *= rest;
  const Bits exponent = same_bits<Bits>(shifted) << V::mantissa;
  above = (even + odd) * same_bits<Reals<R>>(V::one() + exponent);
  below = (even - odd) * same_bits<Reals<R>>(V::one() - exponent);
}

// log x for positive normal x, or NaN; of x near 1 to the last digits.
template <class R> inline Reals<R> logarithm(Reals<R> x) {
  using V = Vector<R>;
  using Bits = typename V::Bits;
  using Integers = typename V::Integers;
  const Bits bits = same_bits<Bits>(x);
  const Bits one = V::one();
  const Bits fraction = (bits & (((Bits{} + 1) << V::mantissa) - 1)) | one;
  Reals<R> f = same_bits<Reals<R>>(fraction);  // in [1, 2)
  Reals<R> power =
      __builtin_convertvector(same_bits<Integers>(bits >> V::mantissa) - V::bias, Reals<R>);
  const Reals<R> large = splat<R>(R(1.41421356237309505));
  power = f > large ? power + 1 : power;
  f = f > large ? f * R(0.5) : f;
  const Reals<R> u = (f - 1) / (f + 1), square = u * u;
  Reals<R> series = splat<R>(R(1) / (2 * V::log_terms + 1));
  for (int i = V::log_terms - 1; i >= 0; --i) series = series * square + R(1) / (2 * i + 1);
  const Reals<R> result =
      power * V::ln2_high + (2 * u * series + power * V::ln2_low);
  return x == x ? result : x;
}

template <class R> inline Reals<R> larger(Reals<R> x, Reals<R> y) { return x > y ? x : y; }

template <class R> inline R largest_of(Reals<R> x) {
  for (int half = WIDTH<R> / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = x[i + half] > x[i] ? x[i + half] : x[i];
  return x[0];
}
template <class R> inline R sum_of(Reals<R> x) {
  for (int half = WIDTH<R> / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

inline void transpose(Reals<float> (&x)[8]) {
  typedef int32_t I __attribute__((vector_size(32)));
#define PICK(a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
  Reals<float> y[8];
  for (int i = 0; i < 8; i += 2) {
    y[i] = PICK(x[i], x[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    y[i + 1] = PICK(x[i], x[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = i; j < i + 2; ++j) {
      x[j] = PICK(y[j], y[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      x[j + 2] = PICK(y[j], y[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int j = 0; j < 4; ++j) {
    y[j] = PICK(x[j], x[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    y[j + 4] = PICK(x[j], x[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int j = 0; j < 8; ++j) x[j] = y[j];
#undef PICK
}

inline void transpose(Reals<double> (&x)[4]) {
  typedef int64_t I __attribute__((vector_size(32)));
#define PICK(a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
  Reals<double> y[4];
  for (int i = 0; i < 4; i += 2) {
    y[i] = PICK(x[i], x[i + 1], 0, 4, 2, 6);
    y[i + 1] = PICK(x[i], x[i + 1], 1, 5, 3, 7);
  }
  for (int j = 0; j < 2; ++j) {
    x[j] = PICK(y[j], y[j + 2], 0, 1, 4, 5);
    x[j + 2] = PICK(y[j], y[j + 2], 2, 3, 6, 7);
  }
#undef PICK
}

// Threads of the OpenMP that torch has loaded, if it is one with the interface of GNU's: no
// second one is linked. Work is taken piece by piece, so that it does not matter how many come.
#if defined(__linux__)
extern "C" __attribute__((weak)) void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned);
#endif

template <class Body> struct Work {
  const Body *body;
  int64_t pieces, next;
  static void run(void *pointer) {
    Work *work = static_cast<Work *>(pointer);
    for (;;) {
      const int64_t piece = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
      if (piece >= work->pieces) return;
      (*work->body)(piece);
    }
  }
};

template <class Body> void in_parallel(int64_t pieces, int64_t threads, const Body &body) {
  Work<Body> work{&body, pieces, 0};
  if (threads > pieces) threads = pieces;
#if defined(__linux__)
  if (threads > 1 && GOMP_parallel) {
    GOMP_parallel(&Work<Body>::run, &work, unsigned(threads), 0);
    return;
  }
#endif
  Work<Body>::run(&work);
}

}  // namespace
