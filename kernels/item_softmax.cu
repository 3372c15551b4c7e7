// Softmax cross-entropy over all items, or those of a shortlist (shortlist.cu): logits = h E^T + b over items 1 to V
// (C), loss = mean over rows of log-sum-exp - target's logit. Nothing of size P x V is stored: logits are made again
// where they are needed (common/item_loss.cuh has the sweeps).
//
// forward: a block for a tile of rows and a split of the items keeps a running maximum and sum of each row; `combine`
// adds the splits up in order. 2 P D V FLOPs.
// rows_backward: dh = (softmax E - E[target]) / P. A block for a tile of rows, a split of the items and up to 256
// channels makes the logits of a tile again, turns them into softmax - onehot(target) (in shared memory, as S), and
// multiplies them by the same tile of the table, sums in registers; `rows_combine` adds the splits up, in order.
// table_backward: dE = (softmax - onehot)^T h / P, db its column sums: the same with the sides changed, a block for a
// tile of items, up to 256 channels and a slot's share of the rows; each slot assigns its part of both gradients, for
// the gradient norm (of a shortlist: shortlist_scatter) to add up. Few items want slots to fill the device. 4 P D V
// FLOPs each up to D = 256, where one column of blocks has all channels. A target's -1 goes into the product, not into
// a second pass: in bf16 that is the rounding that autograd's bf16 has, and it costs little more than a comparison a
// row and tile.
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
#include "common/item_loss.cuh"

// What a maximum may be subtracted as: anything but negative infinity.
__device__ inline float finite_top(float top) { return top == NEGATIVE_INFINITY ? 0.0f : top; }

template <class S> struct Softmax {
    using Storage = S;
    // Sum of power(x - top) over some x, none larger than `top`.
    struct Running {
        float top, sum;
    };
    static constexpr bool COUNTS_TARGET = true;

    static __device__ Running start() { return {NEGATIVE_INFINITY, 0.0f}; }
    static __device__ Running merge(const Running& a, const Running& b) {
        const float top = fmaxf(a.top, b.top), base = finite_top(top);
        return {top, a.sum * power<S>(a.top - base) + b.sum * power<S>(b.top - base)};
    }
    // Takes a lane's scores of one tile in.
    template <class Sweep>
    static __device__ void take_in(Running& running, typename Sweep::Scores& scores, int row_slot) {
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
    static __device__ Running across_lanes(const Running& running) {
        const float top = row_max(running.top);
        return {top, row_sum(running.sum * power<S>(running.top - finite_top(top)))};
    }
    static __device__ Running natural(const Running& running) { return {running.top * NATURAL<S>, running.sum}; }

    // A row brings -log-sum-exp, so that the power of what comes of it is the probability.
    static constexpr float NO_ROW = NEGATIVE_INFINITY;
    static __device__ float row_term(float log_sum_exp) { return -UNIT<S> * log_sum_exp; }
    static __device__ float share(float score, float row_term, float item_term) {
        return power<S>(fmaf(score, UNIT<S>, row_term + item_term));
    }
    static __device__ float at_target(float share, const RowTerms&, uint32_t) { return share - 1.0f; }
};

template <class S> using SoftmaxForward = LossForward<S, typename Softmax<S>::Running>;

struct SoftmaxCombine {
    const uint32_t* rows;
    const uint32_t* items;
    const uint32_t* targets;
    const float* bias;
    const Softmax<float>::Running* found;
    const float* target_scores;
    float* log_sum_exp;  // [P]
    float* losses;       // [P]
    uint32_t most;
    uint32_t splits;
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

// A thread a row.
__device__ inline void softmax_combine(const SoftmaxCombine& args) {
    const uint32_t row = blockIdx.x * SWEEP_THREADS + threadIdx.x;
    if (row >= *args.rows) return;
    auto whole = args.found[row];
    for (uint32_t split = 1; split < args.splits; ++split)
        whole = Softmax<float>::merge(whole, args.found[static_cast<size_t>(split) * args.most + row]);
    const float log_sum_exp = whole.top + logf(whole.sum);
    const uint32_t target = args.targets[row];
    args.log_sum_exp[row] = log_sum_exp;
    // A target that is no item has no loss, and no step comes of it.
    const bool known = target - 1 < *args.items;
    args.losses[row] = known ? log_sum_exp - (args.target_scores[row] + args.bias[target]) : __builtin_nanf("");
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

KERNEL(item_softmax_forward_d64_f32, 256, 2, SoftmaxForward<float>, (loss_forward<Sweep<float, 64>, Softmax>))
KERNEL(item_softmax_forward_d128_f32, 256, 1, SoftmaxForward<float>, (loss_forward<Sweep<float, 128>, Softmax>))
KERNEL(item_softmax_forward_d256_f32, 256, 2, SoftmaxForward<float>, (loss_forward<Sweep<float, 256>, Softmax>))
KERNEL(item_softmax_forward_d1024_f32, 256, 2, SoftmaxForward<float>, (loss_forward<Sweep<float, 256, true>, Softmax>))
KERNEL(item_softmax_forward_d64_bf16, 256, 2, SoftmaxForward<bf16>, (loss_forward<Sweep<bf16, 64>, Softmax>))
KERNEL(item_softmax_forward_d128_bf16, 256, 2, SoftmaxForward<bf16>, (loss_forward<Sweep<bf16, 128>, Softmax>))
KERNEL(item_softmax_forward_d256_bf16, 256, 2, SoftmaxForward<bf16>, (loss_forward<Sweep<bf16, 256>, Softmax>))
KERNEL(item_softmax_forward_d1024_bf16, 256, 2, SoftmaxForward<bf16>, (loss_forward<Sweep<bf16, 256, true>, Softmax>))
KERNEL(item_softmax_combine_f32, 256, 1, SoftmaxCombine, softmax_combine)

KERNEL(item_softmax_rows_d64_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 64>, Softmax>))
KERNEL(item_softmax_rows_d128_f32, 256, 1, RowsBackward<float>, (rows_backward<Sweep<float, 128>, Softmax>))
KERNEL(item_softmax_rows_d256_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 256>, Softmax>))
KERNEL(item_softmax_rows_d1024_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 256, true>, Softmax>))
KERNEL(item_softmax_rows_d64_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 64>, Softmax>))
KERNEL(item_softmax_rows_d128_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 128>, Softmax>))
KERNEL(item_softmax_rows_d256_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 256>, Softmax>))
KERNEL(item_softmax_rows_d1024_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 256, true>, Softmax>))
KERNEL(item_softmax_rows_combine_f32, 256, 4, RowsCombine<float>, rows_combine<float>)
KERNEL(item_softmax_rows_combine_bf16, 256, 4, RowsCombine<bf16>, rows_combine<bf16>)

KERNEL(item_softmax_table_d64_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 64>, Softmax>))
KERNEL(item_softmax_table_d128_f32, 256, 1, TableBackward<float>, (table_backward<Sweep<float, 128>, Softmax>))
KERNEL(item_softmax_table_d256_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 256>, Softmax>))
KERNEL(item_softmax_table_d1024_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 256, true>, Softmax>))
KERNEL(item_softmax_table_d64_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 64>, Softmax>))
KERNEL(item_softmax_table_d128_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 128>, Softmax>))
KERNEL(item_softmax_table_d256_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 256>, Softmax>))
KERNEL(item_softmax_table_d1024_bf16, 256, 1, TableBackward<bf16>, (table_backward<Sweep<bf16, 256, true>, Softmax>))
