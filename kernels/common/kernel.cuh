// What every kernel file includes first: entry points, shared memory and number types.
//
// The same sources are compiled by nvcc for a GPU and, with softgpu.h in place of the toolkit's headers, by a
// C++ compiler for the software GPU of the tests. softgpu.h defines the qualifiers (__global__, __device__,
// ...), the built-in variables, barriers, shuffles and votes, the intrinsics used here, and its own versions of
// the macros below.
//
// Letters: T packed tokens, B sequences, L max length, D width, H heads, K head width, F FFN width, V items,
// P predicted rows, C items of a sampled loss, N layers.
#pragma once

#ifdef __CUDACC__

#include <cstdint>
#include <cuda_bf16.h>

// An entry point: its name (never a PTX opcode), threads a block, the least number of blocks that registers and
// shared memory must leave room for on a multiprocessor (shared memory where there are 164 KiB, an A100's, or more),
// its one argument (a struct that src/cuda mirrors) and the function that does the work.
#define KERNEL(name, threads, blocks, Arguments, function)                          \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(Arguments args) { \
        function(args);                                                             \
    }

// A variable of a block, at most 48 KiB of them together.
#define STATIC_SHARED(Type, name) __shared__ Type name

// Memory of a block whose size the launch says.
extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
#define DYNAMIC_SHARED() (dynamic_shared_memory)

#else
#include "softgpu.h"
#endif

using bf16 = __nv_bfloat16;

constexpr int WARP = 32;

// Storage types: float for the exact path, bf16 for tensor cores. Arithmetic is always float.
__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }

template <class S> __device__ inline S from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

// 16 bytes of memory, moved at once.
template <class S> struct alignas(16) Pack {
    static constexpr int COUNT = 16 / sizeof(S);
    S at[COUNT];
};

// Reads or writes 16 bytes; the address must be a multiple of 16.
template <class S> __device__ inline Pack<S> load_pack(const S* from) {
    return *reinterpret_cast<const Pack<S>*>(from);
}
template <class S> __device__ inline void store_pack(S* to, const Pack<S>& pack) {
    *reinterpret_cast<Pack<S>*>(to) = pack;
}

__device__ inline int lane_index() { return threadIdx.x % WARP; }
__device__ inline int warp_index() { return threadIdx.x / WARP; }

// Sum, or maximum, over the lanes of a warp; every lane gets it, added up in the same order.
__device__ inline float warp_sum(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
__device__ inline float warp_max(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
