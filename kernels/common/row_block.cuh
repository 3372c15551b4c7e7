// Blocks that hold whole rows of a sublayer, D <= 256, from the first product to the norm: the rows of the left
// operand stay in shared memory while the weights pass through two buffers, and sums end as rows in float.
#pragma once
#include "gemm.cuh"
#include "tail.cuh"

// Warps that share a block's sums of WIDTH = 64, 128 or 256 columns. 64 rows in bf16, 32 in float, so that both need
// about the same shared memory: at most 99 KiB, which every GPU since sm_86 has.
template <class S, int WIDTH> struct RowWarps {
    static constexpr bool IS_BF16 = sizeof(S) == 2;
    static constexpr int DOWN = WIDTH == 64 && IS_BF16 ? 4 : 2;
    static constexpr int ACROSS = WIDTH == 256 ? 4 : 4 / DOWN;
    static constexpr int MT = WIDTH > 64 && IS_BF16 ? 2 : 1;
    using Sums = Blocking<S, DOWN, ACROSS, MT, WIDTH / 8 / ACROSS>;
};

// A block that makes rows of up to WIDTH channels; K is the depth of a tile of weights.
template <class S, int WIDTH> struct RowBlock : RowWarps<S, WIDTH>::Sums {
    using B = typename RowWarps<S, WIDTH>::Sums;
    static constexpr int K = (WIDTH == 256 ? 64 : 128) / static_cast<int>(sizeof(S));
    using Lanes = RowLanes<WIDTH, B::THREADS>;
    using Held = Tile<S, B::ROWS, WIDTH>;
    using Sums = Staging<B::ROWS, WIDTH>;
    static_assert(B::ROWS % (Lanes::GROUPS * ROWS_AHEAD<S, Lanes>) == 0, "what works on rows fills whole tiles");
};

// Calls `use(row, channel)` for the runs of `rows` that this thread's lanes hold, of rows of one run a lane.
template <class L, class Use> __device__ inline void for_each_held_run(Span rows, int width, Use use) {
    static_assert(L::RUNS == 1, "a run a lane");
    if (L::column(0) >= width) return;
    for (int row = rows.first + L::group(); row < rows.end; row += L::GROUPS) use(row, L::column(0));
}
