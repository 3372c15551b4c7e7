// Throw-away kernels, each with one bug that the software GPU has to see. All take the same argument; blocks of
// 64 threads unless the name says otherwise.
#include "common/ptx.cuh"

struct Buffers {
    const float* in;
    float* out;
    int count;
};

__device__ inline int global_index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

struct Numbers {
    float at[64];
};

// --- out of bounds

// The check of the tail lacks: count may be no multiple of the block.
__device__ inline void write_past_end_body(const Buffers& args) { args.out[global_index()] = 1.0f; }
KERNEL(write_past_end, 64, 1, Buffers, write_past_end_body)

// One element too far, which stays within the page.
__device__ inline void write_one_past_end_body(const Buffers& args) {
    if (global_index() <= args.count) args.out[global_index()] = 1.0f;
}
KERNEL(write_one_past_end, 64, 1, Buffers, write_one_past_end_body)

__device__ inline void read_before_start_body(const Buffers& args) {
    if (global_index() < args.count) args.out[global_index()] = args.in[global_index() - 4096];
}
KERNEL(read_before_start, 64, 1, Buffers, read_before_start_body)

__device__ inline void write_static_shared_body(const Buffers& args) {
    STATIC_SHARED(Numbers, numbers);
    float* first = numbers.at;
    first[threadIdx.x + args.count] = args.in[threadIdx.x % args.count];
    __syncthreads();
    args.out[threadIdx.x % args.count] = first[0];
}
KERNEL(write_static_shared_past_end, 64, 1, Buffers, write_static_shared_body)

__device__ inline void write_dynamic_shared_body(const Buffers& args) {
    float* first = reinterpret_cast<float*>(DYNAMIC_SHARED());
    first[threadIdx.x + args.count] = args.in[threadIdx.x % args.count];
    __syncthreads();
    args.out[threadIdx.x % args.count] = first[0];
}
KERNEL(write_dynamic_shared_past_end, 64, 1, Buffers, write_dynamic_shared_body)

__device__ inline void index_array_body(const Buffers& args) {
    float sums[4] = {};
    for (int i = 0; i < args.count; ++i) sums[i] += args.in[i];
    args.out[threadIdx.x % args.count] = sums[threadIdx.x % 4];
}
KERNEL(index_local_array_past_end, 64, 1, Buffers, index_array_body)

__device__ inline void copy_async_past_end_body(const Buffers& args) {
    STATIC_SHARED(Numbers, numbers);
    if (threadIdx.x < 16) copy_async_16(&numbers.at[4 * threadIdx.x], args.in + 4 * threadIdx.x, true);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    if (global_index() < args.count) args.out[global_index()] = numbers.at[threadIdx.x];
}
KERNEL(copy_async_past_end, 64, 1, Buffers, copy_async_past_end_body)

// --- order

// out = in reversed within each block.
template <bool BARRIER> __device__ inline void reverse_body(const Buffers& args) {
    STATIC_SHARED(Numbers, numbers);
    numbers.at[threadIdx.x] = args.in[global_index()];
    if (BARRIER) __syncthreads();
    args.out[global_index()] = numbers.at[63 - threadIdx.x];
}
KERNEL(reverse_block, 64, 1, Buffers, reverse_body<true>)
KERNEL(reverse_block_without_barrier, 64, 1, Buffers, reverse_body<false>)

// out = in reversed within each warp.
template <bool BARRIER> __device__ inline void reverse_warp_body(const Buffers& args) {
    STATIC_SHARED(Numbers, numbers);
    numbers.at[threadIdx.x] = args.in[global_index()];
    if (BARRIER) __syncwarp();
    args.out[global_index()] = numbers.at[threadIdx.x ^ 31];
}
KERNEL(reverse_warp, 64, 1, Buffers, reverse_warp_body<true>)
KERNEL(reverse_warp_without_barrier, 64, 1, Buffers, reverse_warp_body<false>)

// Two blocks write one number.
__device__ inline void race_between_blocks_body(const Buffers& args) {
    if (threadIdx.x == 0) args.out[0] = args.in[blockIdx.x];
}
KERNEL(race_between_blocks, 64, 1, Buffers, race_between_blocks_body)

// The last block to finish adds up what all have left, after a fence or without.
template <bool FENCE> __device__ inline void last_block_body(const Buffers& args) {
    STATIC_SHARED(int, is_last);
    if (threadIdx.x == 0) {
        args.out[1 + blockIdx.x] = args.in[blockIdx.x];
        if (FENCE) __threadfence();
        int* arrived = reinterpret_cast<int*>(args.out + args.count - 1);
        is_last = atomicAdd(arrived, 1) == static_cast<int>(gridDim.x) - 1;
        if (FENCE) __threadfence();
        if (is_last) {
            float sum = 0.0f;
            for (unsigned block = 0; block < gridDim.x; ++block) sum += args.out[1 + block];
            args.out[0] = sum;
        }
    }
}
KERNEL(last_block_sum, 64, 1, Buffers, last_block_body<true>)
KERNEL(last_block_sum_without_fence, 64, 1, Buffers, last_block_body<false>)

// --- divergence

__device__ inline void barrier_in_branch_body(const Buffers& args) {
    if (threadIdx.x < 32) __syncthreads();
    if (global_index() < args.count) args.out[global_index()] = 1.0f;
}
KERNEL(barrier_in_branch, 64, 1, Buffers, barrier_in_branch_body)

