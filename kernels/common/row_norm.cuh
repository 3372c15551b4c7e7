// Layer norm of rows in registers, as src/cpu/layernorm.rs: y = gamma (z - mean) / sqrt(var + epsilon) + beta.
//
// A row of `width` elements is spread over a group of LANES neighbouring lanes (a power of two up to 32) in runs
// of eight: run r of a lane is elements 8 (lane + LANES r) and on, see Lanes. So accesses of 16 bytes of a group
// are contiguous, and a block of 8 dropout decisions belongs to one run. Runs beyond the row hold zeros.
// All lanes of a warp take part in every call, whether or not their row exists.
#pragma once
#include "run.cuh"

// Where a thread stands: LANES lanes share a row, a block of THREADS has GROUPS groups.
template <int LANES_, int RUNS_, int THREADS_> struct Lanes {
    static constexpr int LANES = LANES_, RUNS = RUNS_, THREADS = THREADS_;
    static constexpr int GROUPS = THREADS / LANES;
    static constexpr int COLUMNS = LANES * RUNS * RUN;  // widest row

    static __device__ int group() { return threadIdx.x / LANES; }
    // First element of run `run` of this thread.
    static __device__ int column(int run) { return RUN * (threadIdx.x % LANES + LANES * run); }

    // Sum over the group; every lane gets it, added up in the same order.
    static __device__ float sum(float x) {
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
        return x;
    }

    // The runs of one row, zeros where `valid` is false or beyond the row.
    template <class S> static __device__ void load(Run (&runs)[RUNS], const S* row, int width, bool valid) {
#pragma unroll
        for (int r = 0; r < RUNS; ++r) runs[r] = load_run_if(valid && column(r) < width, row + column(r));
    }
    // Writes those within the row, if `valid`.
    template <class S> static __device__ void store(S* row, const Run (&runs)[RUNS], int width, bool valid) {
#pragma unroll
        for (int r = 0; r < RUNS; ++r)
            if (valid && column(r) < width) store_run(row + column(r), runs[r]);
    }
};

// Replaces z by its normalised row and returns 1 / sqrt(var + epsilon).
template <class L> __device__ inline float normalize(Run (&z)[L::RUNS], int width, float epsilon) {
    float sum = 0.0f;
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r)
#pragma unroll
        for (int i = 0; i < RUN; ++i) sum += z[r].at[i];
    const float mean = L::sum(sum) / width;
    float squares = 0.0f;
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r)
        if (L::column(r) < width)
#pragma unroll
            for (int i = 0; i < RUN; ++i) {
                z[r].at[i] -= mean;
                squares = fmaf(z[r].at[i], z[r].at[i], squares);
            }
    const float rstd = 1.0f / sqrtf(L::sum(squares) / width + epsilon);
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r)
#pragma unroll
        for (int i = 0; i < RUN; ++i) z[r].at[i] *= rstd;
    return rstd;
}

// Replaces a normalised row by gamma * row + beta; both are [width].
template <class L>
__device__ inline void scale_and_shift(Run (&row)[L::RUNS], int width, const float* gamma, const float* beta) {
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r) {
        if (L::column(r) >= width) continue;
        const Run scale = load_run(gamma + L::column(r)), shift = load_run(beta + L::column(r));
#pragma unroll
        for (int i = 0; i < RUN; ++i) row[r].at[i] = fmaf(scale.at[i], row[r].at[i], shift.at[i]);
    }
}

// A thread's share of a norm's gradients: sums over the rows that its group has seen, by column.
template <class L> struct NormSums {
    Run gamma[L::RUNS], beta[L::RUNS];
};

template <class L> __device__ inline void clear(NormSums<L>& sums) {
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r) sums.gamma[r] = sums.beta[r] = Run{};
}

// Replaces dy by dz = rstd (g - mean(g) - n mean(g n)), where g = gamma dy and n is the normalised row, and adds
// the row to `sums`. Rows that do not exist are zeros in dy and n.
template <class L>
__device__ inline void normalize_backward(Run (&dy)[L::RUNS], const Run (&n)[L::RUNS], int width, const float* gamma,
                                          float rstd, NormSums<L>& sums) {
    float sum = 0.0f, pairs = 0.0f;
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r) {
        const Run scale = load_run_if(L::column(r) < width, gamma + L::column(r));
#pragma unroll
        for (int i = 0; i < RUN; ++i) {
            const float d = dy[r].at[i];
            sums.gamma[r].at[i] = fmaf(d, n[r].at[i], sums.gamma[r].at[i]);
            sums.beta[r].at[i] += d;
            dy[r].at[i] = d * scale.at[i];
            sum += dy[r].at[i];
            pairs = fmaf(dy[r].at[i], n[r].at[i], pairs);
        }
    }
    const float mean = L::sum(sum) / width, slope = L::sum(pairs) / width;
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r)
        if (L::column(r) < width)
#pragma unroll
            for (int i = 0; i < RUN; ++i) dy[r].at[i] = rstd * (dy[r].at[i] - mean - n[r].at[i] * slope);
}

// Shared memory in which the groups of a block add up their sums.
template <class L> struct NormReduction {
    float gamma[L::GROUPS][L::COLUMNS], beta[L::GROUPS][L::COLUMNS];
};

// Assigns the block's part of both gradients, [width] each: the groups' sums in order. Called by all threads;
// `shared` may have been used before.
template <class L>
__device__ inline void assign_norm_sums(const NormSums<L>& sums, NormReduction<L>& shared, int width, float* d_gamma,
                                        float* d_beta) {
    __syncthreads();
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r) {
        store_run(&shared.gamma[L::group()][L::column(r)], sums.gamma[r]);
        store_run(&shared.beta[L::group()][L::column(r)], sums.beta[r]);
    }
    __syncthreads();
    for (int column = threadIdx.x; column < width; column += L::THREADS) {
        float gamma = 0.0f, beta = 0.0f;
        for (int group = 0; group < L::GROUPS; ++group) {
            gamma += shared.gamma[group][column];
            beta += shared.beta[group][column];
        }
        d_gamma[column] = gamma;
        d_beta[column] = beta;
    }
}
