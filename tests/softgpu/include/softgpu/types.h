// Vector types and bf16, with the names and the layout of the toolkit's headers.
#pragma once
#include <cstdint>
#include <cstring>

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define SOFTGPU_VECTOR(Scalar, Name)                                                                 \
    struct alignas(2 * sizeof(Scalar)) Name##2 {                                                     \
        Scalar x, y;                                                                                 \
    };                                                                                               \
    struct Name##3 {                                                                                 \
        Scalar x, y, z;                                                                              \
    };                                                                                               \
    struct alignas(4 * sizeof(Scalar) < 16 ? 4 * sizeof(Scalar) : 16) Name##4 {                      \
        Scalar x, y, z, w;                                                                           \
    };                                                                                               \
    static inline constexpr Name##2 make_##Name##2(Scalar x, Scalar y) { return {x, y}; }            \
    static inline constexpr Name##3 make_##Name##3(Scalar x, Scalar y, Scalar z) { return {x, y, z}; } \
    static inline constexpr Name##4 make_##Name##4(Scalar x, Scalar y, Scalar z, Scalar w) { return {x, y, z, w}; }

SOFTGPU_VECTOR(float, float)
SOFTGPU_VECTOR(double, double)
SOFTGPU_VECTOR(int, int)
SOFTGPU_VECTOR(unsigned, uint)
SOFTGPU_VECTOR(short, short)
SOFTGPU_VECTOR(unsigned short, ushort)
#undef SOFTGPU_VECTOR

struct __nv_bfloat16 {
    uint16_t __x;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
static inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.__x; }

static inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.__x) << 16); }

// To the nearest, ties to even; any NaN becomes the one NaN that the hardware gives.
static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
static inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }

static inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
    return {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 pair) { return __floats2bfloat162_rn(pair.x, pair.y); }
static inline __nv_bfloat162 __float2bfloat162_rn(float x) { return __floats2bfloat162_rn(x, x); }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair) { return pair.x; }
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair) { return pair.y; }
static inline float __low2float(__nv_bfloat162 pair) { return __bfloat162float(pair.x); }
static inline float __high2float(__nv_bfloat162 pair) { return __bfloat162float(pair.y); }
static inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {__low2float(pair), __high2float(pair)}; }
