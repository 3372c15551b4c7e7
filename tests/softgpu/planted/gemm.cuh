// A matrix product as real kernels do it: tiles of 64 x 64, cp.async into two buffers, ldmatrix, mma. One
// parameter takes something away, so that tests can see it missed.
#pragma once
#include "common/ptx.cuh"

enum Omit { NOTHING, WAIT, BARRIER_AFTER_WAIT, BARRIER_BEFORE_COPY };

// c[M x N] = a[M x K] b, with b as [N x K] or, `TRANSPOSED`, as [K x N]. M and N multiples of 64, K of 32.
struct Gemm {
    const bf16* a;
    const bf16* b;
    float* c;
    int m, n, k;
};

constexpr int TILE = 64, STEP = 32, THREADS = 128;

template <bool TRANSPOSED> struct Stage {
    bf16 a[TILE][STEP + 8];
    bf16 b[TRANSPOSED ? STEP : TILE][(TRANSPOSED ? TILE : STEP) + 8];
};

template <bool TRANSPOSED> __device__ inline void copy_stage(const Gemm& args, Stage<TRANSPOSED>& stage, int k) {
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    for (int i = threadIdx.x; i < TILE * STEP / 8; i += THREADS) {
        const int row = i / (STEP / 8), at = i % (STEP / 8) * 8;
        copy_async_16(&stage.a[row][at], args.a + (row0 + row) * args.k + k + at, true);
        if (!TRANSPOSED) copy_async_16(&stage.b[row][at], args.b + (column0 + row) * args.k + k + at, true);
    }
    for (int i = threadIdx.x; TRANSPOSED && i < STEP * TILE / 8; i += THREADS) {
        const int row = i / (TILE / 8), at = i % (TILE / 8) * 8;
        copy_async_16(&stage.b[row][at], args.b + (k + row) * args.n + column0 + at, true);
    }
    copy_async_commit();
}

// A warp's 32 x 32 part of the tile.
template <bool TRANSPOSED>
__device__ inline void multiply_stage(float (&sums)[2][4][4], const Stage<TRANSPOSED>& stage, int row0, int column0) {
    const int lane = lane_index();
    for (int k = 0; k < STEP; k += 16) {
        uint32_t a[2][4], b[2][4];
        for (int i = 0; i < 2; ++i) {
            ldmatrix_x4(a[i], &stage.a[row0 + 16 * i + lane % 16][k + lane / 16 * 8]);
            if constexpr (TRANSPOSED) {
                ldmatrix_x4_trans(b[i], &stage.b[k + lane % 16][column0 + 16 * i + lane / 16 * 8]);
            } else {
                ldmatrix_x4(b[i], &stage.b[column0 + 16 * i + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
            }
        }
        for (int i = 0; i < 2; ++i) {
            for (int j = 0; j < 4; ++j) {
                const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                mma_16x8x16(sums[i][j], a[i], pair);
            }
        }
    }
}

template <bool TRANSPOSED, Omit OMIT> __device__ inline void gemm_body(const Gemm& args) {
    Stage<TRANSPOSED>* stages = reinterpret_cast<Stage<TRANSPOSED>*>(DYNAMIC_SHARED());
    const int row0 = warp_index() / 2 * 32, column0 = warp_index() % 2 * 32;
    float sums[2][4][4] = {};
    copy_stage(args, stages[0], 0);
    for (int k = 0; k < args.k; k += STEP) {
        const int at = k / STEP % 2;
        if (OMIT != BARRIER_BEFORE_COPY) __syncthreads();
        if (k + STEP < args.k) {
            copy_stage(args, stages[1 - at], k + STEP);
        } else {
            copy_async_commit();
        }
        if (OMIT != WAIT) copy_async_wait<1>();
        if (OMIT != BARRIER_AFTER_WAIT) __syncthreads();
        multiply_stage(sums, stages[at], row0, column0);
    }
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 4; ++j) {
            for (int part = 0; part < 4; ++part) {
                const int row = blockIdx.y * TILE + row0 + 16 * i + lane_index() / 4 + part / 2 * 8;
                const int column = blockIdx.x * TILE + column0 + 8 * j + lane_index() % 4 * 2 + part % 2;
                args.c[row * args.n + column] = sums[i][j][part];
            }
        }
    }
}
