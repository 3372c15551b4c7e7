// Atomics on integers, and fences. There are none on floats: their order would decide the sum.
#pragma once
#include "runtime.h"

#define SOFTGPU_ATOMICS(Type)                                                                                 \
    static inline Type atomicAdd(Type* at, Type value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); } \
    static inline Type atomicSub(Type* at, Type value) { return __atomic_fetch_sub(at, value, __ATOMIC_RELAXED); } \
    static inline Type atomicOr(Type* at, Type value) { return __atomic_fetch_or(at, value, __ATOMIC_RELAXED); }   \
    static inline Type atomicAnd(Type* at, Type value) { return __atomic_fetch_and(at, value, __ATOMIC_RELAXED); } \
    static inline Type atomicExch(Type* at, Type value) { return __atomic_exchange_n(at, value, __ATOMIC_RELAXED); } \
    static inline Type atomicCAS(Type* at, Type expected, Type value) {                                       \
        __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);         \
        return expected;                                                                                      \
    }                                                                                                         \
    static inline Type atomicMax(Type* at, Type value) {                                                      \
        Type old = __atomic_load_n(at, __ATOMIC_RELAXED);                                                     \
        while (old < value &&                                                                                 \
               !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {    \
        }                                                                                                     \
        return old;                                                                                           \
    }                                                                                                         \
    static inline Type atomicMin(Type* at, Type value) {                                                      \
        Type old = __atomic_load_n(at, __ATOMIC_RELAXED);                                                     \
        while (value < old &&                                                                                 \
               !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {    \
        }                                                                                                     \
        return old;                                                                                           \
    }
SOFTGPU_ATOMICS(int)
SOFTGPU_ATOMICS(unsigned)
#undef SOFTGPU_ATOMICS

static inline void __threadfence() { softgpu::thread_fence(); }
static inline void __threadfence_block() { softgpu::thread_fence(); }
