// Softmax cross-entropy over all items: logits = h E^T + b over items 1 to V, loss = mean over rows of
// log-sum-exp - target's logit. Nothing of size P x V is stored: logits are made again where they are needed.
//
// forward: a block for a tile of rows and a split of the items keeps a running maximum and sum of each row; `combine`
// adds the splits up in order. 2 P D V FLOPs.
// rows_backward: dh = (softmax E - E[target]) / P. A block for a tile of rows, a split of the items and up to 256
// channels makes the logits of a tile again, turns them into softmax - onehot(target) (in shared memory, as S), and
// multiplies them by the same tile of the table, sums in registers; `rows_combine` adds the splits up, in order.
// table_backward: dE = (softmax - onehot)^T h / P, db its column sums: the same with the sides changed, a block for a
// tile of items, up to 256 channels and a slot's share of the rows; each slot assigns its part of both gradients, for
// the gradient norm to add up. Few items want slots to fill the device. 4 P D V FLOPs each up to D = 256, where one column of blocks has all
// channels. A target's -1 goes into the product, not into a second pass: in bf16 that is the rounding
// that autograd's bf16 has, and it costs little more than a comparison a row and tile.
//
// Launch: 256 threads, tiles of 64 x 64 (32 x 32 in float at D > 128). Shared memory, bf16: 27, 51, 66, 36 KiB
// forward at D <= 64, 128, 256, 1,024; 37, 61, 76, 78 KiB backward; so 2 blocks or more on a multiprocessor of 164 KiB.
// Registers at most 128. A tile of the table is read from the L2 cache once for 64 rows: 64 FLOPs a byte forward, 128
// backward; DRAM sees the table about once, the head's rows once a split. Scratch: 2 splits + 1 floats a row forward,
// splits D backward.
// Per logit there are about 6 ALU instructions and one power beside 2 D (4 D) FLOPs: at D = 64 both take about the
// same time on an A100, from D = 128 on the tensor cores decide.
// Alternatives: logits in bf16 in memory (6 P D V FLOPs, wins from D = 128 on; costs memory that grows with V);
// 128-row tiles (half the L2 traffic, one block a multiprocessor at D = 256).
#include "common/run.cuh"
#include "common/sweep.cuh"

template <class S> struct SoftmaxForward {
    ItemProblem<S> problem;
    float* maxima;         // [splits, most]
    float* sums;           // [splits, most]
    float* target_logits;  // [most]
    uint32_t most;
    uint32_t unused;
};

struct SoftmaxCombine {
    const uint32_t* rows;
    const uint32_t* targets;
    const float* maxima;
    const float* sums;
    const float* target_logits;
    float* log_sum_exp;  // [P]
    float* losses;       // [P]
    uint32_t most;
    uint32_t splits;
    uint32_t items;
    uint32_t unused;
};

template <class S> struct RowsBackward {
    ItemProblem<S> problem;
    const float* log_sum_exp;  // [P]
    float* parts;              // [splits, most, D]
    uint32_t most;
    uint32_t unused;
};

template <class S> struct RowsCombine {
    const uint32_t* rows;
    const float* parts;
    S* d_head;  // [P, D]
    uint32_t most;
    uint32_t splits;
    uint32_t width;
    uint32_t unused;
};

template <class S> struct TableBackward {
    ItemProblem<S> problem;
    const float* log_sum_exp;  // [P]
    float* d_table;            // part 0 of [V + 2, D]
    float* d_bias;             // part 0 of [V + 1]
    uint64_t d_table_stride;
    uint64_t d_bias_stride;
};

// Logits are kept in units of which power() gives the exponential: as they are in float, whose exponential is exact;
// in units of log 2 in bf16, where the hardware has powers of two.
template <class S> constexpr float UNIT = 1.0f;
template <> constexpr float UNIT<bf16> = 1.44269504f;
template <class S> __device__ inline float power(float x);
template <> __device__ inline float power<float>(float x) { return expf(x); }
template <> __device__ inline float power<bf16>(float x) { return exp2_fast(x); }

