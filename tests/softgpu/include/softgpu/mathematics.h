// Arithmetic: the device functions that C++ does not have, with the results of the C library. The fast variants
// of the GPU differ from these in the last bits.
#pragma once
#include <math.h>

#include "types.h"

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
// Macros, because the C library declares functions of these names.
#define __expf expf
#define __exp10f exp10f
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __powf powf
#define __sinf sinf
#define __cosf cosf
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __saturatef(float x) { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }

static inline unsigned __umulhi(unsigned x, unsigned y) {
    return static_cast<unsigned>((static_cast<uint64_t>(x) * y) >> 32);
}
static inline int __mulhi(int x, int y) { return static_cast<int>((static_cast<int64_t>(x) * y) >> 32); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
static inline int __float2int_rz(float x) { return static_cast<int>(x); }
static inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

#define SOFTGPU_MIN_MAX(Type)                                                         \
    static inline constexpr Type min(Type a, Type b) { return b < a ? b : a; }        \
    static inline constexpr Type max(Type a, Type b) { return a < b ? b : a; }
SOFTGPU_MIN_MAX(int)
SOFTGPU_MIN_MAX(unsigned)
SOFTGPU_MIN_MAX(long)
SOFTGPU_MIN_MAX(unsigned long)
SOFTGPU_MIN_MAX(long long)
SOFTGPU_MIN_MAX(unsigned long long)
#undef SOFTGPU_MIN_MAX
// Of a number and a NaN, the number.
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
// The toolkit has these too: both arguments become unsigned.
static inline constexpr unsigned min(int a, unsigned b) { return min(static_cast<unsigned>(a), b); }
static inline constexpr unsigned min(unsigned a, int b) { return min(a, static_cast<unsigned>(b)); }
static inline constexpr unsigned max(int a, unsigned b) { return max(static_cast<unsigned>(a), b); }
static inline constexpr unsigned max(unsigned a, int b) { return max(a, static_cast<unsigned>(b)); }

// Loads and stores with a hint for the caches.
template <class T> static inline T __ldg(const T* from) { return *from; }
template <class T> static inline T __ldcg(const T* from) { return *from; }
template <class T> static inline T __ldcs(const T* from) { return *from; }
template <class T> static inline void __stcg(T* to, T value) { *to = value; }
template <class T> static inline void __stcs(T* to, T value) { *to = value; }
