// Losses over items: what the softmax over all of them (item_softmax.cu) and the binary loss over a sample (gbce.cu)
// have in common. Nothing of size P x V is stored: logits = h E^T + b are made again where they are needed.
//
// forward: a block for a tile of rows and a split of the items runs over the logits of each row; what it found of a
// split is put together, in order, by a kernel of the loss's own. rows_backward: dh = S E / P, S being the gradient of
// the logits of a row's own loss, its shares. A block for a tile of rows, a split of the items and up to 256 channels
// makes the logits of a tile again, turns them into shares (in shared memory), and multiplies those by the same tile of
// the table, sums in registers. table_backward: dE = S^T h / P, db its column sums: the same with the sides changed, a
// block for a tile of items, up to 256 channels and a slot's share of the rows. Launch, shared memory and what it costs:
// item_softmax.cu.
//
// A loss is a struct of static functions for storage S, `Loss` below:
//     Running, start(), take_in(), across_lanes(), merge(), natural(): what is kept of a row's logits, and how parts of
//         it come together, in order
//     COUNTS_TARGET: whether the row's own target is among those logits
//     share(score, row_term, item_term): a logit's share from the product of row and item; row_term() and NO_ROW, the
//         term of a row that does not exist, say what a row brings, TableSide what an item does
//     at_target(share, terms, row): the share of the row's own target
#pragma once
#include "run.cuh"
#include "sweep.cuh"

template <class S, class Running> struct LossForward {
    ItemProblem<S> problem;
    Running* found;        // [splits, most]
    float* target_scores;  // [most] product of each row and its target's vector
    uint32_t most;
    uint32_t unused;
};

// What a loss knows of each row after the forward pass, mirrored by src/cuda/item_loss.rs.
struct RowTerms {
    const float* terms;  // [P]
    const float* pulls;  // [P] how much the row pulls at its target; null: by 1
};

template <class S> struct RowsBackward {
    ItemProblem<S> problem;
    RowTerms terms;
    float* parts;  // [splits, most, D]
    uint32_t most;
    uint32_t unused;
};

template <class S> struct TableBackward {
    ItemProblem<S> problem;
    RowTerms terms;
    float* d_table;  // part 0 of [V + 2, D]
    float* d_bias;   // part 0 of [V + 1]
    uint64_t d_table_stride;
    uint64_t d_bias_stride;
};

// Logits are kept in units of which power() gives the exponential: as they are in float, whose exponential is exact;
// in units of log 2 in bf16, where the hardware has powers of two.
template <class S> constexpr float UNIT = 1.0f;
template <> constexpr float UNIT<bf16> = 1.44269504f;
template <class S> constexpr float NATURAL = 1.0f / UNIT<S>;
template <class S> __device__ inline float power(float x);
template <> __device__ inline float power<float>(float x) { return expf(x); }
template <> __device__ inline float power<bf16>(float x) { return exp2_fast(x); }

// Brings the lanes and warps that share rows together, in order, and calls put(row, running) for each row.
template <class Sweep, class Loss, class Put>
__device__ inline void merge_rows(const typename Loss::Running (&running)[Sweep::ROW_SLOTS], Put put) {
    using Running = typename Loss::Running;
    struct Parts {
        Running at[SWEEP_WARP_COLUMNS][Sweep::TILE];
    };
    STATIC_SHARED(Parts, parts);
#pragma unroll
    for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
        const Running of_lanes = Loss::across_lanes(running[s]);
        if (lane_index() % 4 == 0) parts.at[warp_index() % SWEEP_WARP_COLUMNS][Sweep::row(s)] = of_lanes;
    }
    __syncthreads();
    const int row = threadIdx.x;
    if (row >= Sweep::TILE) return;
    Running whole = parts.at[0][row];
#pragma unroll
    for (int part = 1; part < SWEEP_WARP_COLUMNS; ++part) whole = Loss::merge(whole, parts.at[part][row]);
    put(row, whole);
}