// Sum of power(x - top) over some x, none larger than `top`.
struct Running {
    float top, sum;
};

// What a maximum may be subtracted as: anything but negative infinity.
__device__ inline float finite_top(float top) { return top == NEGATIVE_INFINITY ? 0.0f : top; }

template <class S> __device__ inline Running merge(const Running& a, const Running& b) {
    const float top = fmaxf(a.top, b.top), base = finite_top(top);
    return {top, a.sum * power<S>(a.top - base) + b.sum * power<S>(b.top - base)};
}

// Takes a lane's scores of one tile in.
template <class Sweep>
__device__ inline void take_in(Running& running, typename Sweep::Scores& scores, int row_slot) {
    using S = typename Sweep::S;
    float top = running.top;
#pragma unroll
    for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) top = fmaxf(top, Sweep::score(scores, row_slot, c));
    const float base = finite_top(top);
    running.sum *= power<S>(running.top - base);
#pragma unroll
    for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c)
        running.sum += power<S>(Sweep::score(scores, row_slot, c) - base);
    running.top = top;
}

// Brings the lanes and warps that share rows together, in order, and calls put(row, running) for each row.
template <class Sweep, class Put>
__device__ inline void merge_rows(const Running (&running)[Sweep::ROW_SLOTS], Put put) {
    using S = typename Sweep::S;
    struct Parts {
        Running at[SWEEP_WARP_COLUMNS][Sweep::TILE];
    };
    STATIC_SHARED(Parts, parts);
#pragma unroll
    for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
        const float top = row_max(running[s].top);
        const float sum = row_sum(running[s].sum * power<S>(running[s].top - finite_top(top)));
        if (lane_index() % 4 == 0) parts.at[warp_index() % SWEEP_WARP_COLUMNS][Sweep::row(s)] = {top, sum};
    }
    __syncthreads();
    const int row = threadIdx.x;
    if (row >= Sweep::TILE) return;
    Running whole = parts.at[0][row];
#pragma unroll
    for (int part = 1; part < SWEEP_WARP_COLUMNS; ++part) whole = merge<S>(whole, parts.at[part][row]);
    put(row, whole);
}

template <class Sweep> __device__ void softmax_forward(const SoftmaxForward<typename Sweep::S>& args) {
    using S = typename Sweep::S;
    constexpr float NATURAL = 1.0f / UNIT<S>;
    auto& shared = *reinterpret_cast<typename Sweep::Shared*>(DYNAMIC_SHARED());
    const auto& problem = args.problem;
    const uint32_t rows = *problem.rows, first = blockIdx.x * Sweep::TILE;
    if (first >= rows) return;
    const SplitRange items = split_range(problem.items, gridDim.y, blockIdx.y, Sweep::TILE);
    Running running[Sweep::ROW_SLOTS];
    uint32_t target[Sweep::ROW_SLOTS];
#pragma unroll
    for (int s = 0; s < Sweep::ROW_SLOTS; ++s) {
        const uint32_t row = first + Sweep::row(s);
        running[s] = {NEGATIVE_INFINITY, 0.0f};
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
#pragma unroll
            for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                float& x = Sweep::score(scores, s, c);
                x = fmaf(x, UNIT<S>, bias[c]);
            }
            if (target[s] - (tile + Sweep::warp_column()) < 8 * Sweep::COLUMNS)
#pragma unroll
                for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c)
                    if (tile + Sweep::column(c) == target[s])
                        args.target_logits[first + Sweep::row(s)] = Sweep::score(scores, s, c) * NATURAL;
            take_in<Sweep>(running[s], scores, s);
        }
    };
    sweep_scores<Sweep>(shared, problem.width, first, problem.head_rows(), items.begin, items.end, problem.item_rows(),
                        load_bias, look);
    merge_rows<Sweep>(running, [&](int row, const Running& whole) {
        if (first + row >= rows) return;
        const size_t at = static_cast<size_t>(blockIdx.y) * args.most + first + row;
        args.maxima[at] = whole.top * NATURAL;
        args.sums[at] = whole.sum;
    });
}

