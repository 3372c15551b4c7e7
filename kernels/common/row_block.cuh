// Blocks that hold whole rows of a sublayer, D <= 256, from the first product to the norm: M rows of the left
// operand stay in shared memory while the weights pass through two buffers, and sums end as rows in float.
#pragma once
#include "tail.cuh"
#include "tile.cuh"

// How a block of rows of up to WIDTH = 64, 128 or 256 channels is cut: THREADS threads in WARPS_M x WARPS_N warps,
// each with 16 MT rows and 8 NT columns of sums; K is the depth of a tile of weights. M = 64 rows in bf16, 32
// in float, so that both need about the same shared memory: at most 99 KiB, which every GPU since sm_86 has.
template <class S, int WIDTH_> struct RowBlock {
    static constexpr bool IS_BF16 = sizeof(S) == 2;
    static constexpr int WIDTH = WIDTH_;
    static constexpr int WARPS_M = WIDTH == 64 && IS_BF16 ? 4 : 2;
    static constexpr int WARPS_N = WIDTH == 256 ? 4 : 4 / WARPS_M;
    static constexpr int THREADS = WARP * WARPS_M * WARPS_N;
    static constexpr int MT = WIDTH > 64 && IS_BF16 ? 2 : 1;
    static constexpr int NT = WIDTH / 8 / WARPS_N;
    static constexpr int M = 16 * MT * WARPS_M;
    static constexpr int K = (WIDTH == 256 ? 32 : 64) / (IS_BF16 ? 1 : 2);
    using L = RowLanes<WIDTH, THREADS>;
    using Rows = Tile<S, M, WIDTH>;
    static_assert(M % (L::GROUPS * ROWS_AHEAD<S, L>) == 0, "the tail fills whole tiles");
};

// Where this warp's sums begin in a block's.
template <class B> __device__ inline int warp_row() { return warp_index() / B::WARPS_N * 16 * B::MT; }
template <class B, int NT> __device__ inline int warp_column() { return warp_index() % B::WARPS_N * 8 * NT; }

// A block's sums as rows. Longer by 8 than they need be: then neither pairs nor runs of neighbouring rows collide.
template <class B> struct FloatRows {
    static constexpr int STRIDE = B::WIDTH + 8;
    alignas(16) float at[B::M * STRIDE];
    __device__ const float* row(int index) const { return at + index * STRIDE; }
};

template <class B> __device__ inline void store_sums(FloatRows<B>& rows, float (&sum)[B::MT][B::NT][4]) {
    for_each_pair(sum, [&](int row, int column, float x, float y) {
        store_pair(rows.at + (warp_row<B>() + row) * FloatRows<B>::STRIDE + warp_column<B, B::NT>() + column, x, y);
    });
}

// Calls use(i) for i = 0 to count - 1, in order, once the copies that start(i) started have landed for all
// threads. start(i) runs while use(i - 1) does, into other memory; the caller has called start(0).
template <class Start, class Use> __device__ inline void pipeline(int count, Start start, Use use) {
    copy_async_commit();
    for (int i = 0; i < count; ++i) {
        copy_async_wait<0>();
        __syncthreads();
        if (i + 1 < count) start(i + 1);
        copy_async_commit();
        use(i);
    }
}

// Starts copying rows `first` to `first` + M of a matrix [., width], those before `end`.
template <class B, class S>
__device__ inline void start_rows(typename B::Rows& tile, const S* matrix, RowRange rows, int width) {
    copy_tile_async<B::THREADS>(tile, width, [&](int row) {
        return rows.begin + row < rows.end ? row_of(matrix, rows.begin + row, width) : nullptr;
    });
}
