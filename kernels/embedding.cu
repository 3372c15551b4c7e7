// Input embedding, x = dropout(LN(E[id] + Pos[position])), and the gradients of its tables.
//
// forward: gathers an item and a position row, norms, drops. 1 gathered row of D elements read (positions stay in the
// cache), 2 written (output and what the norm keeps). backward: from dx to the gradient of the sum, in place, and the
// parts of d_gamma and d_beta; 2 rows read, 1 written. About 20 FLOPs a channel and, with dropout, 10 rounds of
// Philox for 8 channels: bound by memory. A row is held by 8, 16 or 32 lanes in 16-byte accesses; blocks of 256 threads (128
// above D = 512); forward a block for every GROUPS rows, backward a block a slot that walks through its share of the
// rows with its sums in registers.
//
// tables: both tables' gradients from that of the sums, by blocks of two roles in one launch. The first scatter_blocks
// add to dE[key] the sum of a segment's tokens: a block for 8 segments and 64 channels, a warp for each of them, and the
// whole block, one after the other, for those with more than LONG tokens: MASK alone has a fifth of all tokens. The
// others assign d_Pos[l] = sum over sequences of the token at l: a block for each position and 64 channels. Both roles
// read each row once, 2 D elements a token in all (the second time from L2, where it fits), with 8 rows a group of lanes
// under way (256 a block, 32 KiB in bf16), and add up what the groups found in order. D FLOPs a token and role.
// Splitting long segments over blocks was considered: it wants scratch and a second launch, to save what 20 reads in a
// row take. So was a launch for each role: it costs a launch, and both together are barely enough for a GPU.
#include "common/tail.cuh"

template <class S> struct EmbeddingForward {
    const uint32_t* tokens;
    const Step* step;
    const uint32_t* ids;           // [T]
    const uint32_t* position_ids;  // [T]
    const S* items;                // [V + 2, D]
    const S* positions;            // [L, D]
    const float* gamma;            // [D]
    const float* beta;             // [D]
    S* normalized;                 // [T, D]
    float* rstd;                   // [T]
    S* output;                     // [T, D]
    HiddenDropout dropout;
    float epsilon;
    uint32_t width;
    uint32_t item_rows;
    uint32_t position_rows;
    uint32_t unused;
};

template <class S> struct EmbeddingBackward {
    const uint32_t* tokens;
    const Step* step;
    const float* gamma;   // [D]
    const S* normalized;  // [T, D]
    const float* rstd;    // [T]
    S* gradient;          // [T, D]
    float* d_gamma;       // part 0 of [D]
    float* d_beta;        // part 0 of [D]
    uint64_t d_gamma_stride;
    uint64_t d_beta_stride;
    HiddenDropout dropout;
    uint32_t width;
};

template <class S> struct EmbeddingTables {
    const uint32_t* segments;
    const uint32_t* keys;     // [segments]
    const uint32_t* offsets;  // [segments + 1]
    const uint32_t* indices;  // [T]
    const uint32_t* sequences;
    const uint32_t* cu_seqlens;  // [B + 1]
    const S* d_sums;             // [T, D]
    float* d_items;              // [V + 2, D]
    float* d_positions;          // [L, D]
    uint32_t item_rows;
    uint32_t scatter_blocks;
    uint32_t from_end;
    uint32_t width;
};

template <int WIDTH> using EmbeddingLanes = RowLanes<WIDTH, WIDTH < 1024 ? 256 : 128>;

template <class S, int WIDTH> __device__ void embedding_forward(const EmbeddingForward<S>& args) {
    using L = EmbeddingLanes<WIDTH>;
    const uint32_t tokens = *args.tokens, token = blockIdx.x * L::GROUPS + L::group();
    if (blockIdx.x * L::GROUPS >= tokens) return;
    const bool valid = token < tokens;
    const int width = args.width;
    const uint32_t item = valid ? min(args.ids[token], args.item_rows - 1) : 0;
    const uint32_t position = valid ? min(args.position_ids[token], args.position_rows - 1) : 0;
    Run x[L::RUNS], p[L::RUNS];
    L::load(x, row_of(args.items, item, width), width, valid);
    L::load(p, row_of(args.positions, position, width), width, valid);
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r) x[r] += p[r];
    const float rstd = normalize<L>(x, width, args.epsilon);
    L::store(row_of(args.normalized, token, width), x, width, valid);
    if (valid && L::column(0) == 0) args.rstd[token] = rstd;
    scale_and_shift<L>(x, width, args.gamma, args.beta);
    if (args.dropout.rate.threshold > 0) {
        const Step step = *args.step;
#pragma unroll
        for (int r = 0; r < L::RUNS; ++r)
            if (L::column(r) < width) drop_run(x[r], step, args.dropout, token, width, L::column(r));
    }
    L::store(row_of(args.output, token, width), x, width, valid);
}