// A thread a row.
__device__ inline void softmax_combine(const SoftmaxCombine& args) {
    const uint32_t row = blockIdx.x * SWEEP_THREADS + threadIdx.x;
    if (row >= *args.rows) return;
    Running whole = {args.maxima[row], args.sums[row]};
    for (uint32_t split = 1; split < args.splits; ++split) {
        const size_t at = static_cast<size_t>(split) * args.most + row;
        whole = merge<float>(whole, {args.maxima[at], args.sums[at]});
    }
    const float log_sum_exp = whole.top + logf(whole.sum);
    // A target that is no item has no loss, and no step comes of it.
    const bool known = args.targets[row] - 1 < args.items;
    args.log_sum_exp[row] = log_sum_exp;
    args.losses[row] = known ? log_sum_exp - args.target_logits[row] : __builtin_nanf("");
}

// The two sides of a gradient. term(i) is what a side adds to the logits of its row i, in their units, so that their
// power is the probability; negative infinity where there is no such row.
template <class S> struct HeadSide {
    MatrixRows<S> rows;
    const float* log_sum_exp;
    const uint32_t* targets;
    static constexpr bool HAS_TARGETS = true;
    __device__ float term(uint32_t row) const { return row < rows.count ? -UNIT<S> * log_sum_exp[row] : NEGATIVE_INFINITY; }
    // Item index, from 0.
    __device__ uint32_t target(uint32_t row) const { return row < rows.count ? targets[row] - 1 : ~0u; }
};

template <class S> struct TableSide {
    MatrixRows<S> rows;
    const float* bias;
    static constexpr bool HAS_TARGETS = false;
    __device__ float term(uint32_t item) const { return item < rows.count ? UNIT<S> * bias[item + 1] : NEGATIVE_INFINITY; }
};

// out[TILE, up to WIDTH channels] = (softmax - onehot) right, for left rows `first` and on and the right rows of
// `range`. A lane holds `out` as multiply_add has it, for rows and channels from product_row() and product_channel()
// on; store() writes it. `totals` gets this lane's share of the sums of its rows of (softmax - onehot).
template <class Sweep> struct GradientProduct {
    using S = typename Sweep::S;
    static constexpr int ROWS = Sweep::TILE / 32, COLUMNS = Sweep::WIDTH / 32;
    float out[ROWS][COLUMNS][4];
    float totals[Sweep::ROW_SLOTS];

    static __device__ int product_row() { return 16 * ROWS * (warp_index() / SWEEP_WARP_COLUMNS); }
    static __device__ int product_channel() { return 8 * COLUMNS * (warp_index() % SWEEP_WARP_COLUMNS); }

    // Subtracts 1 where row and column are a row of the head and its target. Few tiles have one, so that a lane asks
    // for its whole part of the tile first.
    template <bool HEAD_LEFT, int SLOTS>
    static __device__ void subtract_targets(typename Sweep::Scores& scores, const uint32_t (&target)[SLOTS],
                                            uint32_t first, uint32_t tile) {
        const uint32_t begin = HEAD_LEFT ? tile + Sweep::warp_column() : first + Sweep::warp_row();
        constexpr uint32_t COUNT = HEAD_LEFT ? 8 * Sweep::COLUMNS : 16 * Sweep::ROWS;
#pragma unroll
        for (int t = 0; t < SLOTS; ++t) {
            if (target[t] - begin >= COUNT) continue;
#pragma unroll
            for (int i = 0; i < (HEAD_LEFT ? Sweep::COLUMN_SLOTS : Sweep::ROW_SLOTS); ++i) {
                const uint32_t item = HEAD_LEFT ? tile + Sweep::column(i) : first + Sweep::row(i);
                if (item == target[t]) Sweep::score(scores, HEAD_LEFT ? t : i, HEAD_LEFT ? i : t) -= 1.0f;
            }
        }
    }

    template <class Left, class Right>
    __device__ void run(typename Sweep::ProductShared& shared, uint32_t first, const Left& left, const Right& right,
                        SplitRange range, int first_channel) {
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
                right_term[c] = index < range.end ? right.term(index) : NEGATIVE_INFINITY;
                if constexpr (Right::HAS_TARGETS) target[c] = right.target(index);
            }
        };
        const auto visit = [&](uint32_t tile, typename Sweep::Scores& scores, const typename Sweep::Right& block) {
#pragma unroll
            for (int s = 0; s < Sweep::ROW_SLOTS; ++s)
#pragma unroll
                for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
                    float& x = Sweep::score(scores, s, c);
                    x = power<S>(fmaf(x, UNIT<S>, left_term[s] + right_term[c]));
                }
            subtract_targets<Left::HAS_TARGETS>(scores, target, first, tile);
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

