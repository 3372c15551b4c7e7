// Qualifiers, built-in variables, entry points, shared memory and barriers.
#pragma once
#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

#define threadIdx (softgpu::current->thread)
#define blockIdx (softgpu::current->block)
#define blockDim (softgpu::current->threads)
#define gridDim (softgpu::current->blocks)
static constexpr int warpSize = 32;

#define KERNEL(name, threads, blocks, Arguments, function)                                                            \
    static_assert((threads) >= 1 && (threads) <= 1024 && (blocks) >= 1, "1 to 1024 threads, at least 1 block");       \
    static_assert(sizeof(Arguments) <= 4096, "arguments of a kernel: at most 4096 bytes");                            \
    static void softgpu_run_##name(const void* args) { function(*static_cast<const Arguments*>(args)); }              \
    static const softgpu::Registration softgpu_register_##name({#name, threads, sizeof(Arguments), alignof(Arguments), \
                                                                softgpu_run_##name});

#define STATIC_SHARED(Type, name)                                                                \
    static_assert(std::is_trivially_default_constructible<Type>::value, "shared memory is raw"); \
    static const softgpu::SharedTag softgpu_tag_##name{#name, sizeof(Type), alignof(Type)};      \
    Type& name = *static_cast<Type*>(softgpu::static_shared(softgpu_tag_##name))

#define DYNAMIC_SHARED() (static_cast<unsigned char*>(softgpu::dynamic_shared()))

// Where a default argument stands is where the caller is.
#define SOFTGPU_WHERE(what) \
    softgpu::Where where = { what, __builtin_FILE(), __builtin_LINE() }

static inline void __syncthreads(SOFTGPU_WHERE("__syncthreads")) { softgpu::block_barrier(0, where); }
static inline int __syncthreads_count(int predicate, SOFTGPU_WHERE("__syncthreads_count")) {
    return softgpu::block_barrier(predicate, where);
}
static inline int __syncthreads_or(int predicate, SOFTGPU_WHERE("__syncthreads_or")) {
    return softgpu::block_barrier(predicate, where) != 0;
}
static inline int __syncthreads_and(int predicate, SOFTGPU_WHERE("__syncthreads_and")) {
    return softgpu::block_barrier(!predicate, where) == 0;
}

static inline void __trap() { softgpu::fault(softgpu::LAUNCH_FAILED, "__trap()"); }
