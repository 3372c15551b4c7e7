// Matrix products of a block: ROWS x COLUMNS elements are made by warps that hold 16 MT x 8 NT of them each
// (tile.cuh), the inner dimension is swept in chunks of 64 bytes that arrive by cp.async while the chunk before
// is multiplied. What follows a product is written once for whole runs of eight columns (run.cuh): accumulators
// pass through shared memory in float, so that memory sees contiguous 16-byte accesses.
#pragma once
#include "run.cuh"
#include "tile.cuh"

// How a block of DOWN x ACROSS warps shares its tile of a product of elements stored as S.
template <class S_, int DOWN, int ACROSS, int MT_, int NT_> struct Blocking {
    using S = S_;
    static constexpr int MT = MT_, NT = NT_, WARPS = DOWN * ACROSS, THREADS = WARP * WARPS;
    static constexpr int ROWS = DOWN * 16 * MT, COLUMNS = ACROSS * 8 * NT;
    // Elements of the inner dimension that are copied and multiplied at a time.
    static constexpr int CHUNK = 64 / static_cast<int>(sizeof(S));
    using Sum = float[MT][NT][4];

    // Where the part of this warp begins.
    static __device__ int warp_row() { return warp_index() / ACROSS * 16 * MT; }
    static __device__ int warp_column() { return warp_index() % ACROSS * 8 * NT; }
};

// Multiplies chunks 0 to `chunks` - 1 in order: `load(c)` starts the copies of chunk c to stage c % STAGES,
// STAGES - 1 chunks ahead of `multiply(c)`, which finds them there. What all threads wrote to shared memory
// before is visible to `multiply`; at the end all stages may be used anew. `arrived(c)` comes in between, when a
// thread sees what it copied itself of chunk c and nobody reads it yet.
template <int STAGES, class Load, class Arrived, class Multiply>
__device__ inline void pipeline(int chunks, Load load, Arrived arrived, Multiply multiply) {
#pragma unroll
    for (int c = 0; c < STAGES - 1; ++c) {
        if (c < chunks) load(c);
        copy_async_commit();
    }
    for (int c = 0; c < chunks; ++c) {
        copy_async_wait<STAGES - 2>();
        arrived(c);
        // Now all threads have this chunk, and are through with the one before, whose stage is filled next.
        __syncthreads();
        if (c + STAGES - 1 < chunks) load(c + STAGES - 1);
        copy_async_commit();
        multiply(c);
    }
    copy_async_wait<0>();
    __syncthreads();
}

template <int STAGES, class Load, class Multiply>
__device__ inline void pipeline(int chunks, Load load, Multiply multiply) {
    pipeline<STAGES>(chunks, load, [](int) {}, multiply);
}

constexpr uint32_t NO_ROW = 0xffffffffu;

// Rows of a matrix [.., width]: row i is its row i, or index[i] where there is an index. Rows from `rows` on, and
// those whose index is NO_ROW, do not exist.
template <class S> struct Rows {
    const S* at;
    const uint32_t* index;
    int rows;
    int width;

    // First element of row i, null where it does not exist.
    __device__ const S* row(int i) const {
        if (i >= rows) return nullptr;
        const uint32_t source = index == nullptr ? i : index[i];
        return source == NO_ROW ? nullptr : at + static_cast<size_t>(source) * width;
    }
};

// Starts the copy of rows from `first_row` and columns from `first_column` on to a tile; zeros where there are none.
template <int THREADS, class S, int ROWS, int COLUMNS>
__device__ inline void copy_rows_async(Tile<S, ROWS, COLUMNS>& tile, const Rows<S>& rows, int first_row,
                                       int first_column) {
    copy_tile_async<THREADS>(tile, rows.width - first_column, [&](int i) {
        const S* row = rows.row(first_row + i);
        return row == nullptr ? row : row + first_column;
    });
}

