// Feed-forward sublayer: y = LN(x + dropout(f(a W1^T + b1) W2^T + b2)) for rows a of the input [T, D], W1 [F, D],
// W2 [D, F], the norm only where norms stand after the sublayers; x is a there, else what a is the norm of. Back, with
// u = a W1^T + b1: d = LN'(dy) is the residual's gradient, dl = dropout(d) that of the second map's output,
// du = f'(u) (dl W2) the first's, da = du W1 the input's, added to d where x is a. Assigned besides: the parts of the
// gradients of gamma and beta. The maps' own gradients are linear.cu's, from dl and du.
//
// D <= 256, one launch: a block of 128 threads (256 for D > 128) keeps M = 64 rows (32 in float) in shared memory and goes
// through F in chunks of CHUNK channels: product with a piece of one matrix, activation in shared memory, product with a
// piece of the other, whose sums stay in registers to the end. Tiles of weights pass through two buffers without a
// gap between the products. It begins or ends with whole rows in registers (common/tail.cuh). Forward: a block for
// every M rows. Backward: where there is a norm, a block for each part of its gradients, which walks through its
// share of the rows; else a block for every M rows.
//
// Bytes a token in units of D elements: forward 1 read, 2 written (1 without norm, 1 more read where x is not a), F / D
// more written where u is kept; backward 2 + F / D read, 2 + F / D written. Weights come from L2 once a block: 2 F / M
// elements a channel of a row. FLOPs a token: 4 D F each way.
// At D = 64, F = 256 memory is the bound, from D = 128, F = 512 on tensor cores. At D = 256 a block asks L2 for 16
// bytes of weights per 1,024 FLOPs, 2.8 TB/s at 60% of an A100's peak: near what its L2 gives. M = 128 would halve that but
// needs 139 KiB of shared memory, which A100 and H100 have and others do not.
// Shared memory, registers, blocks a multiprocessor (A100): D <= 64 37 KiB, 168, 3; D <= 128 72 KiB, 255, 2;
// D <= 256 92 KiB, 255, 1.
#include "common/activation.cuh"
#include "common/row_block.cuh"

template <class S> struct FfnForward {
    const uint32_t* rows;
    const Step* step;
    const S* input;           // [rows, D]
    const S* inner_weight;    // [F, D]
    const float* inner_bias;  // [F]
    const S* outer_weight;    // [D, F]
    S* hidden;                // [rows, F] u; null: not kept
    TailForward<S> tail;
    uint32_t inner_width;  // F
    uint32_t activation;
};

template <class S> struct FfnBackward {
    const uint32_t* rows;
    const Step* step;
    const S* inner_weight;  // [F, D]
    const S* outer_weight;  // [D, F]
    const S* hidden;        // [rows, F] u
    S* d_hidden;            // [rows, F]
    S* d_input;             // [rows, D]; null: added to the residual's gradient
    TailBackward<S> tail;
    uint32_t inner_width;  // F
    uint32_t activation;
};

// A chunk of F in a block of rows: HT blocks of 8 channels a warp; INNER_K is the depth of the tiles of the product
// that makes a chunk, B::K of the one that uses it.
template <class B, class S> struct Chunk {
    static constexpr int WIDTH = B::WIDTH == 256 ? 128 : B::WIDTH;
    static constexpr int HT = WIDTH / 8 / B::WARPS_N;
    static constexpr int INNER_K = 64 / (B::IS_BF16 ? 1 : 2);
    static constexpr int OUTER_STEPS = WIDTH / B::K;
    static constexpr int RUNS = B::M * WIDTH / RUN / B::THREADS;  // of a thread
    using Rows = Tile<S, B::M, WIDTH>;

    // Row and first channel, within block and chunk, of a thread's run.
    __device__ static int row(int run) { return (run * B::THREADS + threadIdx.x) / (WIDTH / RUN); }
    __device__ static int channel(int run) { return (run * B::THREADS + threadIdx.x) % (WIDTH / RUN) * RUN; }
};

template <class B, class S> union ForwardStage {
    Tile<S, Chunk<B, S>::WIDTH, Chunk<B, S>::INNER_K> inner;
    Tile<S, B::WIDTH, B::K> outer;
};
template <class B, class S> struct ForwardTiles {
    typename B::Rows input;
    typename Chunk<B, S>::Rows hidden;
    ForwardStage<B, S> stage[2];
};
template <class B, class S> union ForwardMemory {
    ForwardTiles<B, S> tiles;
    FloatRows<B> sums;
};

template <class B, class S> union BackwardStage {
    Tile<S, Chunk<B, S>::INNER_K, Chunk<B, S>::WIDTH> outer;
    Tile<S, B::K, B::WIDTH> inner;
};
template <class B, class S> struct BackwardTiles {
    typename B::Rows d_linear;
    typename Chunk<B, S>::Rows d_hidden;
    BackwardStage<B, S> stage[2];
};
template <class B, class S> union BackwardMemory {
    BackwardTiles<B, S> tiles;
    FloatRows<B> sums;
    NormReduction<typename B::L> reduction;
};

