// Sweeps: a tile of rows meets all rows of another matrix, tile by tile, as scores = left right^T. The softmax over
// all items, its gradients, ranks and the best items are each a sweep with something else done to the scores, which
// never leave the chip.
//
// Narrow rows, D <= WIDTH, lie in shared memory whole: the left tile for good, right tiles one after the other. Wide
// ones, up to D = 1,024, come in chunks of 64 channels, both sides anew for each tile; a gradient needs WIDTH
// channels of the right tile at once, which are fetched beside them. bf16 has the next tile or chunk copied while it
// works on one; float, with twice the bytes, and WIDTH = 256 leave that to the other block of the multiprocessor.
// Channels and rows that do not exist are zeros.
//
// 8 warps, 2 along the rows by 4 along the columns of the scores.
#pragma once
#include "tile.cuh"

constexpr int SWEEP_THREADS = 256;
constexpr int SWEEP_WARP_COLUMNS = 4;

// Mirrored by src/cuda/sweep.rs.
template <class S_, int WIDTH_, bool WIDE_ = false> struct Sweep {
    using S = S_;
    static constexpr int WIDTH = WIDTH_;
    static constexpr bool WIDE = WIDE_;
    // Rows of both tiles.
    static constexpr int TILE = sizeof(S) == 4 && WIDTH == 256 ? 32 : 64;
    static constexpr int STAGES = sizeof(S) == 2 && (WIDE || WIDTH < 256) ? 2 : 1;
    // Channels multiplied between two barriers.
    static constexpr int CHUNK = WIDE ? 64 : WIDTH;
    // Blocks of 16 rows and 8 columns of scores that a warp holds.
    static constexpr int ROWS = TILE / 32, COLUMNS = TILE / 32;
    // A lane holds parts of this many rows and columns of scores: see `row` and `column`.
    static constexpr int ROW_SLOTS = 2 * ROWS, COLUMN_SLOTS = 2 * COLUMNS;

    using Scores = float[ROWS][COLUMNS][4];
    using Right = Tile<S, TILE, WIDTH>;

    struct Shared {
        Tile<S, TILE, CHUNK> left[WIDE ? STAGES : 1];
        Tile<S, TILE, CHUNK> right[STAGES];
    };
    // Where a gradient is made.
    struct ProductShared {
        Shared sweep;
        Tile<S, TILE, TILE> factors;
        Tile<S, WIDE ? TILE : 1, WIDTH> block;
    };

    static __device__ int warp_row() { return 16 * ROWS * (warp_index() / SWEEP_WARP_COLUMNS); }
    static __device__ int warp_column() { return 8 * COLUMNS * (warp_index() % SWEEP_WARP_COLUMNS); }
    // Row and column within the tile of a slot of this lane.
    static __device__ int row(int slot) { return warp_row() + 8 * slot + lane_index() / 4; }
    static __device__ int column(int slot) { return warp_column() + 8 * (slot / 2) + 2 * (lane_index() % 4) + slot % 2; }
    static __device__ float& score(Scores& scores, int row_slot, int column_slot) {
        return scores[row_slot / 2][column_slot / 2][2 * (row_slot % 2) + column_slot % 2];
    }
};

// Rows `first` and on of a matrix [count, width]; none beyond `count`.
template <class S> struct MatrixRows {
    const S* at;
    uint32_t count;
    uint32_t width;
    __device__ const S* operator()(uint32_t row) const {
        return row < count ? at + static_cast<size_t>(row) * width : nullptr;
    }
};

// multiply_add in steps of at most 32 of k that are not unrolled into each other, which saves registers.
template <int K, int MT, int NT, class Left, class Right>
__device__ inline void multiply_add_stepwise(float (&sum)[MT][NT][4], const Left& left, const Right& right) {
    constexpr int STEP = K < 32 ? K : 32;
#pragma unroll 1
    for (int k = 0; k < K; k += STEP) multiply_add<STEP>(sum, left.from(0, k), right.from(0, k));
}

// Scores of rows that fit into shared memory. For each tile from `begin` to `end`, in steps of TILE: calls
// before(tile), then visit(tile, scores, right tile), where scores are of left rows `first` and on and right rows
// `tile` and on. left_row(r) and right_row(r) give row r of either side, or null. All threads call it; visit may
// synchronise, and what it reads is left alone until all are through with it.
template <class Sweep, class LeftRow, class RightRow, class Before, class Visit>
__device__ inline void sweep_narrow(typename Sweep::Shared& shared, int width, uint32_t first, LeftRow left_row,
                                    uint32_t begin, uint32_t end, RightRow right_row, Before before, Visit visit) {
    constexpr int TILE = Sweep::TILE;
    const auto fetch = [&](int stage, uint32_t tile) {
        if (tile < end)
            copy_tile_async<SWEEP_THREADS>(shared.right[stage], width, [&](int row) { return right_row(tile + row); });
        copy_async_commit();
    };
    if (begin >= end) return;
    copy_tile_async<SWEEP_THREADS>(shared.left[0], width, [&](int row) { return left_row(first + row); });
    fetch(0, begin);
    int stage = 0;
    for (uint32_t tile = begin; tile < end; tile += TILE) {
        if (Sweep::STAGES == 2) fetch(1 - stage, tile + TILE);
        copy_async_wait<Sweep::STAGES - 1>();
        __syncthreads();
        before(tile);
        typename Sweep::Scores scores;
        clear(scores);
        multiply_add_stepwise<Sweep::CHUNK>(scores, along_rows(shared.left[0], Sweep::warp_row()),
                                            along_rows(shared.right[stage], Sweep::warp_column()));
        visit(tile, scores, shared.right[stage]);
        __syncthreads();
        if (Sweep::STAGES == 1) fetch(0, tile + TILE);
        else stage = 1 - stage;
    }
    copy_async_wait<0>();
}