template <class Sweep> __device__ void rows_backward(const RowsBackward<typename Sweep::S>& args) {
    using S = typename Sweep::S;
    auto& shared = *reinterpret_cast<typename Sweep::ProductShared*>(DYNAMIC_SHARED());
    const auto& problem = args.problem;
    const uint32_t rows = *problem.rows, first = blockIdx.x * Sweep::TILE;
    if (first >= rows) return;
    const int first_channel = blockIdx.z * Sweep::WIDTH;
    const HeadSide<S> head = {problem.head_rows(), args.log_sum_exp, problem.targets};
    const TableSide<S> table = {problem.item_rows(), problem.bias};
    const SplitRange items = split_range(problem.items, gridDim.y, blockIdx.y, Sweep::TILE);
    GradientProduct<Sweep> product;
    product.run(shared, first, head, table, items, first_channel);
    float* to = args.parts + (static_cast<size_t>(blockIdx.y) * args.most + first) * problem.width + first_channel;
    product.store(to, problem.width, rows - first, problem.width - first_channel, 1.0f);
}

// A thread for eight channels.
template <class S> __device__ void rows_combine(const RowsCombine<S>& args) {
    const uint32_t rows = *args.rows;
    const size_t at = RUN * (static_cast<size_t>(blockIdx.x) * SWEEP_THREADS + threadIdx.x);
    if (at >= static_cast<size_t>(rows) * args.width) return;
    Run sum = load_run(args.parts + at);
    for (uint32_t split = 1; split < args.splits; ++split) {
        const Run part = load_run(args.parts + static_cast<size_t>(split) * args.most * args.width + at);
#pragma unroll
        for (int i = 0; i < RUN; ++i) sum.at[i] += part.at[i];
    }
    const float weight = 1.0f / static_cast<float>(rows);
#pragma unroll
    for (int i = 0; i < RUN; ++i) sum.at[i] *= weight;
    store_run(args.d_head + at, sum);
}

// Assigns d_bias of the items `first` and on from the lanes' shares.
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

