// Generalised binary cross-entropy over a sample of the items (gBCE: Petrov and Macdonald, "gSASRec: reducing
// overconfidence in sequential recommendation trained with negative sampling", RecSys 2023). A row with target y and m
// negatives N, which y is left out of, has the loss
//     w (beta softplus(-s_y) + sum over N of softplus(s_j)),  w = 1 / (m + 1),  softplus(x) = log(1 + e^x),
// s = h E^T + b over the C items of a shortlist (shortlist.cu); items that are on it as targets alone have a bias of
// negative infinity, and so no part in any row's sum. m and beta depend on nothing but whether the target is itself in
// the sample, so the launch has both of each (src/cuda/gbce.rs).
//
// forward: a running sum of softplus for each row and split; products with targets are noted on the way. 2 P D C FLOPs.
// `combine` adds the splits up in order, and writes w and w beta sigmoid(-s_y) of each row: its factor and its pull.
// rows_backward: dh = S E / P, S being w sigmoid(s_j) at negatives and -w beta sigmoid(-s_y) at the target; the parts
// of splits are added up by item_softmax_rows_combine. table_backward: dE = S^T h / P, db its column sums, each slot's
// part assigned, for shortlist_scatter to add up. 4 P D C FLOPs each up to D = 256.
//
// Launch, shared memory and scratch: as item_softmax.cu has them, whose sweeps these are; one float a row and split.
// Registers at most 128 (gbce_table_d1024_bf16: 162, one block). Bytes: the list's table, 2 C D in bf16, comes from the
// L2 cache, once for 64 rows; the head's rows once a split. Per logit forward a power, a maximum and a multiply-add, and
// one logarithm for four of them: that of the product of all 1 + e^-|x|, of which 1 is left off while it grows, so that
// small terms keep their digits; backward a power and a reciprocal.
// Alternatives: a sample of each row's own, as in the paper, wants 2 P m D bytes gathered where this wants 2 C D.
#include "common/item_loss.cuh"

// 1 / x of a number from 1 up to infinity.
template <class S> __device__ inline float reciprocal(float x);
template <> __device__ inline float reciprocal<float>(float x) { return 1.0f / x; }
template <> __device__ inline float reciprocal<bf16>(float x) { return reciprocal_fast(x); }

// 1 / (1 + e^-x), x in the units of logits.
template <class S> __device__ inline float sigmoid(float x) { return reciprocal<S>(1.0f + power<S>(-x)); }

template <class S> struct Binary {
    using Storage = S;
    // Sum of softplus.
    struct Running {
        float sum;
    };
    static constexpr bool COUNTS_TARGET = false;

    static __device__ Running start() { return {0.0f}; }
    static __device__ Running merge(const Running& a, const Running& b) { return {a.sum + b.sum}; }
    // Takes a lane's scores of one tile in; of negative infinity nothing comes.
    template <class Sweep>
    static __device__ void take_in(Running& running, typename Sweep::Scores& scores, int row_slot) {
        // Product of all 1 + e^-|x|, less 1.
        float positive = 0.0f, excess = 0.0f;
#pragma unroll
        for (int c = 0; c < Sweep::COLUMN_SLOTS; ++c) {
            const float x = Sweep::score(scores, row_slot, c), small = power<S>(-fabsf(x));
            positive += fmaxf(x, 0.0f);
            excess = fmaf(excess, small, excess + small);
        }
        running.sum += positive * NATURAL<S> + log1pf(excess);
    }
    static __device__ Running across_lanes(const Running& running) { return {row_sum(running.sum)}; }
    static __device__ Running natural(const Running& running) { return running; }

    // A row brings its factor.
    static constexpr float NO_ROW = 0.0f;
    static __device__ float row_term(float factor) { return factor; }
    static __device__ float share(float score, float factor, float item_term) {
        return factor * sigmoid<S>(fmaf(score, UNIT<S>, item_term));
    }
    // Read-only, or the compiler keeps more in registers around it than there are at D = 256.
    static __device__ float at_target(float, const RowTerms& terms, uint32_t row) { return -__ldg(terms.pulls + row); }
};

template <class S> using BinaryForward = LossForward<S, typename Binary<S>::Running>;

