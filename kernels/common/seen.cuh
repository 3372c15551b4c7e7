// Items that rows leave out: lists of item indices, ascending, one after the other.
#pragma once
#include "sweep.cuh"

struct SeenLists {
    const uint32_t* offsets;  // [P + 1]
    const uint32_t* items;
};

// Where `item` is, or would be, among items[begin, end).
__device__ inline uint32_t lower_bound(const uint32_t* items, uint32_t begin, uint32_t end, uint32_t item) {
    while (begin < end) {
        const uint32_t middle = begin + (end - begin) / 2;
        if (items[middle] < item) begin = middle + 1;
        else end = middle;
    }
    return begin;
}

// Which items of the tile at hand each row of a tile has seen, as bits. Lists are walked through once along with the
// sweep: a warp takes TILE / 8 rows, 32 entries at a time.
template <int TILE> struct SeenTile {
    uint32_t bits[TILE][2];
    uint32_t next[TILE];
    uint32_t end[TILE];

    // Rows `first` and on, items from `begin` (from 0) on. All threads call it; a barrier must follow.
    __device__ void start(const SeenLists& seen, uint32_t first, uint32_t rows, uint32_t begin) {
        const uint32_t index = threadIdx.x, row = first + index;
        if (index >= TILE) return;
        end[index] = row < rows ? seen.offsets[row + 1] : 0;
        next[index] = row < rows ? lower_bound(seen.items, seen.offsets[row], end[index], begin + 1) : 0;
    }

    // Fills the bits for the items from `tile` (from 0) on, which must follow those of the last call. All threads call
    // it, after a barrier; a barrier must follow before bits are looked at.
    __device__ void fill(const SeenLists& seen, uint32_t tile) {
        constexpr int ROWS = TILE * WARP / SWEEP_THREADS;
        const int lane = lane_index();
        for (int row = ROWS * warp_index(); row < ROWS * (warp_index() + 1); ++row) {
            if (lane < 2) bits[row][lane] = 0;
            uint32_t at = next[row];
            __syncwarp();
            while (true) {
                const uint32_t bit = at + lane < end[row] ? seen.items[at + lane] - 1 - tile : ~0u;
                if (bit < TILE) atomicOr(&bits[row][bit / 32], 1u << bit % 32);
                const int inside = __popc(__ballot_sync(0xffffffffu, bit < TILE));
                at += inside;
                if (inside < WARP) break;
            }
            if (lane == 0) next[row] = at;
        }
    }

    __device__ bool has(int row, int column) const { return (bits[row][column / 32] >> column % 32 & 1) != 0; }
};
