// Products of tiles in shared memory, the one inner loop of every matrix kernel.
//
// A warp holds an accumulator of 16 MT rows and 8 NT columns as float[MT][NT][4], spread over its lanes as the
// tensor cores want it: with g = lane / 4 and t = lane % 4, entry [i][j] holds
//     (16 i + g, 8 j + 2t), (16 i + g, 8 j + 2t + 1), (16 i + g + 8, 8 j + 2t), (16 i + g + 8, 8 j + 2t + 1).
// Both storage types share this layout, so what is done with an accumulator is written once: bf16 goes through
// mma.sync, float through fused multiply-adds in order of k.
#pragma once
#include "ptx.cuh"

// ROWS x COLUMNS elements of shared memory. Rows are 16 bytes longer than they need be, so that the eight rows
// of an ldmatrix lie in different banks. COLUMNS is a multiple of 16.
template <class S, int ROWS, int COLUMNS> struct alignas(16) Tile {
    static constexpr int STRIDE = COLUMNS + 16 / static_cast<int>(sizeof(S));
    S at[ROWS * STRIDE];
    __device__ S* row(int index) { return at + index * STRIDE; }
    __device__ const S* row(int index) const { return at + index * STRIDE; }
};

// An operand in shared memory whose element (i, k), k being summed over, is at[i * stride + k].
template <class S> struct AlongRows {
    const S* at;
    int stride;
    __device__ AlongRows from(int i, int k) const { return {at + i * stride + k, stride}; }
    __device__ float get(int i, int k) const { return to_float(at[i * stride + k]); }
};

// An operand whose element (i, k) is at[k * stride + i]: the transposed view of a tile.
template <class S> struct AlongColumns {
    const S* at;
    int stride;
    __device__ AlongColumns from(int i, int k) const { return {at + k * stride + i, stride}; }
    __device__ float get(int i, int k) const { return to_float(at[k * stride + i]); }
};

// Rows, or columns, of a tile as an operand, from (row, column) on.
template <class S, int ROWS, int COLUMNS>
__device__ inline AlongRows<S> along_rows(const Tile<S, ROWS, COLUMNS>& tile, int row = 0, int column = 0) {
    return {tile.row(row) + column, Tile<S, ROWS, COLUMNS>::STRIDE};
}
template <class S, int ROWS, int COLUMNS>
__device__ inline AlongColumns<S> along_columns(const Tile<S, ROWS, COLUMNS>& tile, int row = 0, int column = 0) {
    return {tile.row(row) + column, Tile<S, ROWS, COLUMNS>::STRIDE};
}

// Fragment of the left operand: 16 rows i, 16 k.
__device__ inline void load_left(uint32_t (&fragment)[4], const AlongRows<bf16>& a) {
    const int lane = lane_index();
    ldmatrix_x4(fragment, a.at + (lane % 16) * a.stride + 8 * (lane / 16));
}
__device__ inline void load_left(uint32_t (&fragment)[4], const AlongColumns<bf16>& a) {
    const int lane = lane_index();
    ldmatrix_x4_trans(fragment, a.at + (lane % 8 + 8 * (lane / 16)) * a.stride + 8 * (lane / 8 % 2));
}

// Fragments of the right operand: 16 columns i as two blocks of 8, 16 k.
__device__ inline void load_right(uint32_t (&fragment)[4], const AlongRows<bf16>& b) {
    const int lane = lane_index();
    ldmatrix_x4(fragment, b.at + (lane % 8 + 8 * (lane / 16)) * b.stride + 8 * (lane / 8 % 2));
}
__device__ inline void load_right(uint32_t (&fragment)[4], const AlongColumns<bf16>& b) {
    const int lane = lane_index();
    ldmatrix_x4_trans(fragment, b.at + (lane % 16) * b.stride + 8 * (lane / 16));
}

