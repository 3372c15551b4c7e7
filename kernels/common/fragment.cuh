// Left operands of a product that stay with their warp: in its registers where the tensor cores read them, in
// shared memory where the exact path does.
#pragma once
#include "tile.cuh"

// 16 rows and K columns of bf16, as the fragments that mma takes on its left.
template <int K> struct Held {
    uint32_t at[K / 16][4];
};

// Reads 16 rows of a tile once, for many products.
template <int K> __device__ inline Held<K> hold(const AlongRows<bf16>& left) {
    Held<K> held;
#pragma unroll
    for (int k = 0; k < K; k += 16) load_left(held.at[k / 16], left.from(0, k));
    return held;
}

// The exact path reads them where they are.
template <int K> __device__ inline AlongRows<float> hold(const AlongRows<float>& left) { return left; }

// The warp's accumulator, 16 x N, rounded to a left operand. Its registers lie as the operand's do, so bf16
// never leaves them; `staged` is what the exact path needs.
template <int N, int ROWS, int COLUMNS>
__device__ inline Held<N> as_left(const float (&sum)[1][N / 8][4], Tile<bf16, ROWS, COLUMNS>&) {
    Held<N> held;
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
        held.at[k][0] = pack_bf16(sum[0][2 * k][0], sum[0][2 * k][1]);
        held.at[k][1] = pack_bf16(sum[0][2 * k][2], sum[0][2 * k][3]);
        held.at[k][2] = pack_bf16(sum[0][2 * k + 1][0], sum[0][2 * k + 1][1]);
        held.at[k][3] = pack_bf16(sum[0][2 * k + 1][2], sum[0][2 * k + 1][3]);
    }
    return held;
}

// The same in float, by way of the warp's own 16 rows of `staged`.
template <int N, int ROWS, int COLUMNS>
__device__ inline AlongRows<float> as_left(float (&sum)[1][N / 8][4], Tile<float, ROWS, COLUMNS>& staged) {
    static_assert(N == COLUMNS, "as wide as the tile");
    const int first = 16 * warp_index();
    __syncwarp();  // what was staged before has been read
    for_each_pair(sum, [&](int row, int column, float& x, float& y) {
        store_pair(staged.row(first + row) + column, x, y);
    });
    __syncwarp();
    return along_rows(staged, first);
}

// sum[0][j] += sum over k < K of left(i, k) right(j, k) with the left operand in registers.
template <int K, int NT, template <class> class Right>
__device__ inline void multiply_add(float (&sum)[1][NT][4], const Held<K>& left, const Right<bf16>& right) {
    static_assert(NT % 2 == 0, "whole fragments");
#pragma unroll
    for (int k = 0; k < K; k += 16)
#pragma unroll
        for (int j = 0; j < NT; j += 2) {
            uint32_t b[4];
            load_right(b, right.from(8 * j, k));
            const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
            mma_16x8x16(sum[0][j], left.at[k / 16], first);
            mma_16x8x16(sum[0][j + 1], left.at[k / 16], second);
        }
}

// Calls f(j, entry, x) for each entry [j][entry] of an accumulator of 16 rows; x is a reference.
template <int NT, class F> __device__ inline void for_each_entry(float (&sum)[1][NT][4], F f) {
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
        for (int entry = 0; entry < 4; ++entry) f(j, entry, sum[0][j][entry]);
}

// Multiplies rows g and g + 8 of an accumulator, g = lane / 4.
template <int NT> __device__ inline void scale_rows(float (&sum)[1][NT][4], const float (&factors)[2]) {
    for_each_entry(sum, [&](int, int entry, float& x) { x *= factors[entry / 2]; });
}

// Writes the warp's accumulator to memory, 16 bytes at a time, by way of its own 16 rows of `tile`, which
// nobody else may still need. `row_pointer(r)` is the address, aligned to 16 bytes, of the first of `columns`
// elements of row r of the tile, or null where that row does not exist.
template <class S, int ROWS, int COLUMNS, class RowPointer>
__device__ inline void store_rows(Tile<S, ROWS, COLUMNS>& tile, float (&sum)[1][COLUMNS / 8][4], int columns,
                                  RowPointer row_pointer) {
    constexpr int PACK = Pack<S>::COUNT, PACKS = COLUMNS / PACK;
    const int first = 16 * warp_index();
    __syncwarp();
    for_each_pair(sum, [&](int row, int column, float& x, float& y) {
        store_pair(tile.row(first + row) + column, x, y);
    });
    __syncwarp();
    for (int index = lane_index(); index < 16 * PACKS; index += WARP) {
        const int row = first + index / PACKS, column = index % PACKS * PACK;
        S* to = row_pointer(row);
        if (to != nullptr && column < columns) store_pack(to + column, load_pack(tile.row(row) + column));
    }
}