template <class S, int WIDTH> __device__ void embedding_backward(const EmbeddingBackward<S>& args) {
    using L = EmbeddingLanes<WIDTH>;
    constexpr int AHEAD = ROWS_AHEAD<S, L>;
    STATIC_SHARED(NormReduction<L>, reduction);
    const Span rows = slot_span(*args.tokens, gridDim.x, blockIdx.x, L::GROUPS);
    const Step step = *args.step;
    const int width = args.width;
    NormSums<L> sums;
    clear(sums);
    for (int base = rows.first; base < rows.end; base += L::GROUPS * AHEAD) {
        Run d[AHEAD][L::RUNS], n[AHEAD][L::RUNS];
        float rstd[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const int token = base + a * L::GROUPS + L::group();
            const bool valid = token < rows.end;
            L::load(d[a], row_of(args.gradient, token, width), width, valid);
            L::load(n[a], row_of(args.normalized, token, width), width, valid);
            rstd[a] = valid ? args.rstd[token] : 0.0f;
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const int token = base + a * L::GROUPS + L::group();
            if (args.dropout.rate.threshold > 0)
#pragma unroll
                for (int r = 0; r < L::RUNS; ++r)
                    if (L::column(r) < width) drop_run(d[a][r], step, args.dropout, token, width, L::column(r));
            normalize_backward<L>(d[a], n[a], width, args.gamma, rstd[a], sums);
            L::store(row_of(args.gradient, token, width), d[a], width, token < rows.end);
        }
    }
    assign_norm_sums(sums, reduction, width, args.d_gamma + blockIdx.x * args.d_gamma_stride,
                     args.d_beta + blockIdx.x * args.d_beta_stride);
}

// Sums of many rows: eight lanes hold 64 channels of a row, so a warp adds up 4 rows at a time and a block 32.
constexpr int SUM_THREADS = 256;
constexpr int SUM_CHANNELS = 64;
using SumLanes = Lanes<SUM_CHANNELS / RUN, 1, SUM_THREADS>;
constexpr int WARP_GROUPS = WARP / SumLanes::LANES;
constexpr int SUM_AHEAD = 8;
constexpr uint32_t NO_ROW = 0xffffffffu;

// Sum over every `stride`-th of the indices from `first` up to `end` of the run from `channel` on in row row_at(index),
// which may be NO_ROW.
template <class S, class RowAt>
__device__ inline Run sum_rows(const S* rows, int width, int channel, uint32_t first, uint32_t end, uint32_t stride,
                               RowAt row_at) {
    Run sum{};
    for (uint32_t base = first; base < end; base += SUM_AHEAD * stride) {
        Run run[SUM_AHEAD];
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; ++a) {
            const uint32_t index = base + a * stride;
            const uint32_t row = index < end ? row_at(index) : NO_ROW;
            run[a] = load_run_if(row != NO_ROW && channel < width, row_of(rows, row, width) + channel);
        }
#pragma unroll
        for (int a = 0; a < SUM_AHEAD; ++a) sum += run[a];
    }
    return sum;
}

struct GroupSums {
    float at[SumLanes::GROUPS][SUM_CHANNELS];
};

// Adds the sums of all groups up, in order, and calls put(c, sum) for channel c of the 64. All threads call it;
// `shared` may have been used before.
template <class Put> __device__ inline void add_groups(const Run& sum, GroupSums& shared, Put put) {
    __syncthreads();
    store_run(&shared.at[SumLanes::group()][SumLanes::column(0)], sum);
    __syncthreads();
    if (threadIdx.x >= SUM_CHANNELS) return;
    float total = 0.0f;
#pragma unroll
    for (int group = 0; group < SumLanes::GROUPS; ++group) total += shared.at[group][threadIdx.x];
    put(static_cast<int>(threadIdx.x), total);
}

template <class S>
__device__ inline void position_sum(const EmbeddingTables<S>& args, uint32_t position, GroupSums& shared) {
    const uint32_t sequences = *args.sequences;
    const int width = args.width, first_channel = SUM_CHANNELS * blockIdx.y;
    const auto token_of = [&](uint32_t sequence) {
        const uint32_t begin = args.cu_seqlens[sequence], end = args.cu_seqlens[sequence + 1];
        if (position >= end - begin) return NO_ROW;
        return args.from_end != 0 ? end - 1 - position : begin + position;
    };
    const Run sum = sum_rows(args.d_sums, width, first_channel + SumLanes::column(0), SumLanes::group(), sequences,
                             SumLanes::GROUPS, token_of);
    float* row = row_of(args.d_positions, position, width) + first_channel;
    add_groups(sum, shared, [&](int channel, float total) {
        if (first_channel + channel < width) row[channel] = total;
    });
}

// Segments of a block, and the most tokens of one that a warp takes.
constexpr int SCATTER_SEGMENTS = SUM_THREADS / WARP;
constexpr uint32_t LONG = 64;