template <class S, int WIDTH> __device__ void ffn_forward(FfnForward<S> args) {
    using B = RowBlock<S, WIDTH>;
    using C = Chunk<B, S>;
    auto& memory = *reinterpret_cast<ForwardMemory<B, S>*>(DYNAMIC_SHARED());
    auto& tiles = memory.tiles;
    const int width = args.tail.width, inner_width = args.inner_width;
    const uint32_t count = *args.rows, first = blockIdx.x * B::M;
    if (first >= count) return;
    const RowRange rows = {first, min(first + B::M, count)};

    // Each chunk takes `inner_steps` tiles of W1, then OUTER_STEPS of W2.
    const int inner_steps = ceil_div(width, C::INNER_K), steps = inner_steps + C::OUTER_STEPS;
    auto start = [&](int index) {
        const int channel = index / steps * C::WIDTH, step = index % steps;
        auto& stage = tiles.stage[index % 2];
        if (step < inner_steps) {
            const int k = step * C::INNER_K;
            copy_tile_async<B::THREADS>(stage.inner, width - k, [&](int row) {
                return channel + row < inner_width ? row_of(args.inner_weight, channel + row, width) + k : nullptr;
            });
        } else {
            const int k = channel + (step - inner_steps) * B::K;
            copy_tile_async<B::THREADS>(stage.outer, inner_width - k, [&](int row) {
                return row < width ? row_of(args.outer_weight, row, inner_width) + k : nullptr;
            });
        }
    };
    // u goes through shared memory: kept in whole runs, activated in place.
    auto activate = [&](int first_channel) {
        with_activation<S>(args.activation, [&](auto f) {
#pragma unroll
            for (int i = 0; i < C::RUNS; ++i) {
                const int row = C::row(i), channel = first_channel + C::channel(i);
                S* at = tiles.hidden.row(row) + C::channel(i);
                Run u = load_run(at);
                if (args.hidden != nullptr && first + row < rows.end && channel < inner_width)
                    store_run(row_of(args.hidden, first + row, inner_width) + channel, u);
#pragma unroll
                for (int e = 0; e < RUN; ++e) u.at[e] = f(u.at[e]).value;
                store_run(at, u);
            }
        });
    };

    float sum[B::MT][B::NT][4], inner[B::MT][C::HT][4];
    clear(sum);
    start_rows<B>(tiles.input, args.input, rows, width);
    start(0);
    pipeline(ceil_div(inner_width, C::WIDTH) * steps, start, [&](int index) {
        const int channel = index / steps * C::WIDTH, step = index % steps;
        const auto& stage = tiles.stage[index % 2];
        if (step >= inner_steps) {
            multiply_add<B::K>(sum, along_rows(tiles.hidden, warp_row<B>(), (step - inner_steps) * B::K),
                               along_rows(stage.outer, warp_column<B, B::NT>()));
            return;
        }
        if (step == 0) clear(inner);
        multiply_add<C::INNER_K>(inner, along_rows(tiles.input, warp_row<B>(), step * C::INNER_K),
                                 along_rows(stage.inner, warp_column<B, C::HT>()));
        if (step < inner_steps - 1) return;
        // All have done with the chunk before: this step began with a barrier.
        for_each_pair(inner, [&](int row, int column, float x, float y) {
            column += warp_column<B, C::HT>();
            if (channel + column < inner_width) {
                x += args.inner_bias[channel + column];
                y += args.inner_bias[channel + column + 1];
            }
            store_pair(tiles.hidden.row(warp_row<B>() + row) + column, x, y);
        });
        __syncthreads();
        activate(channel);
    });

    __syncthreads();
    store_sums<B>(memory.sums, sum);
    __syncthreads();
    const Step step = *args.step;
    tail_forward<typename B::L>(args.tail, step, rows, [&](uint32_t row, int channel) {
        return load_run(memory.sums.row(row - first) + channel);
    });
}