template <class Sweep, template <class> class LossOf>
__device__ void loss_forward(const LossForward<typename Sweep::S, typename LossOf<typename Sweep::S>::Running>& args) {
    using S = typename Sweep::S;
    using Loss = LossOf<S>;
    auto& shared = *reinterpret_cast<typename Sweep::Shared*>(DYNAMIC_SHARED());
    const auto& problem = args.problem;
    const uint32_t rows = *problem.rows, first = blockIdx.x * Sweep::TILE;
    if (first >= rows) return;
    const SplitRange items = split_range(*problem.items, gridDim.y, blockIdx.y, Sweep::TILE);
    typename Loss::Running running[Sweep::ROW_SLOTS];
    uint32_t target[Sweep::ROW_SLOTS];
#pragma unroll
    for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
        const uint32_t row = first + Sweep::row(s);
        running[s] = Loss::start();
        target[s] = row < rows ? problem.targets[row] - 1 : ~0u;
    }
    float bias[Sweep::COLUMN_SLOTS];
    const auto load_bias = [&](uint32_t tile) {
#pragma unroll
        for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
            const uint32_t item = tile + Sweep::column(c);
            bias[c] = item < items.end ? UNIT<S> * problem.bias[item + 1] : NEGATIVE_INFINITY;
        }
    };
    const auto look = [&](uint32_t tile, typename Sweep::Scores& scores) {
#pragma unroll
        for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
            if (target[s] - (tile + Sweep::warp_column()) < 8 * Sweep::COLUMNS)
#pragma unroll
                for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c)
                    if (tile + Sweep::column(c) == target[s]) {
                        float& x = Sweep::score(scores, s, c);
                        args.target_scores[first + Sweep::row(s)] = x;
                        if constexpr (!Loss::COUNTS_TARGET) x = NEGATIVE_INFINITY;
                    }
#pragma unroll
            for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                float& x = Sweep::score(scores, s, c);
                x = fmaf(x, UNIT<S>, bias[c]);
            }
            Loss::template take_in<Sweep>(running[s], scores, s);
        }
    };
    sweep_scores<Sweep>(shared, problem.width, first, problem.head_rows(), items.begin, items.end, problem.item_rows(),
                        load_bias, look);
    merge_rows<Sweep, Loss>(running, [&](int row, const typename Loss::Running& whole) {
        if (first + row < rows)
            args.found[static_cast<size_t>(blockIdx.y) * args.most + first + row] = Loss::natural(whole);
    });
}

// The two sides of a gradient. term(i) is what row i of a side brings to the shares of its logits.
template <class Loss> struct HeadSide {
    MatrixRows<typename Loss::Storage> rows;
    RowTerms terms;
    const uint32_t* targets;
    static constexpr bool HAS_TARGETS = true;
    static constexpr float NONE = Loss::NO_ROW;
    __device__ float term(uint32_t row) const { return row < rows.count ? Loss::row_term(terms.terms[row]) : NONE; }
    // Item index, from 0.
    __device__ uint32_t target(uint32_t row) const { return row < rows.count ? targets[row] - 1 : ~0u; }
};

// An item brings its bias, in the units of logits; negative infinity where there is none.
template <class S> struct TableSide {
    MatrixRows<S> rows;
    const float* bias;
    static constexpr bool HAS_TARGETS = false;
    static constexpr float NONE = NEGATIVE_INFINITY;
    __device__ float term(uint32_t item) const { return item < rows.count ? UNIT<S> * bias[item + 1] : NONE; }
};