// Mirrored by src/cuda/gbce.rs.
struct BinaryCombine {
    const uint32_t* rows;
    const uint32_t* items;    // C
    const uint32_t* targets;  // [P] place in the list, from 1
    const uint32_t* listed;   // [C] item at each place
    const float* offsets;     // [C] 0 for items of the sample
    const float* bias;        // [V + 1] of the whole catalogue
    const Binary<float>::Running* found;
    const float* target_scores;
    float* factors;  // [P]
    float* pulls;    // [P]
    float* losses;   // [P]
    float weight;  // of rows whose target is not in the sample
    float beta;
    float weight_if_sampled;  // of those whose is
    float beta_if_sampled;
    uint32_t most;
    uint32_t splits;
};

__device__ inline float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// A thread a row.
__device__ inline void binary_combine(const BinaryCombine& args) {
    const uint32_t row = blockIdx.x * SWEEP_THREADS + threadIdx.x;
    if (row >= *args.rows) return;
    auto whole = args.found[row];
    for (uint32_t split = 1; split < args.splits; ++split)
        whole = Binary<float>::merge(whole, args.found[static_cast<size_t>(split) * args.most + row]);
    const uint32_t place = args.targets[row] - 1;
    // A target that is not in the list has no loss, and no step comes of it.
    const bool known = place < *args.items;
    const bool sampled = known && args.offsets[place] == 0.0f;
    const float logit = known ? args.target_scores[row] + args.bias[args.listed[place]] : __builtin_nanf("");
    const float weight = sampled ? args.weight_if_sampled : args.weight;
    const float beta = sampled ? args.beta_if_sampled : args.beta;
    args.factors[row] = weight;
    args.pulls[row] = weight * beta * sigmoid<float>(-logit);
    args.losses[row] = weight * (beta * softplus(-logit) + whole.sum);
}

KERNEL(gbce_forward_d64_f32, 256, 2, BinaryForward<float>, (loss_forward<Sweep<float, 64>, Binary>))
KERNEL(gbce_forward_d128_f32, 256, 1, BinaryForward<float>, (loss_forward<Sweep<float, 128>, Binary>))
KERNEL(gbce_forward_d256_f32, 256, 2, BinaryForward<float>, (loss_forward<Sweep<float, 256>, Binary>))
KERNEL(gbce_forward_d1024_f32, 256, 2, BinaryForward<float>, (loss_forward<Sweep<float, 256, true>, Binary>))
KERNEL(gbce_forward_d64_bf16, 256, 2, BinaryForward<bf16>, (loss_forward<Sweep<bf16, 64>, Binary>))
KERNEL(gbce_forward_d128_bf16, 256, 2, BinaryForward<bf16>, (loss_forward<Sweep<bf16, 128>, Binary>))
KERNEL(gbce_forward_d256_bf16, 256, 2, BinaryForward<bf16>, (loss_forward<Sweep<bf16, 256>, Binary>))
KERNEL(gbce_forward_d1024_bf16, 256, 2, BinaryForward<bf16>, (loss_forward<Sweep<bf16, 256, true>, Binary>))
KERNEL(gbce_combine_f32, 256, 1, BinaryCombine, binary_combine)

KERNEL(gbce_rows_d64_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 64>, Binary>))
KERNEL(gbce_rows_d128_f32, 256, 1, RowsBackward<float>, (rows_backward<Sweep<float, 128>, Binary>))
KERNEL(gbce_rows_d256_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 256>, Binary>))
KERNEL(gbce_rows_d1024_f32, 256, 2, RowsBackward<float>, (rows_backward<Sweep<float, 256, true>, Binary>))
KERNEL(gbce_rows_d64_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 64>, Binary>))
KERNEL(gbce_rows_d128_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 128>, Binary>))
KERNEL(gbce_rows_d256_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 256>, Binary>))
KERNEL(gbce_rows_d1024_bf16, 256, 2, RowsBackward<bf16>, (rows_backward<Sweep<bf16, 256, true>, Binary>))

KERNEL(gbce_table_d64_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 64>, Binary>))
KERNEL(gbce_table_d128_f32, 256, 1, TableBackward<float>, (table_backward<Sweep<float, 128>, Binary>))
KERNEL(gbce_table_d256_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 256>, Binary>))
KERNEL(gbce_table_d1024_f32, 256, 2, TableBackward<float>, (table_backward<Sweep<float, 256, true>, Binary>))
KERNEL(gbce_table_d64_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 64>, Binary>))
KERNEL(gbce_table_d128_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 128>, Binary>))
KERNEL(gbce_table_d256_bf16, 256, 2, TableBackward<bf16>, (table_backward<Sweep<bf16, 256>, Binary>))
KERNEL(gbce_table_d1024_bf16, 256, 1, TableBackward<bf16>, (table_backward<Sweep<bf16, 256, true>, Binary>))
