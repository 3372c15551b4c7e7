// Shuffles, votes and the barrier of a warp.
#pragma once
#include <type_traits>

#include "kernel.h"
#include "types.h"

namespace softgpu {

template <class T>
static inline T shuffle(void (*combine)(Request* const (&)[32]), unsigned mask, T value, int operand, int width,
                        Where where) {
    static_assert(std::is_trivially_copyable<T>::value && (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2),
                  "a shuffle moves 2, 4 or 8 bytes");
    Shuffle request;
    request.combine = combine;
    request.mask = mask;
    request.where = where;
    request.value = 0;
    std::memcpy(&request.value, &value, sizeof value);
    request.operand = operand;
    request.width = width;
    rendezvous(request);
    std::memcpy(&value, &request.result, sizeof value);
    return value;
}

static inline unsigned ballot(unsigned mask, int predicate, Where where) {
    Vote request;
    request.combine = combine_ballot;
    request.mask = mask;
    request.where = where;
    request.predicate = predicate;
    rendezvous(request);
    return request.result;
}

}  // namespace softgpu

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, SOFTGPU_WHERE("__shfl_sync")) {
    return softgpu::shuffle(softgpu::combine_shuffle, mask, value, lane, width, where);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                               SOFTGPU_WHERE("__shfl_up_sync")) {
    return softgpu::shuffle(softgpu::combine_shuffle_up, mask, value, static_cast<int>(delta), width, where);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 SOFTGPU_WHERE("__shfl_down_sync")) {
    return softgpu::shuffle(softgpu::combine_shuffle_down, mask, value, static_cast<int>(delta), width, where);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SOFTGPU_WHERE("__shfl_xor_sync")) {
    return softgpu::shuffle(softgpu::combine_shuffle_xor, mask, value, bits, width, where);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, SOFTGPU_WHERE("__ballot_sync")) {
    return softgpu::ballot(mask, predicate, where);
}
static inline int __any_sync(unsigned mask, int predicate, SOFTGPU_WHERE("__any_sync")) {
    return softgpu::ballot(mask, predicate, where) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, SOFTGPU_WHERE("__all_sync")) {
    return softgpu::ballot(mask, predicate, where) == mask;
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, SOFTGPU_WHERE("__syncwarp")) {
    softgpu::sync_warp(mask, where);
}
