// Right kernels, for the tests of the software GPU itself.
#include "common/ptx.cuh"

struct VectorAdd {
    const float* a;
    const float* b;
    float* sum;
    uint32_t count;
};

__device__ inline void vector_add_body(const VectorAdd& args) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < args.count) args.sum[i] = args.a[i] + args.b[i];
}

KERNEL(vector_sum, 256, 1, VectorAdd, vector_add_body)

// sums[block] = sum of 256 inputs: by warp, then by the first warp.
struct BlockSum {
    const float* input;
    float* sums;
};

struct WarpSums {
    float at[8];
};

__device__ inline void block_sum_body(const BlockSum& args) {
    STATIC_SHARED(WarpSums, partial);
    const float sum = warp_sum(args.input[blockIdx.x * 256 + threadIdx.x]);
    if (lane_index() == 0) partial.at[warp_index()] = sum;
    __syncthreads();
    if (warp_index() == 0) {
        const float total = warp_sum(lane_index() < 8 ? partial.at[lane_index()] : 0.0f);
        if (lane_index() == 0) args.sums[blockIdx.x] = total;
    }
}

KERNEL(block_sum, 256, 2, BlockSum, block_sum_body)