// The same for wide rows; `block` is what visit gets, and fetch_block(tile) starts the copy that fills it.
template <class Sweep, class Block, class LeftRow, class RightRow, class FetchBlock, class Before, class Visit>
__device__ inline void sweep_wide(typename Sweep::Shared& shared, const Block& block, int width, uint32_t first,
                                  LeftRow left_row, uint32_t begin, uint32_t end, RightRow right_row,
                                  FetchBlock fetch_block, Before before, Visit visit) {
    constexpr int CHUNK = Sweep::CHUNK, STAGES = Sweep::STAGES;
    const auto within = [](const typename Sweep::S* row, int channel) { return row == nullptr ? row : row + channel; };
    const auto fetch = [&](int stage, uint32_t tile, int channel) {
        if (channel < width) {
            copy_tile_async<SWEEP_THREADS>(shared.left[stage], width - channel,
                                           [&](int row) { return within(left_row(first + row), channel); });
            copy_tile_async<SWEEP_THREADS>(shared.right[stage], width - channel,
                                           [&](int row) { return within(right_row(tile + row), channel); });
        }
        copy_async_commit();
    };
    for (uint32_t tile = begin; tile < end; tile += Sweep::TILE) {
        fetch_block(tile);
        fetch(0, tile, 0);
        before(tile);
        typename Sweep::Scores scores;
        clear(scores);
        int stage = 0;
        for (int channel = 0; channel < width; channel += CHUNK) {
            if (STAGES == 2) fetch(1 - stage, tile, channel + CHUNK);
            copy_async_wait<STAGES - 1>();
            __syncthreads();
            multiply_add_stepwise<CHUNK>(scores, along_rows(shared.left[stage], Sweep::warp_row()),
                                         along_rows(shared.right[stage], Sweep::warp_column()));
            __syncthreads();
            if (STAGES == 1) fetch(0, tile, channel + CHUNK);
            else stage = 1 - stage;
        }
        visit(tile, scores, block);
        __syncthreads();
    }
    copy_async_wait<0>();
}

// A sweep whose visit(tile, scores) looks at the scores alone.
template <class Sweep, class LeftRow, class RightRow, class Before, class Visit>
__device__ inline void sweep_scores(typename Sweep::Shared& shared, int width, uint32_t first, LeftRow left_row,
                                    uint32_t begin, uint32_t end, RightRow right_row, Before before, Visit visit) {
    const auto look = [&](uint32_t tile, typename Sweep::Scores& scores, const auto&) { visit(tile, scores); };
    if constexpr (Sweep::WIDE) {
        sweep_wide<Sweep>(shared, 0, width, first, left_row, begin, end, right_row, [](uint32_t) {}, before, look);
    } else {
        sweep_narrow<Sweep>(shared, width, first, left_row, begin, end, right_row, before, look);
    }
}

// Item indices from 0 that a split of all of them takes: an equal share, rounded up to whole tiles.
struct SplitRange {
    uint32_t begin, end;
};
__device__ inline SplitRange split_range(uint32_t count, uint32_t splits, uint32_t split, uint32_t tile) {
    const uint32_t share = ((count + splits - 1) / splits + tile - 1) / tile * tile;
    const uint32_t begin = min(split * share, count);
    return {begin, min(begin + share, count)};
}

// Rows and the output table they are multiplied by, mirrored by src/cuda/sweep.rs.
template <class S> struct ItemProblem {
    const uint32_t* rows;     // P
    const uint32_t* items;    // V; C where the table is that of a step's shortlist
    const S* head;            // [P, D]
    const uint32_t* targets;  // [P] item index, 1 to V
    const S* table;           // [V + 2, D]
    const float* bias;        // [V + 1]
    uint32_t width;           // D
    uint32_t unused;

    __device__ MatrixRows<S> head_rows() const { return {head, *rows, width}; }
    // Items 1 to V as rows 0 to V - 1.
    __device__ MatrixRows<S> item_rows() const { return {table + width, *items, width}; }
};

constexpr float NEGATIVE_INFINITY = -__builtin_huge_valf();