__device__ inline void two_barriers_body(const Buffers& args) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    if (global_index() < args.count) args.out[global_index()] = 1.0f;
}
KERNEL(two_barriers_in_branches, 64, 1, Buffers, two_barriers_body)

__device__ inline void shuffle_in_branch_body(const Buffers& args) {
    float x = args.in[threadIdx.x % args.count];
    if (threadIdx.x % 32 < 16) x += __shfl_xor_sync(0xffffffffu, x, 1);
    args.out[threadIdx.x % args.count] = x;
}
KERNEL(shuffle_in_branch, 64, 1, Buffers, shuffle_in_branch_body)

__device__ inline void shuffle_outside_mask_body(const Buffers& args) {
    float x = args.in[threadIdx.x % args.count];
    if (threadIdx.x % 32 < 16) x = __shfl_sync(0xffffu, x, 20);
    args.out[threadIdx.x % args.count] = x;
}
KERNEL(shuffle_from_outside_mask, 64, 1, Buffers, shuffle_outside_mask_body)

// --- uninitialised memory: `in` is fresh, or nobody wrote the shared variable

__device__ inline void copy_body(const Buffers& args) {
    if (global_index() < args.count) args.out[global_index()] = args.in[global_index()];
}
KERNEL(copy_input, 64, 1, Buffers, copy_body)

__device__ inline void read_fresh_shared_body(const Buffers& args) {
    STATIC_SHARED(Numbers, numbers);
    __syncthreads();
    if (global_index() < args.count) args.out[global_index()] = numbers.at[threadIdx.x];
}
KERNEL(read_fresh_shared, 64, 1, Buffers, read_fresh_shared_body)

// --- alignment

__device__ inline void misaligned_pack_body(const Buffers& args) {
    const Pack<float> pack = load_pack(args.in + 1);
    args.out[threadIdx.x % args.count] = pack.at[threadIdx.x % 4];
}
KERNEL(misaligned_pack, 64, 1, Buffers, misaligned_pack_body)

__device__ inline void misaligned_copy_async_body(const Buffers& args) {
    STATIC_SHARED(Numbers, numbers);
    if (threadIdx.x == 0) copy_async_16(&numbers.at[1], args.in, true);
    copy_async_wait<0>();
    args.out[threadIdx.x % args.count] = 0.0f;
}
KERNEL(misaligned_copy_async, 64, 1, Buffers, misaligned_copy_async_body)

__device__ inline void misaligned_ldmatrix_body(const Buffers& args) {
    STATIC_SHARED(Numbers, numbers);
    numbers.at[threadIdx.x] = 0.0f;
    __syncthreads();
    uint32_t r[4];
    ldmatrix_x4(r, reinterpret_cast<const bf16*>(&numbers.at[1]));
    args.out[threadIdx.x % args.count] = static_cast<float>(r[0]);
}
KERNEL(misaligned_ldmatrix, 64, 1, Buffers, misaligned_ldmatrix_body)

__device__ inline void ldmatrix_global_body(const Buffers& args) {
    uint32_t r[4];
    ldmatrix_x4(r, reinterpret_cast<const bf16*>(args.in));
    args.out[threadIdx.x % args.count] = static_cast<float>(r[0]);
}
KERNEL(ldmatrix_from_global_memory, 64, 1, Buffers, ldmatrix_global_body)

// --- what a GPU does not survive either, or computes differently from C++

__device__ inline void divide_by_zero_body(const Buffers& args) {
    args.out[threadIdx.x % args.count] = static_cast<float>(7 / (args.count / 1000));
}
KERNEL(divide_by_zero, 64, 1, Buffers, divide_by_zero_body)

__device__ inline void null_pointer_body(const Buffers& args) {
    const float* none = args.count > 0 ? nullptr : args.in;
    args.out[threadIdx.x % args.count] = none[threadIdx.x];
}
KERNEL(null_pointer, 64, 1, Buffers, null_pointer_body)

__device__ inline void index_overflow_body(const Buffers& args) {
    const int rows = 70000 * args.count;
    args.out[threadIdx.x % args.count] = static_cast<float>(rows * 70000);
}
KERNEL(index_overflow, 64, 1, Buffers, index_overflow_body)

__device__ inline int deep(volatile int* depth) {
    volatile char room[1024];
    room[0] = static_cast<char>(*depth);
    *depth += 1;
    return *depth > 100000 ? room[0] : deep(depth) + room[0];
}
__device__ inline void stack_overflow_body(const Buffers& args) {
    volatile int depth = 0;
    args.out[threadIdx.x % args.count] = static_cast<float>(deep(&depth));
}
KERNEL(stack_overflow, 64, 1, Buffers, stack_overflow_body)

__device__ inline void trap_body(const Buffers& args) {
    if (global_index() == args.count) __trap();
}
KERNEL(trap_past_end, 64, 1, Buffers, trap_body)

struct TooMuch {
    float at[13 * 1024];
};
__device__ inline void much_static_shared_body(const Buffers& args) {
    STATIC_SHARED(TooMuch, numbers);
    numbers.at[threadIdx.x] = 0.0f;
    args.out[threadIdx.x % args.count] = numbers.at[threadIdx.x];
}
KERNEL(much_static_shared, 64, 1, Buffers, much_static_shared_body)
