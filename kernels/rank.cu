// Rank of each row's target among all items: 1 + the number of unseen items, the target apart, whose score h E + b is
// not below the target's. Ties and NaN stand before the target; a target that was seen gets ~0.
//
// rank_begin: a thread a row looks the target up in the row's list. rank: a block for a tile of rows and a split of
// the items first multiplies the rows with their own targets' vectors, exactly as it will with all others, and keeps
// the diagonal; then counts along its items. Counts are integers and added atomically, so their order does not
// matter. 2 P D V FLOPs, as item_softmax.cu's forward pass, whose launch, shared memory and traffic it has; lists of
// seen items are read once, 4 B an entry.
#include "common/seen.cuh"

constexpr uint32_t UNRANKED = ~0u;

struct RankBegin {
    const uint32_t* rows;
    const uint32_t* targets;  // [P]
    SeenLists seen;
    uint32_t* ranks;  // [P]
};

template <class S> struct Rank {
    ItemProblem<S> problem;
    SeenLists seen;
    uint32_t* ranks;  // [P]
};

__device__ inline void rank_begin(const RankBegin& args) {
    const uint32_t row = blockIdx.x * SWEEP_THREADS + threadIdx.x;
    if (row >= *args.rows) return;
    const uint32_t target = args.targets[row], end = args.seen.offsets[row + 1];
    const uint32_t at = lower_bound(args.seen.items, args.seen.offsets[row], end, target);
    args.ranks[row] = at < end && args.seen.items[at] == target ? UNRANKED : 1;
}

template <class Sweep> struct RankShared {
    float bar[Sweep::TILE];
    uint32_t count[Sweep::TILE];
    SeenTile<Sweep::TILE> seen;
};

// Writes the scores of the targets of rows `first` and on to `bar`.
template <class Sweep>
__device__ inline void target_scores(typename Sweep::Shared& shared, const ItemProblem<typename Sweep::S>& problem,
                                     uint32_t first, uint32_t rows, float (&bar)[Sweep::TILE]) {
    const auto items = problem.item_rows();
    const auto target_row = [&](uint32_t index) { return first + index < rows ? items(problem.targets[first + index] - 1) : nullptr; };
    sweep_scores<Sweep>(
        shared, problem.width, first, problem.head_rows(), 0, Sweep::TILE, target_row, [](uint32_t) {},
        [&](uint32_t, typename Sweep::Scores& scores) {
#pragma unroll
            for (int s = 0; s < Sweep::ROW_SLOTS; ++s)
#pragma unroll
                for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                    const int row = Sweep::row(s);
                    if (row != Sweep::column(c) || first + row >= rows) continue;
                    const uint32_t target = problem.targets[first + row];
                    bar[row] = Sweep::score(scores, s, c) + (target <= *problem.items ? problem.bias[target] : 0.0f);
                }
        });
}

template <class Sweep> __device__ void rank(const Rank<typename Sweep::S>& args) {
    auto& shared = *reinterpret_cast<typename Sweep::Shared*>(DYNAMIC_SHARED());
    STATIC_SHARED(RankShared<Sweep>, own);
    const auto& problem = args.problem;
    const uint32_t rows = *problem.rows, first = blockIdx.x * Sweep::TILE;
    if (first >= rows) return;
    const SplitRange items = split_range(*problem.items, gridDim.y, blockIdx.y, Sweep::TILE);
    target_scores<Sweep>(shared, problem, first, rows, own.bar);
    own.seen.start(args.seen, first, rows, items.begin);
    if (threadIdx.x < Sweep::TILE) own.count[threadIdx.x] = 0;
    __syncthreads();
    float bar[Sweep::ROW_SLOTS];
    uint32_t target[Sweep::ROW_SLOTS], count[Sweep::ROW_SLOTS];
#pragma unroll
    for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
        const bool valid = first + Sweep::row(s) < rows;
        bar[s] = valid ? own.bar[Sweep::row(s)] : 0.0f;
        target[s] = valid ? problem.targets[first + Sweep::row(s)] - 1 : ~0u;
        count[s] = 0;
    }
    float bias[Sweep::COLUMN_SLOTS];
    sweep_scores<Sweep>(
        shared, problem.width, first, problem.head_rows(), items.begin, items.end, problem.item_rows(),
        [&](uint32_t tile) {
            own.seen.fill(args.seen, tile);
#pragma unroll
            for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                const uint32_t item = tile + Sweep::column(c);
                bias[c] = item < items.end ? problem.bias[item + 1] : 0.0f;
            }
        },
        [&](uint32_t tile, typename Sweep::Scores& scores) {
            __syncthreads();
#pragma unroll
            for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                const uint32_t item = tile + Sweep::column(c);
                if (item >= items.end) continue;
#pragma unroll
                for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
                    const bool below = Sweep::score(scores, s, c) + bias[c] < bar[s];
                    count[s] += !below && item != target[s] && !own.seen.has(Sweep::row(s), Sweep::column(c));
                }
            }
        });
#pragma unroll
    for (int s = 0; s < Sweep::ROW_SLOTS; ++s) atomicAdd(&own.count[Sweep::row(s)], count[s]);
    __syncthreads();
    const uint32_t row = first + threadIdx.x;
    // Nobody adds to the rank of a row that has none. Other blocks add meanwhile, so the look is atomic as well.
    if (threadIdx.x < Sweep::TILE && row < rows && atomicAdd(&args.ranks[row], 0u) != UNRANKED)
        atomicAdd(&args.ranks[row], own.count[threadIdx.x]);
}

KERNEL(rank_begin_f32, 256, 1, RankBegin, rank_begin)
KERNEL(rank_d64_f32, 256, 2, Rank<float>, (rank<Sweep<float, 64>>))
KERNEL(rank_d128_f32, 256, 1, Rank<float>, (rank<Sweep<float, 128>>))
KERNEL(rank_d256_f32, 256, 2, Rank<float>, (rank<Sweep<float, 256>>))
KERNEL(rank_d1024_f32, 256, 2, Rank<float>, (rank<Sweep<float, 256, true>>))
KERNEL(rank_d64_bf16, 256, 2, Rank<bf16>, (rank<Sweep<bf16, 64>>))
KERNEL(rank_d128_bf16, 256, 2, Rank<bf16>, (rank<Sweep<bf16, 128>>))
KERNEL(rank_d256_bf16, 256, 2, Rank<bf16>, (rank<Sweep<bf16, 256>>))
KERNEL(rank_d1024_bf16, 256, 2, Rank<bf16>, (rank<Sweep<bf16, 256, true>>))