// sum[i][j] += sum over k < K of left(i, k) right(j, k). K is a multiple of 16, NT even.
template <int K, int MT, int NT, template <class> class Left, template <class> class Right>
__device__ inline void multiply_add(float (&sum)[MT][NT][4], const Left<bf16>& left, const Right<bf16>& right) {
    static_assert(K % 16 == 0 && NT % 2 == 0, "whole fragments");
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t a[MT][4];
#pragma unroll
        for (int i = 0; i < MT; ++i) load_left(a[i], left.from(16 * i, k));
#pragma unroll
        for (int j = 0; j < NT; j += 2) {
            uint32_t b[4];
            load_right(b, right.from(8 * j, k));
            const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
            for (int i = 0; i < MT; ++i) {
                mma_16x8x16(sum[i][j], a[i], first);
                mma_16x8x16(sum[i][j + 1], a[i], second);
            }
        }
    }
}

// The same, exactly, in float.
template <int K, int MT, int NT, template <class> class Left, template <class> class Right>
__device__ inline void multiply_add(float (&sum)[MT][NT][4], const Left<float>& left, const Right<float>& right) {
    const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll 4
    for (int k = 0; k < K; ++k) {
        float a[MT][2];
#pragma unroll
        for (int i = 0; i < MT; ++i) {
            a[i][0] = left.get(16 * i + g, k);
            a[i][1] = left.get(16 * i + g + 8, k);
        }
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            const float b0 = right.get(8 * j + 2 * t, k), b1 = right.get(8 * j + 2 * t + 1, k);
#pragma unroll
            for (int i = 0; i < MT; ++i) {
                sum[i][j][0] = fmaf(a[i][0], b0, sum[i][j][0]);
                sum[i][j][1] = fmaf(a[i][0], b1, sum[i][j][1]);
                sum[i][j][2] = fmaf(a[i][1], b0, sum[i][j][2]);
                sum[i][j][3] = fmaf(a[i][1], b1, sum[i][j][3]);
            }
        }
    }
}

template <int MT, int NT> __device__ inline void clear(float (&sum)[MT][NT][4]) {
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[i][j][e] = 0.0f;
}

// Calls f(row, column, x, y) for each pair of neighbours (row, column), (row, column + 1) that this lane holds;
// x and y are references, column is even.
template <int MT, int NT, class F> __device__ inline void for_each_pair(float (&sum)[MT][NT][4], F f) {
    const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            f(16 * i + g, 8 * j + 2 * t, sum[i][j][0], sum[i][j][1]);
            f(16 * i + g + 8, 8 * j + 2 * t, sum[i][j][2], sum[i][j][3]);
        }
}

// Two neighbours of a row at once; `to` is aligned to both.
__device__ inline void store_pair(float* to, float x, float y) { *reinterpret_cast<float2*>(to) = make_float2(x, y); }
__device__ inline void store_pair(bf16* to, float x, float y) { *reinterpret_cast<uint32_t*>(to) = pack_bf16(x, y); }

// Sum, or maximum, over the four lanes that share the rows of an accumulator.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Starts the copy of a tile by all THREADS threads of the block. `row_pointer(r)` is the address, aligned to 16
// bytes, of the first of `columns` elements (a multiple of 16 / sizeof(S)) of row r, or null where the row does
// not exist; rows and columns that do not exist become zeros. The caller commits, waits and synchronises.
template <int THREADS, class S, int ROWS, int COLUMNS, class RowPointer>
__device__ inline void copy_tile_async(Tile<S, ROWS, COLUMNS>& tile, int columns, RowPointer row_pointer) {
    constexpr int PACK = Pack<S>::COUNT, PACKS = COLUMNS / PACK;
    for (int index = threadIdx.x; index < ROWS * PACKS; index += THREADS) {
        const int row = index / PACKS, column = index % PACKS * PACK;
        const S* from = row_pointer(row);
        const bool valid = from != nullptr && column < columns;
        copy_async_16(tile.row(row) + column, valid ? from + column : nullptr, valid);
    }
}
