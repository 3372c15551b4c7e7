// Activations of the feed-forward network and the head, with their derivatives; the formulas of src/cpu/math.rs,
// so that both engines err alike. S says how exactly: float with the library's expf and true division, bf16
// with the fast instructions, whose error of a few units in 2^-22 is lost in storage.
#pragma once
#include "kernel.cuh"

// Mirrored by src/cuda/activation.rs.
constexpr uint32_t NO_ACTIVATION = 0, GELU = 1, GELU_TANH = 2, RELU = 3;

struct ValueSlope {
    float value;
    float slope;
};

template <class S> __device__ inline float exponential(float x);
template <> __device__ inline float exponential<float>(float x) { return expf(x); }
template <> __device__ inline float exponential<bf16>(float x) { return __expf(x); }

template <class S> __device__ inline float quotient(float a, float b);
template <> __device__ inline float quotient<float>(float a, float b) { return a / b; }
template <> __device__ inline float quotient<bf16>(float a, float b) { return __fdividef(a, b); }

// Exact GELU, u Phi(u), with its derivative Phi(u) + u phi(u). For a = |u|, Phi(-a) e^(a^2/2) is a quotient of
// polynomials with positive coefficients, so that nothing cancels, not even in the tail.
template <class S> struct Gelu {
    __device__ ValueSlope operator()(float u) const {
        const float gauss = exponential<S>(-0.5f * u * u);
        // Beyond 14 the exponential is 0 or all but, and powers would overflow. NaN stays.
        const float a = fabsf(u) > 14.0f ? 14.0f : fabsf(u);
        float p = 2.6691284e-2f;
        p = fmaf(p, a, 0.2072149f);
        p = fmaf(p, a, 0.667888f);
        p = fmaf(p, a, 1.0f);
        float q = 6.693217e-2f;
        q = fmaf(q, a, 0.51849806f);
        q = fmaf(q, a, 1.7534851f);
        q = fmaf(q, a, 2.9315438f);
        q = fmaf(q, a, 2.0f);
        const float tail = gauss * quotient<S>(p, q);
        const float cdf = u < 0.0f ? tail : 1.0f - tail;
        constexpr float INV_SQRT_2PI = 0.3989423f;
        return {u * cdf, fmaf(u * gauss, INV_SQRT_2PI, cdf)};
    }
};

// GELU by the tanh approximation of Hendrycks and Gimpel.
template <class S> struct GeluTanh {
    __device__ ValueSlope operator()(float u) const {
        constexpr float SQRT_2_OVER_PI = 0.7978846f, CUBIC = 0.044715f;
        const float inner = SQRT_2_OVER_PI * (u + CUBIC * u * u * u);
        const float inner_slope = SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * u * u);
        // tanh(z) = 1 - 2 / (e^{2z} + 1); where e^{2z} is infinite that is 1.
        const float tanh = 1.0f - quotient<S>(2.0f, exponential<S>(2.0f * inner) + 1.0f);
        return {0.5f * u * (1.0f + tanh), 0.5f * (1.0f + tanh) + 0.5f * u * (1.0f - tanh * tanh) * inner_slope};
    }
};

// max(u, 0); the derivative at 0 is 0.
struct Relu {
    // u * 0 keeps NaN.
    __device__ ValueSlope operator()(float u) const {
        return u > 0.0f ? ValueSlope{u, 1.0f} : ValueSlope{u * 0.0f, 0.0f};
    }
};

// Calls `body` with the activation that `which` names, or not at all for NO_ACTIVATION. What of value and slope
// is not used costs nothing.
template <class S, class Body> __device__ inline void with_activation(uint32_t which, Body body) {
    if (which == GELU) body(Gelu<S>());
    if (which == GELU_TANH) body(GeluTanh<S>());
    if (which == RELU) body(Relu());
}