// The weight [outputs, inputs] of a linear map as the right operand of a product.
template <class S> struct Weight {
    const S* at;
    int outputs;
    int inputs;
};
template <class S> __device__ inline Rows<S> rows_of(const Weight<S>& weight) {
    return {weight.at, nullptr, weight.outputs, weight.inputs};
}

// Of y = x W^T: the product's columns are outputs, its inner dimension runs over inputs.
struct AcrossOutputs {
    template <class S> static __device__ int columns(const Weight<S>& weight) { return weight.outputs; }
    template <class B> using Chunk = Tile<typename B::S, B::COLUMNS, B::CHUNK>;

    template <class B>
    static __device__ void copy(Chunk<B>& tile, const Weight<typename B::S>& weight, int column, int k) {
        copy_rows_async<B::THREADS>(tile, rows_of(weight), column, k);
    }
    template <class B> static __device__ auto operand(const Chunk<B>& tile, int column) {
        return along_rows(tile, column);
    }
};

// Of dx = dy W: the product's columns are inputs, its inner dimension runs over outputs.
struct AcrossInputs {
    template <class S> static __device__ int columns(const Weight<S>& weight) { return weight.inputs; }
    template <class B> using Chunk = Tile<typename B::S, B::CHUNK, B::COLUMNS>;

    template <class B>
    static __device__ void copy(Chunk<B>& tile, const Weight<typename B::S>& weight, int column, int k) {
        copy_rows_async<B::THREADS>(tile, rows_of(weight), k, column);
    }
    template <class B> static __device__ auto operand(const Chunk<B>& tile, int column) {
        return along_columns(tile, 0, column);
    }
};

// Chunks on their way, left and right operand.
template <class B, class Side, int STAGES> struct Stages {
    Tile<typename B::S, B::ROWS, B::CHUNK> left[STAGES];
    typename Side::template Chunk<B> right[STAGES];
};

// sum += left right over all chunks; `load(c, left, right)` starts the copies of chunk c of both operands.
template <class B, class Side, int STAGES, class Load>
__device__ inline void product(typename B::Sum& sum, Stages<B, Side, STAGES>& shared, int chunks, Load load) {
    pipeline<STAGES>(
        chunks, [&](int c) { load(c, shared.left[c % STAGES], shared.right[c % STAGES]); },
        [&](int c) {
            multiply_add<B::CHUNK>(sum, along_rows(shared.left[c % STAGES], B::warp_row()),
                                   Side::template operand<B>(shared.right[c % STAGES], B::warp_column()));
        });
}

// sum += x W^T (AcrossOutputs) or dy W (AcrossInputs) for the tile at (row, column).
template <class B, class Side, int STAGES>
__device__ inline void linear_product(typename B::Sum& sum, Stages<B, Side, STAGES>& shared,
                                      const Rows<typename B::S>& left, const Weight<typename B::S>& weight, int row,
                                      int column) {
    product<B>(sum, shared, ceil_div(left.width, B::CHUNK), [&](int c, auto& left_tile, auto& right_tile) {
        copy_rows_async<B::THREADS>(left_tile, left, row, c * B::CHUNK);
        Side::template copy<B>(right_tile, weight, column, c * B::CHUNK);
    });
}

// Chunks of the right operand alone, on their way.
template <class B, class Side, int STAGES> struct RightStages {
    typename Side::template Chunk<B> right[STAGES];
};

// The same where the rows of the left operand, `depth` elements and zeros beyond, lie in shared memory already;
// COLUMNS is a multiple of B::CHUNK. The threads need not have met a barrier since they wrote them.
template <class B, class Side, int STAGES, int COLUMNS>
__device__ inline void resident_product(typename B::Sum& sum, const Tile<typename B::S, B::ROWS, COLUMNS>& left,
                                        RightStages<B, Side, STAGES>& shared, const Weight<typename B::S>& weight,
                                        int depth, int column) {
    static_assert(COLUMNS % B::CHUNK == 0, "whole chunks");
    pipeline<STAGES>(
        ceil_div(depth, B::CHUNK),
        [&](int c) { Side::template copy<B>(shared.right[c % STAGES], weight, column, c * B::CHUNK); },
        [&](int c) {
            multiply_add<B::CHUNK>(sum, along_rows(left, B::warp_row(), c * B::CHUNK),
                                   Side::template operand<B>(shared.right[c % STAGES], B::warp_column()));
        });
}