template <class S> __device__ inline void scatter(const EmbeddingTables<S>& args, GroupSums& shared) {
    const uint32_t segments = *args.segments;
    const uint32_t blocks = (segments + SCATTER_SEGMENTS - 1) / SCATTER_SEGMENTS;
    if (blockIdx.x >= blocks) return;
    // From the end, where MASK is: what takes longest begins first.
    const uint32_t first = (blocks - 1 - blockIdx.x) * SCATTER_SEGMENTS;
    const int width = args.width, first_channel = SUM_CHANNELS * blockIdx.y;
    const int channel = first_channel + SumLanes::column(0);
    const auto token_of = [&](uint32_t index) { return args.indices[index]; };
    for (uint32_t segment = first; segment < min(first + SCATTER_SEGMENTS, segments); ++segment) {
        const uint32_t begin = args.offsets[segment], end = args.offsets[segment + 1];
        if (end - begin <= LONG || args.keys[segment] >= args.item_rows) continue;
        const Run sum = sum_rows(args.d_sums, width, channel, begin + SumLanes::group(), end, SumLanes::GROUPS, token_of);
        float* row = row_of(args.d_items, args.keys[segment], width) + first_channel;
        add_groups(sum, shared, [&](int channel, float total) {
            if (first_channel + channel < width) row[channel] += total;
        });
    }
    const uint32_t segment = first + warp_index();
    if (segment >= segments || args.keys[segment] >= args.item_rows) return;
    const uint32_t begin = args.offsets[segment], end = args.offsets[segment + 1];
    if (end - begin > LONG) return;
    Run sum = sum_rows(args.d_sums, width, channel, begin + SumLanes::group() % WARP_GROUPS, end, WARP_GROUPS, token_of);
#pragma unroll
    for (int i = 0; i < RUN; ++i)
#pragma unroll
        for (int offset = SumLanes::LANES; offset < WARP; offset *= 2)
            sum.at[i] += __shfl_xor_sync(0xffffffffu, sum.at[i], offset);
    if (lane_index() >= SumLanes::LANES || channel >= width) return;
    float* row = row_of(args.d_items, args.keys[segment], width) + channel;
    sum += load_run(row);
    store_run(row, sum);
}

// Segments first: the longest of them is what takes longest.
template <class S> __device__ void embedding_tables(const EmbeddingTables<S>& args) {
    STATIC_SHARED(GroupSums, shared);
    if (blockIdx.x < args.scatter_blocks)
        scatter(args, shared);
    else
        position_sum(args, blockIdx.x - args.scatter_blocks, shared);
}

KERNEL(embedding_forward_d64_f32, 256, 4, EmbeddingForward<float>, (embedding_forward<float, 64>))
KERNEL(embedding_forward_d128_f32, 256, 4, EmbeddingForward<float>, (embedding_forward<float, 128>))
KERNEL(embedding_forward_d256_f32, 256, 4, EmbeddingForward<float>, (embedding_forward<float, 256>))
KERNEL(embedding_forward_d512_f32, 256, 3, EmbeddingForward<float>, (embedding_forward<float, 512>))
KERNEL(embedding_forward_d1024_f32, 128, 4, EmbeddingForward<float>, (embedding_forward<float, 1024>))
KERNEL(embedding_forward_d64_bf16, 256, 4, EmbeddingForward<bf16>, (embedding_forward<bf16, 64>))
KERNEL(embedding_forward_d128_bf16, 256, 4, EmbeddingForward<bf16>, (embedding_forward<bf16, 128>))
KERNEL(embedding_forward_d256_bf16, 256, 4, EmbeddingForward<bf16>, (embedding_forward<bf16, 256>))
KERNEL(embedding_forward_d512_bf16, 256, 3, EmbeddingForward<bf16>, (embedding_forward<bf16, 512>))
KERNEL(embedding_forward_d1024_bf16, 128, 4, EmbeddingForward<bf16>, (embedding_forward<bf16, 1024>))

KERNEL(embedding_backward_d64_f32, 256, 2, EmbeddingBackward<float>, (embedding_backward<float, 64>))
KERNEL(embedding_backward_d128_f32, 256, 2, EmbeddingBackward<float>, (embedding_backward<float, 128>))
KERNEL(embedding_backward_d256_f32, 256, 2, EmbeddingBackward<float>, (embedding_backward<float, 256>))
KERNEL(embedding_backward_d512_f32, 256, 2, EmbeddingBackward<float>, (embedding_backward<float, 512>))
KERNEL(embedding_backward_d1024_f32, 128, 3, EmbeddingBackward<float>, (embedding_backward<float, 1024>))
KERNEL(embedding_backward_d64_bf16, 256, 2, EmbeddingBackward<bf16>, (embedding_backward<bf16, 64>))
KERNEL(embedding_backward_d128_bf16, 256, 2, EmbeddingBackward<bf16>, (embedding_backward<bf16, 128>))
KERNEL(embedding_backward_d256_bf16, 256, 2, EmbeddingBackward<bf16>, (embedding_backward<bf16, 256>))
KERNEL(embedding_backward_d512_bf16, 256, 2, EmbeddingBackward<bf16>, (embedding_backward<bf16, 512>))
KERNEL(embedding_backward_d1024_bf16, 128, 3, EmbeddingBackward<bf16>, (embedding_backward<bf16, 1024>))

KERNEL(embedding_tables_f32, 256, 2, EmbeddingTables<float>, embedding_tables<float>)
KERNEL(embedding_tables_bf16, 256, 2, EmbeddingTables<bf16>, embedding_tables<bf16>)
