// Sums over all threads of a block.
#pragma once
#include "kernel.cuh"

// Sum over the THREADS threads of the block; each gets it, added up in the same order. All threads call it.
template <int THREADS> __device__ inline float block_sum(float x) {
    struct Parts {
        float at[THREADS / WARP];
    };
    STATIC_SHARED(Parts, parts);
    x = warp_sum(x);
    __syncthreads();  // the parts of a sum before this one have been read
    if (lane_index() == 0) parts.at[warp_index()] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < THREADS / WARP; ++warp) sum += parts.at[warp];
    return sum;
}
