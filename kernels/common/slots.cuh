// Sums over rows in parts: part, or slot, s of a gradient sums the s-th range of rows, by one block, in order.
#pragma once
#include "kernel.cuh"

// Rows `first` up to, not including, `end`.
struct Span {
    int first;
    int end;
};

// The rows of one slot: all have ceil(rows / slots) rows rounded up to whole tiles, but the last ones, which have
// fewer or none. Depends on nothing but the batch and the number of slots.
__device__ inline Span slot_span(int rows, int slots, int slot, int tile) {
    const int share = ceil_div(ceil_div(rows, slots), tile) * tile;
    // `slot * share` may exceed an int only where the product is beyond all rows.
    const int64_t first = static_cast<int64_t>(slot) * share;
    const int begin = first < rows ? static_cast<int>(first) : rows;
    return {begin, rows - begin < share ? rows : begin + share};
}