// out[TILE, up to WIDTH channels] = shares right, for left rows `first` and on and the right rows of `range`. A lane
// holds `out` as multiply_add has it, for rows and channels from product_row() and product_channel() on; store()
// writes it. `totals` gets this lane's part of the sums of its rows of shares.
template <class Sweep, class Loss> struct GradientProduct {
    using S = typename Sweep::S;
    static constexpr int ROWS = Sweep::TILE / 32, COLUMNS = Sweep::WIDTH / 32;
    float out[ROWS][COLUMNS][4];
    float totals[Sweep::ROW_SLOTS];

    static __device__ int product_row() { return 16 * ROWS * (warp_index() / SWEEP_WARP_COLUMNS); }
    static __device__ int product_channel() { return 8 * COLUMNS * (warp_index() % SWEEP_WARP_COLUMNS); }

    // Puts the shares of targets where row and column are a row of the head and its target. Few tiles have one, so
    // that a lane asks for its whole part of the tile first.
    template <bool HEAD_LEFT, int SLOTS>
    static __device__ void put_targets(typename Sweep::Scores& scores, const uint32_t (&target)[SLOTS],
                                       const RowTerms& terms, uint32_t first, uint32_t tile) {
        const uint32_t begin = HEAD_LEFT ? tile + Sweep::warp_column() : first + Sweep::warp_row();
        constexpr uint32_t COUNT = HEAD_LEFT ? 8 * Sweep::COLUMNS : 16 * Sweep::ROWS;
#pragma unroll
        for (int t = 0; t < SLOTS; ++t) {
            if (target[t] - begin >= COUNT) continue;
            const uint32_t row = HEAD_LEFT ? first + Sweep::row(t) : tile + Sweep::column(t);
#pragma unroll
            for (int i = 0; i < (HEAD_LEFT ? Sweep::COLUMN_SLOTS : Sweep::ROW_SLOTS); ++i) {
                const uint32_t item = HEAD_LEFT ? tile + Sweep::column(i) : first + Sweep::row(i);
                float& x = Sweep::score(scores, HEAD_LEFT ? t : i, HEAD_LEFT ? i : t);
                if (item == target[t]) x = Loss::at_target(x, terms, row);
            }
        }
    }

    template <class Left, class Right>
    __device__ void run(typename Sweep::ProductShared& shared, uint32_t first, const Left& left, const Right& right,
                        const RowTerms& terms, SplitRange range, int first_channel) {
        const int width = left.rows.width;
        clear(out);
        float left_term[Sweep::ROW_SLOTS], right_term[Sweep::COLUMN_SLOTS];
        uint32_t target[Left::HAS_TARGETS ? Sweep::ROW_SLOTS : Sweep::COLUMN_SLOTS];
#pragma unroll
        for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
            totals[s] = 0.0f;
            left_term[s] = left.term(first + Sweep::row(s));
            if constexpr (Left::HAS_TARGETS) target[s] = left.target(first + Sweep::row(s));
        }
        const auto before = [&](uint32_t tile) {
#pragma unroll
            for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                const uint32_t index = tile + Sweep::column(c);
                right_term[c] = index < range.end ? right.term(index) : Right::NONE;
                if constexpr (Right::HAS_TARGETS) target[c] = right.target(index);
            }
        };
        const auto visit = [&](uint32_t tile, typename Sweep::Scores& scores, const typename Sweep::Right& block) {
#pragma unroll
            for (int s = 0; s < Sweep::ROW_SLOTS; ++s)
#pragma unroll
                for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                    float& x = Sweep::score(scores, s, c);
                    x = Left::HAS_TARGETS ? Loss::share(x, left_term[s], right_term[c])
                                          : Loss::share(x, right_term[c], left_term[s]);
                }
            put_targets<Left::HAS_TARGETS>(scores, target, terms, first, tile);
#pragma unroll
            for (int s = 0; s < Sweep::ROW_SLOTS; ++s)
#pragma unroll
                for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) totals[s] += Sweep::score(scores, s, c);
            for_each_pair(scores, [&](int row, int column, float& x, float& y) {
                store_pair(shared.factors.row(Sweep::warp_row() + row) + Sweep::warp_column() + column, x, y);
            });
            __syncthreads();
            multiply_add_stepwise<Sweep::TILE>(out, along_rows(shared.factors, product_row()),
                                               along_columns(block, 0, product_channel()));
        };
        if constexpr (Sweep::WIDE) {
            const auto fetch_block = [&](uint32_t tile) {
                copy_tile_async<SWEEP_THREADS>(shared.block, width - first_channel, [&](int row) {
                    const S* from = right.rows(tile + row);
                    return from == nullptr ? from : from + first_channel;
                });
                copy_async_commit();
            };
            sweep_wide<Sweep>(shared.sweep, shared.block, width, first, left.rows, range.begin, range.end, right.rows,
                              fetch_block, before, visit);
        } else {
            sweep_narrow<Sweep>(shared.sweep, width, first, left.rows, range.begin, range.end, right.rows, before, visit);
        }
    }

    // Writes what the lane holds of the tile's first `rows` rows and `channels` channels, times `weight`, to `to`,
    // whose rows are `stride` apart.
    __device__ void store(float* to, uint32_t stride, uint32_t rows, int channels, float weight) const {
        const int lane = lane_index();
        to += product_channel() + 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < 2 * ROWS; ++i) {
            const uint32_t row = product_row() + 8 * i + lane / 4;
            if (row >= rows) continue;
            float* to_row = to + static_cast<size_t>(row) * stride;
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const float* pair = &out[i / 2][j][2 * (i % 2)];
                if (product_channel() + 8 * j < channels) store_pair(to_row + 8 * j, pair[0] * weight, pair[1] * weight);
            }
        }
    }
};

