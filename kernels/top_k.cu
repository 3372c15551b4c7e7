// The k best items of each row, k up to 256, exactly: higher scores first, of equal ones the lower item.
//
// A score and its item become one key of 64 bits whose order is that order, so that the result does not depend on who
// found what when. top_k_sweep: a block for a tile of rows and a split of the items (see item_softmax.cu for launch,
// shared memory and traffic) appends the keys above a row's bar to a list of LIST keys in scratch; where another tile
// might not fit, the block sorts the list in shared memory, keeps the k best and raises the bar. In random order
// about k ln(V / k) keys a row pass the bar. top_k_merge: a block a row merges the splits' best and writes them.
// A sort of 512 keys takes 45 steps of 256 threads.
//
// Seen items, and those whose bias is negative infinity, are left out. Another score that is not finite gets the
// highest key of all: the row's first item is then 0 and its score NaN.
// Selecting by radix from stored scores was considered: it wants P V scores in memory.
#include "common/seen.cuh"

constexpr int LIST = 512;
constexpr uint64_t NOT_FINITE = ~0ull;

template <class S> struct TopKSweep {
    ItemProblem<S> problem;
    SeenLists seen;
    uint64_t* lists;  // [splits, most, LIST]
    uint32_t most;
    uint32_t k;
};

struct TopKMerge {
    const uint32_t* rows;
    const uint64_t* lists;  // [splits, most, LIST]
    uint32_t* items;        // [P, k]
    float* scores;          // [P, k]
    uint32_t most;
    uint32_t splits;
    uint32_t k;
    uint32_t unused;
};

// Bits whose order is that of the numbers; the two zeros are one.
__device__ inline uint32_t ordered(float score) {
    const uint32_t bits = __float_as_uint(score + 0.0f);
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
__device__ inline float unordered(uint32_t bits) {
    return __uint_as_float(bits >> 31 != 0 ? bits & 0x7fffffffu : ~bits);
}

// `item` from 1. No key is 0, which stands for none.
__device__ inline uint64_t key_of(float score, uint32_t item) {
    if (!(fabsf(score) <= 3.402823466e38f)) return NOT_FINITE;
    return static_cast<uint64_t>(ordered(score)) << 32 | (0xffffffffu - item);
}

struct Keys {
    uint64_t at[LIST];
};

// Sorts the keys, largest first (bitonic). All threads call it, after a barrier; one follows.
__device__ inline void sort_keys(Keys& keys) {
    static_assert(LIST == 2 * SWEEP_THREADS, "a pair a thread");
    for (uint32_t run = 2; run <= LIST; run *= 2)
        for (uint32_t stride = run / 2; stride > 0; stride /= 2) {
            const uint32_t low = 2 * threadIdx.x - (threadIdx.x & (stride - 1)), high = low + stride;
            const uint64_t a = keys.at[low], b = keys.at[high];
            if ((a < b) == ((low & run) == 0)) {
                keys.at[low] = b;
                keys.at[high] = a;
            }
            __syncthreads();
        }
}

template <int TILE> struct TopKShared {
    uint64_t bar[TILE];
    uint32_t count[TILE];
    SeenTile<TILE> seen;
    Keys keys;
};

// Reduces the list of a row to its k best, zeros behind, and raises the bar. All threads call it, after a barrier.
template <int TILE>
__device__ inline void shrink(TopKShared<TILE>& own, uint64_t* list, int row, uint32_t k) {
    const uint32_t count = own.count[row];
    for (uint32_t i = threadIdx.x; i < LIST; i += SWEEP_THREADS) own.keys.at[i] = i < count ? list[i] : 0;
    __syncthreads();
    sort_keys(own.keys);
    if (threadIdx.x < k) list[threadIdx.x] = own.keys.at[threadIdx.x];
    if (threadIdx.x == 0) {
        own.count[row] = min(count, k);
        own.bar[row] = own.keys.at[k - 1];
    }
    __syncthreads();
}

template <class Sweep> __device__ void top_k_sweep(const TopKSweep<typename Sweep::S>& args) {
    constexpr int TILE = Sweep::TILE;
    auto& shared = *reinterpret_cast<typename Sweep::Shared*>(DYNAMIC_SHARED());
    STATIC_SHARED(TopKShared<TILE>, own);
    const auto& problem = args.problem;
    const uint32_t rows = *problem.rows, first = blockIdx.x * TILE;
    if (first >= rows) return;
    const uint32_t tile_rows = min(rows - first, static_cast<uint32_t>(TILE));
    const SplitRange items = split_range(*problem.items, gridDim.y, blockIdx.y, TILE);
    uint64_t* lists = args.lists + (static_cast<size_t>(blockIdx.y) * args.most + first) * LIST;
    own.seen.start(args.seen, first, rows, items.begin);
    if (threadIdx.x < TILE) own.bar[threadIdx.x] = own.count[threadIdx.x] = 0;
    __syncthreads();
    sweep_scores<Sweep>(
        shared, problem.width, first, problem.head_rows(), items.begin, items.end, problem.item_rows(),
        [&](uint32_t tile) { own.seen.fill(args.seen, tile); },
        [&](uint32_t tile, typename Sweep::Scores& scores) {
            __syncthreads();
#pragma unroll
            for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                const uint32_t item = tile + Sweep::column(c) + 1;
                const float bias = item <= items.end ? problem.bias[item] : NEGATIVE_INFINITY;
                if (bias == NEGATIVE_INFINITY) continue;
#pragma unroll
                for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
                    const uint32_t row = Sweep::row(s);
                    const uint64_t key = key_of(Sweep::score(scores, s, c) + bias, item);
                    if (row >= tile_rows || key <= own.bar[row]) continue;
                    if (key != NOT_FINITE && own.seen.has(row, Sweep::column(c))) continue;
                    lists[row * LIST + atomicAdd(&own.count[row], 1u)] = key;
                }
            }
            __syncthreads();
            for (uint32_t row = 0; row < tile_rows; ++row)
                if (own.count[row] > LIST - TILE) shrink(own, lists + row * LIST, row, args.k);
        });
    __syncthreads();
    for (uint32_t row = 0; row < tile_rows; ++row) shrink(own, lists + row * LIST, row, args.k);
}