template <class S, int WIDTH> __device__ void ffn_backward(FfnBackward<S> args) {
    using B = RowBlock<S, WIDTH>;
    using C = Chunk<B, S>;
    using L = typename B::L;
    auto& memory = *reinterpret_cast<BackwardMemory<B, S>*>(DYNAMIC_SHARED());
    auto& tiles = memory.tiles;
    const int width = args.tail.width, inner_width = args.inner_width;
    const RowRange all = part_of_rows(*args.rows, gridDim.x, blockIdx.x, B::M);
    const Step dropout_step = *args.step;
    NormSums<L> norm_sums;
    clear(norm_sums);

    // Each chunk takes `outer_steps` tiles of W2, then INNER_STEPS of W1.
    const int outer_steps = ceil_div(width, C::INNER_K), steps = outer_steps + C::OUTER_STEPS;
    auto start = [&](int index) {
        const int channel = index / steps * C::WIDTH, step = index % steps;
        auto& stage = tiles.stage[index % 2];
        if (step < outer_steps) {
            const int k = step * C::INNER_K;
            copy_tile_async<B::THREADS>(stage.outer, inner_width - channel, [&](int row) {
                return k + row < width ? row_of(args.outer_weight, k + row, inner_width) + channel : nullptr;
            });
        } else {
            const int k = channel + (step - outer_steps) * B::K;
            copy_tile_async<B::THREADS>(stage.inner, width, [&](int row) {
                return k + row < inner_width ? row_of(args.inner_weight, k + row, width) : nullptr;
            });
        }
    };

    for (uint32_t first = all.begin; first < all.end; first += B::M) {
        const RowRange rows = {first, min(first + B::M, all.end)};
        // The gradient of f's output stands in shared memory; times f'(u) it is kept in whole runs.
        auto descend = [&](int first_channel) {
            with_activation<S>(args.activation, [&](auto f) {
#pragma unroll
                for (int i = 0; i < C::RUNS; ++i) {
                    const int row = C::row(i), channel = first_channel + C::channel(i);
                    const bool inside = first + row < rows.end && channel < inner_width;
                    const size_t place = static_cast<size_t>(first + row) * inner_width + channel;
                    const Run u = load_run_if(inside, args.hidden + place);
                    S* at = tiles.d_hidden.row(row) + C::channel(i);
                    Run d = load_run(at);
#pragma unroll
                    for (int e = 0; e < RUN; ++e) d.at[e] *= f(u.at[e]).slope;
                    store_run(at, d);
                    if (inside) store_run(args.d_hidden + place, d);
                }
            });
        };

        start(0);
        tail_backward<L>(args.tail, dropout_step, rows, norm_sums, [&](uint32_t row, int channel, const Run& d_linear) {
            store_run(tiles.d_linear.row(row - first) + channel, d_linear);
        });
        float sum[B::MT][B::NT][4], inner[B::MT][C::HT][4];
        clear(sum);
        pipeline(ceil_div(inner_width, C::WIDTH) * steps, start, [&](int index) {
            const int step = index % steps;
            const auto& stage = tiles.stage[index % 2];
            if (step >= outer_steps) {
                multiply_add<B::K>(sum, along_rows(tiles.d_hidden, warp_row<B>(), (step - outer_steps) * B::K),
                                   along_columns(stage.inner, 0, warp_column<B, B::NT>()));
                return;
            }
            if (step == 0) clear(inner);
            multiply_add<C::INNER_K>(inner, along_rows(tiles.d_linear, warp_row<B>(), step * C::INNER_K),
                                     along_columns(stage.outer, 0, warp_column<B, C::HT>()));
            if (step < outer_steps - 1) return;
            // All have done with the chunk before: this step began with a barrier.
            for_each_pair(inner, [&](int row, int column, float x, float y) {
                store_pair(tiles.d_hidden.row(warp_row<B>() + row) + warp_column<B, C::HT>() + column, x, y);
            });
            __syncthreads();
            descend(index / steps * C::WIDTH);
        });

        __syncthreads();
        store_sums<B>(memory.sums, sum);
        __syncthreads();
        for (uint32_t row = first + L::group(); row < rows.end; row += L::GROUPS) {
            const int channel = L::column(0);
            if (channel >= width) continue;
            const Run d_input = load_run(memory.sums.row(row - first) + channel);
            S* residual = row_of(args.tail.d_input, row, width) + channel;
            if (args.d_input != nullptr)
                store_run(row_of(args.d_input, row, width) + channel, d_input);
            else
                store_run(residual, load_run(residual) + d_input);
        }
        __syncthreads();
    }
    assign_norm_part(args.tail, norm_sums, memory.reduction, blockIdx.x);
}

KERNEL(ffn_forward_d64_f32, 128, 3, FfnForward<float>, (ffn_forward<float, 64>))
KERNEL(ffn_forward_d128_f32, 128, 2, FfnForward<float>, (ffn_forward<float, 128>))
KERNEL(ffn_forward_d256_f32, 256, 1, FfnForward<float>, (ffn_forward<float, 256>))
KERNEL(ffn_forward_d64_bf16, 128, 3, FfnForward<bf16>, (ffn_forward<bf16, 64>))
KERNEL(ffn_forward_d128_bf16, 128, 2, FfnForward<bf16>, (ffn_forward<bf16, 128>))
KERNEL(ffn_forward_d256_bf16, 256, 1, FfnForward<bf16>, (ffn_forward<bf16, 256>))

KERNEL(ffn_backward_d64_f32, 128, 3, FfnBackward<float>, (ffn_backward<float, 64>))
KERNEL(ffn_backward_d128_f32, 128, 2, FfnBackward<float>, (ffn_backward<float, 128>))
KERNEL(ffn_backward_d256_f32, 256, 1, FfnBackward<float>, (ffn_backward<float, 256>))
KERNEL(ffn_backward_d64_bf16, 128, 3, FfnBackward<bf16>, (ffn_backward<bf16, 64>))
KERNEL(ffn_backward_d128_bf16, 128, 2, FfnBackward<bf16>, (ffn_backward<bf16, 128>))
KERNEL(ffn_backward_d256_bf16, 256, 1, FfnBackward<bf16>, (ffn_backward<bf16, 256>))