template <class Sweep, template <class> class LossOf>
__device__ void rows_backward(const RowsBackward<typename Sweep::S>& args) {
    using S = typename Sweep::S;
    using Loss = LossOf<S>;
    auto& shared = *reinterpret_cast<typename Sweep::ProductShared*>(DYNAMIC_SHARED());
    const auto& problem = args.problem;
    const uint32_t rows = *problem.rows, first = blockIdx.x * Sweep::TILE;
    if (first >= rows) return;
    const int first_channel = blockIdx.z * Sweep::WIDTH;
    const HeadSide<Loss> head = {problem.head_rows(), args.terms, problem.targets};
    const TableSide<S> table = {problem.item_rows(), problem.bias};
    const SplitRange items = split_range(*problem.items, gridDim.y, blockIdx.y, Sweep::TILE);
    GradientProduct<Sweep, Loss> product;
    product.run(shared, first, head, table, args.terms, items, first_channel);
    float* to = args.parts + (static_cast<size_t>(blockIdx.y) * args.most + first) * problem.width + first_channel;
    product.store(to, problem.width, rows - first, problem.width - first_channel, 1.0f);
}

// Assigns d_bias of the items `first` and on from the lanes' totals.
template <class Sweep>
__device__ inline void assign_bias(const float (&totals)[Sweep::ROW_SLOTS], float weight, uint32_t first, uint32_t items,
                                   float* d_bias) {
    struct Parts {
        float at[SWEEP_WARP_COLUMNS][Sweep::TILE];
    };
    STATIC_SHARED(Parts, parts);
#pragma unroll
    for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
        const float total = row_sum(totals[s]);
        if (lane_index() % 4 == 0) parts.at[warp_index() % SWEEP_WARP_COLUMNS][Sweep::row(s)] = total;
    }
    __syncthreads();
    const uint32_t row = threadIdx.x;
    if (row >= Sweep::TILE || first + row >= items) return;
    float total = 0.0f;
#pragma unroll
    for (int part = 0; part < SWEEP_WARP_COLUMNS; ++part) total += parts.at[part][row];
    d_bias[first + row + 1] = total * weight;
}

template <class Sweep, template <class> class LossOf>
__device__ void table_backward(const TableBackward<typename Sweep::S>& args) {
    using S = typename Sweep::S;
    using Loss = LossOf<S>;
    auto& shared = *reinterpret_cast<typename Sweep::ProductShared*>(DYNAMIC_SHARED());
    const auto& problem = args.problem;
    const uint32_t rows = *problem.rows, items = *problem.items, width = problem.width;
    const uint32_t first = blockIdx.x * Sweep::TILE;
    if (first >= items) return;
    const uint32_t first_channel = blockIdx.y * Sweep::WIDTH;
    const float weight = 1.0f / static_cast<float>(max(rows, 1u));
    const HeadSide<Loss> head = {problem.head_rows(), args.terms, problem.targets};
    const TableSide<S> table = {problem.item_rows(), problem.bias};
    const SplitRange range = split_range(rows, gridDim.z, blockIdx.z, Sweep::TILE);
    float* d_table = args.d_table + blockIdx.z * args.d_table_stride;
    float* d_bias = args.d_bias + blockIdx.z * args.d_bias_stride;
    GradientProduct<Sweep, Loss> product;
    product.run(shared, first, table, head, args.terms, range, first_channel);
    float* to = d_table + static_cast<size_t>(first + 1) * width + first_channel;
    product.store(to, width, items - first, width - first_channel, weight);
    if (blockIdx.y == 0) assign_bias<Sweep>(product.totals, weight, first, items, d_bias);
    if (blockIdx.x > 0) return;
    // PAD and MASK take no part.
    for (uint32_t channel = first_channel + threadIdx.x; channel < min(first_channel + Sweep::WIDTH, width);
         channel += SWEEP_THREADS) {
        d_table[channel] = 0.0f;
        d_table[static_cast<size_t>(items + 1) * width + channel] = 0.0f;
    }
    if (blockIdx.y == 0 && threadIdx.x == 0) d_bias[0] = 0.0f;
}