// A block's product as whole rows. Rows are 8 floats longer than they need be, so that the lanes of a warp, which
// write pairs, meet different banks.
template <int ROWS, int COLUMNS> struct alignas(16) Staging {
    static constexpr int STRIDE = COLUMNS + 8;
    float at[ROWS * STRIDE];
    __device__ float* row(int index) { return at + index * STRIDE; }
};

// Writes 16 rows of a warp's accumulator to shared memory.
template <int NT> __device__ inline void put_rows(float* to, int stride, const float (&sum)[NT][4]) {
    const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
        store_pair(to + g * stride + 8 * j + 2 * t, sum[j][0], sum[j][1]);
        store_pair(to + (g + 8) * stride + 8 * j + 2 * t, sum[j][2], sum[j][3]);
    }
}

// Writes the block's product to shared memory; others see it after a barrier.
template <class B>
__device__ inline void stage(Staging<B::ROWS, B::COLUMNS>& to, const typename B::Sum& sum) {
#pragma unroll
    for (int i = 0; i < B::MT; ++i)
        put_rows(to.row(B::warp_row() + 16 * i) + B::warp_column(), to.STRIDE, sum[i]);
}

// Where each warp passes its part of a product through shared memory, 16 rows at a time.
template <class B> struct alignas(16) Patches {
    static constexpr int STRIDE = 8 * B::NT + 8;
    float at[B::WARPS][16 * STRIDE];
};

// Calls `use(row, column, run)` for each run of the block's product, by all lanes of a warp at once, neighbouring
// lanes with neighbouring runs; row and column count from the tile's first. Needs no barrier after `pipeline`.
template <class B, class Use>
__device__ inline void for_each_run(const typename B::Sum& sum, Patches<B>& patches, Use use) {
    static_assert(WARP % B::NT == 0, "a row's runs are shared by lanes");
    float* patch = patches.at[warp_index()];
    const int column = RUN * (lane_index() % B::NT);
#pragma unroll
    for (int i = 0; i < B::MT; ++i) {
        put_rows(patch, Patches<B>::STRIDE, sum[i]);
        __syncwarp();
#pragma unroll
        for (int row = lane_index() / B::NT; row < 16; row += WARP / B::NT)
            use(B::warp_row() + 16 * i + row, B::warp_column() + column,
                load_run(patch + row * Patches<B>::STRIDE + column));
        __syncwarp();
    }
}

// What linear_tile needs of shared memory.
template <class B, class Side> union LinearTileShared {
    Stages<B, Side, 2> stages;
    Patches<B> patches;
};

// A tile of a linear map by itself: output = x W^T (AcrossOutputs) or dy W (AcrossInputs), plus a bias unless that is
// null, for the rows and columns from (row, column) on that exist.
template <class B, class Side>
__device__ inline void linear_tile(LinearTileShared<B, Side>& shared, const Rows<typename B::S>& left,
                                   const Weight<typename B::S>& weight, const float* bias, typename B::S* output,
                                   int row, int column) {
    typename B::Sum sum;
    clear(sum);
    linear_product<B>(sum, shared.stages, left, weight, row, column);
    const int rows = left.rows - row, columns = Side::columns(weight) - column, width = Side::columns(weight);
    for_each_run<B>(sum, shared.patches, [&](int i, int j, Run run) {
        if (i >= rows || j >= columns) return;
        if (bias != nullptr) run += load_run(bias + column + j);
        store_run(output + static_cast<size_t>(row + i) * width + column + j, run);
    });
}