__device__ inline void top_k_merge(const TopKMerge& args) {
    STATIC_SHARED(Keys, keys);
    const uint32_t row = blockIdx.x, index = threadIdx.x;
    if (row >= *args.rows) return;
    const bool within = index < args.k;
    keys.at[index] = 0;
    for (uint32_t split = 0; split < args.splits; ++split) {
        const uint64_t* list = args.lists + (static_cast<size_t>(split) * args.most + row) * LIST;
        keys.at[SWEEP_THREADS + index] = within ? list[index] : 0;
        __syncthreads();
        sort_keys(keys);
    }
    if (!within) return;
    const uint64_t key = keys.at[index];
    const size_t at = static_cast<size_t>(row) * args.k + index;
    const bool finite = key != NOT_FINITE, found = finite && key != 0;
    args.items[at] = found ? 0xffffffffu - static_cast<uint32_t>(key) : 0;
    args.scores[at] = found ? unordered(static_cast<uint32_t>(key >> 32))
                            : finite ? NEGATIVE_INFINITY : __builtin_nanf("");
}

KERNEL(top_k_sweep_d64_f32, 256, 2, TopKSweep<float>, (top_k_sweep<Sweep<float, 64>>))
KERNEL(top_k_sweep_d128_f32, 256, 1, TopKSweep<float>, (top_k_sweep<Sweep<float, 128>>))
KERNEL(top_k_sweep_d256_f32, 256, 2, TopKSweep<float>, (top_k_sweep<Sweep<float, 256>>))
KERNEL(top_k_sweep_d1024_f32, 256, 2, TopKSweep<float>, (top_k_sweep<Sweep<float, 256, true>>))
KERNEL(top_k_sweep_d64_bf16, 256, 2, TopKSweep<bf16>, (top_k_sweep<Sweep<bf16, 64>>))
KERNEL(top_k_sweep_d128_bf16, 256, 2, TopKSweep<bf16>, (top_k_sweep<Sweep<bf16, 128>>))
KERNEL(top_k_sweep_d256_bf16, 256, 2, TopKSweep<bf16>, (top_k_sweep<Sweep<bf16, 256>>))
KERNEL(top_k_sweep_d1024_bf16, 256, 2, TopKSweep<bf16>, (top_k_sweep<Sweep<bf16, 256, true>>))
KERNEL(top_k_merge_f32, 256, 1, TopKMerge, top_k_merge)