template <class Sweep> __device__ void table_backward(const TableBackward<typename Sweep::S>& args) {
    using S = typename Sweep::S;
    auto& shared = *reinterpret_cast<typename Sweep::ProductShared*>(DYNAMIC_SHARED());
    const auto& problem = args.problem;
    const uint32_t rows = *problem.rows, first = blockIdx.x * Sweep::TILE, width = problem.width;
    const uint32_t first_channel = blockIdx.y * Sweep::WIDTH;
    const float weight = 1.0f / static_cast<float>(max(rows, 1u));
    const HeadSide<S> head = {problem.head_rows(), args.log_sum_exp, problem.targets};
    const TableSide<S> table = {problem.item_rows(), problem.bias};
    const SplitRange range = split_range(rows, gridDim.z, blockIdx.z, Sweep::TILE);
    float* d_table = args.d_table + blockIdx.z * args.d_table_stride;
    float* d_bias = args.d_bias + blockIdx.z * args.d_bias_stride;
    GradientProduct<Sweep> product;
    product.run(shared, first, table, head, range, first_channel);
    float* to = d_table + static_cast<size_t>(first + 1) * width + first_channel;
    product.store(to, width, problem.items - first, width - first_channel, weight);
    if (blockIdx.y == 0) assign_bias<Sweep>(product.totals, weight, first, problem.items, d_bias);
    if (blockIdx.x > 0) return;
    // PAD and MASK take no part.
    for (uint32_t channel = first_channel + threadIdx.x; channel < min(first_channel + Sweep::WIDTH, width);
         channel += SWEEP_THREADS) {
        d_table[channel] = 0.0f;
        d_table[static_cast<size_t>(problem.items + 1) * width + channel] = 0.0f;
    }
    if (blockIdx.y == 0 && threadIdx.x == 0) d_bias[0] = 0.0f;
}

KERNEL(item_softmax_forward_d64_f32, 256, 2, SoftmaxForward<float>, (softmax_forward<Sweep<float, 64>>))
KERNEL(item_softmax_forward_d128_f32, 256, 1, SoftmaxForward<float>, (softmax_forward<Sweep<float, 128>>))
KERNEL(item_softmax_forward_d256_f32, 256, 2, SoftmaxForward<float>, (softmax_forward<Sweep<float, 256>>))
KERNEL(item_softmax_forward_d1024_f32, 256, 2, SoftmaxForward<float>, (softmax_forward<Sweep<float, 256, true>>))
KERNEL(item_softmax_forward_d64_bf16, 256, 2, SoftmaxForward<bf16>, (softmax_forward<Sweep<bf16, 64>>))
KERNEL(item_softmax_forward_d128_bf16, 256, 2, SoftmaxForward<bf16>, (softmax_forward<Sweep<bf16, 128>>))
KERNEL(item_softmax_forward_d256_bf16, 256, 2, SoftmaxForward<bf16>, (softmax_forward<Sweep<bf16, 256>>))
KERNEL(item_softmax_forward_d1024_bf16, 256, 2, SoftmaxForward<bf16>, (softmax_forward<Sweep<bf16, 256, true>>))
KERNEL(item_softmax_combine_f32, 256, 1, SoftmaxCombine, softmax_combine)

KERNEL(item_softmax_rows_d64_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 64>>))
KERNEL(item_softmax_rows_d128_f32, 256, 1, RowsBackward<float>, (rows_backward<Sweep<float, 128>>))
KERNEL(item_softmax_rows_d256_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 256>>))
KERNEL(item_softmax_rows_d1024_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 256, true>>))
KERNEL(item_softmax_rows_d64_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 64>>))
KERNEL(item_softmax_rows_d128_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 128>>))
KERNEL(item_softmax_rows_d256_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 256>>))
KERNEL(item_softmax_rows_d1024_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 256, true>>))
KERNEL(item_softmax_rows_combine_f32, 256, 4, RowsCombine<float>, rows_combine<float>)
KERNEL(item_softmax_rows_combine_bf16, 256, 4, RowsCombine<bf16>, rows_combine<bf16>)

KERNEL(item_softmax_table_d64_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 64>>))
KERNEL(item_softmax_table_d128_f32, 256, 1, TableBackward<float>, (table_backward<Sweep<float, 128>>))
KERNEL(item_softmax_table_d256_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 256>>))
KERNEL(item_softmax_table_d1024_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 256, true>>))
KERNEL(item_softmax_table_d64_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 64>>))
KERNEL(item_softmax_table_d128_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 128>>))
KERNEL(item_softmax_table_d256_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 256>>))
KERNEL(item_softmax_table_d1024_bf16, 256, 1, TableBackward<bf16>, (table_backward<Sweep<bf16, 256, true>>))
