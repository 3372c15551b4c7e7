// Feed-forward sublayer: y = LN(x + dropout(f(a W1^T + b1) W2^T + b2)) for rows a of the input [T, D], W1 [F, D],
// W2 [D, F], the norm only where norms stand after the sublayers; x is a there, else what a is the norm of. Back, with
// u = a W1^T + b1: d = LN'(dy) is the residual's gradient, dl = dropout(d) that of the second map's output,
// du = f'(u) (dl W2) the first's, da = du W1 the input's, added to d where x is a. Assigned besides: the parts of the
// gradients of gamma and beta. The maps' own gradients are linear.cu's, from dl and du.
//
// D <= 256, one launch: a block of 128 threads (256 for D > 128) keeps 64 rows (32 in float) in shared memory and goes
// through F in chunks of 64 or 128 channels: product with a piece of one matrix, activation in shared memory, product
// with a piece of the other, whose sums stay in registers to the end. Tiles of weights pass through two buffers without a
// gap between the products. It begins or ends with whole rows in registers (common/tail.cuh). Forward: a block for
// every 64 rows. Backward: where there is a norm, a block for each part of its gradients, which walks through its
// share of the rows; else a block for every 64 rows.
// D > 256: each map is a product of its own (common/wide.cuh), tail and way back are layernorm.cu's.
//
// Bytes a token in units of D elements: forward 1 read, 2 written (1 without norm; 1 more read where x is not a), F / D
// more written where u is kept; backward 2 + F / D read, 2 + F / D written (2 and 3 where x is not a). Weights come from
// L2, 2 D F elements a block. FLOPs a token: 4 D F each way.
// At D = 64, F = 256 memory is the bound, from D = 128, F = 512 on tensor cores. At D = 256 the weights of 64 rows take
// 2.8 TB/s of L2 at 60% of an A100's peak, about what it gives; 128 rows would halve that but need 139 KiB of shared
// memory, which A100 and H100 have and others do not. Nothing here was timed: no GPU was at hand.
// Shared memory, registers at most, blocks a multiprocessor (A100): D <= 64: 36 KiB, 168, 3; D <= 128: 70 KiB, 255, 2;
// D <= 256: 90 KiB, 255, 1. A double chunk of u would hide the wait for it backward, and cost a block.
#include "common/activation.cuh"
#include "common/row_block.cuh"
#include "common/wide.cuh"

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

// A chunk of F in a block of rows, its sums shared by the same warps: INNER_K is the depth of the tiles of the product
// that makes a chunk, B::K of the one that uses it.
template <class B> struct Chunk {
    using S = typename B::S;
    static constexpr int CHANNELS = B::COLUMNS == 256 ? 128 : B::COLUMNS;
    using Sums = Blocking<S, B::ROWS / (16 * B::MT), B::COLUMNS / (8 * B::NT), B::MT, B::NT * CHANNELS / B::COLUMNS>;
    static constexpr int INNER_K = 128 / static_cast<int>(sizeof(S));
    static constexpr int OUTER_STEPS = CHANNELS / B::K;
    using Held = Tile<S, B::ROWS, CHANNELS>;

    // Calls `use(row, channel)` for each of the thread's share of the runs of a chunk.
    template <class Use> __device__ static void for_each_run(Use use) {
#pragma unroll
        for (int i = 0; i < B::ROWS * CHANNELS / RUN / B::THREADS; ++i) {
            const int index = i * B::THREADS + threadIdx.x;
            use(index / (CHANNELS / RUN), index % (CHANNELS / RUN) * RUN);
        }
    }
};

// Forward: rows of the input, a chunk of u, then of f(u), and tiles of weights on their way.
template <class B> union ForwardStage {
    Tile<typename B::S, Chunk<B>::CHANNELS, Chunk<B>::INNER_K> inner;
    Tile<typename B::S, B::COLUMNS, B::K> outer;
};
template <class B> struct ForwardTiles {
    typename B::Held input;
    typename Chunk<B>::Held hidden;
    ForwardStage<B> stage[2];
};
template <class B> union ForwardMemory {
    ForwardTiles<B> tiles;
    typename B::Sums sums;
};

// Backward: rows of dl, a chunk of the gradient of f(u), then of u, and tiles of weights on their way.
template <class B> union BackwardStage {
    Tile<typename B::S, Chunk<B>::INNER_K, Chunk<B>::CHANNELS> outer;
    Tile<typename B::S, B::K, B::COLUMNS> inner;
};
template <class B> struct BackwardTiles {
    typename B::Held d_linear;
    typename Chunk<B>::Held d_hidden;
    BackwardStage<B> stage[2];
};
template <class B> union BackwardMemory {
    BackwardTiles<B> tiles;
    typename B::Sums sums;
    NormReduction<typename B::Lanes> reduction;
};

// Writes a warp's sums of a chunk to its tile, as they are stored. `use(column, x, y)` sees each pair before.
template <class B, class Use>
__device__ inline void store_chunk(typename Chunk<B>::Held& tile, typename Chunk<B>::Sums::Sum& sum, Use use) {
    using Sums = typename Chunk<B>::Sums;
    for_each_pair(sum, [&](int row, int column, float x, float y) {
        column += Sums::warp_column();
        use(column, x, y);
        store_pair(tile.row(Sums::warp_row() + row) + column, x, y);
    });
}

// What src/cuda/ffn.rs asks for; float needs a little less.
static_assert(sizeof(ForwardMemory<RowBlock<bf16, 64>>) == 36864);
static_assert(sizeof(ForwardMemory<RowBlock<bf16, 128>>) == 71680);
static_assert(sizeof(ForwardMemory<RowBlock<bf16, 256>>) == 92160);
static_assert(sizeof(ForwardMemory<RowBlock<float, 64>>) <= 36864);
static_assert(sizeof(ForwardMemory<RowBlock<float, 128>>) <= 71680);
static_assert(sizeof(ForwardMemory<RowBlock<float, 256>>) <= 92160);
static_assert(sizeof(BackwardMemory<RowBlock<bf16, 64>>) == 36864);
static_assert(sizeof(BackwardMemory<RowBlock<bf16, 128>>) == 69632);
static_assert(sizeof(BackwardMemory<RowBlock<bf16, 256>>) == 86016);
static_assert(sizeof(BackwardMemory<RowBlock<float, 64>>) <= 36864);
static_assert(sizeof(BackwardMemory<RowBlock<float, 128>>) <= 69632);
static_assert(sizeof(BackwardMemory<RowBlock<float, 256>>) <= 86016);

template <class S, int WIDTH> __device__ void ffn_forward(FfnForward<S> args) {
    using B = RowBlock<S, WIDTH>;
    using C = Chunk<B>;
    auto& memory = *reinterpret_cast<ForwardMemory<B>*>(DYNAMIC_SHARED());
    auto& tiles = memory.tiles;
    const int width = args.tail.width, inner_width = args.inner_width;
    const int count = *args.rows, first = blockIdx.x * B::ROWS;
    if (first >= count) return;

    // Each chunk takes `inner_steps` tiles of W1, then OUTER_STEPS of W2.
    const Rows<S> inner_weight{args.inner_weight, nullptr, inner_width, width};
    const Rows<S> outer_weight{args.outer_weight, nullptr, width, inner_width};
    const int inner_steps = ceil_div(width, C::INNER_K), steps = inner_steps + C::OUTER_STEPS;
    auto load = [&](int index) {
        const int chunk = index / steps * C::CHANNELS, step = index % steps;
        auto& stage = tiles.stage[index % 2];
        if (step < inner_steps)
            copy_rows_async<B::THREADS>(stage.inner, inner_weight, chunk, step * C::INNER_K);
        else
            copy_rows_async<B::THREADS>(stage.outer, outer_weight, 0, chunk + (step - inner_steps) * B::K);
    };
    // u in shared memory is kept, where it is to be, and activated in place.
    auto activate = [&](int chunk) {
        with_activation<S>(args.activation, [&](auto f) {
            C::for_each_run([&](int row, int channel) {
                S* at = tiles.hidden.row(row) + channel;
                Run u = load_run(at);
                if (args.hidden != nullptr && first + row < count && chunk + channel < inner_width)
                    store_run(row_of(args.hidden, first + row, inner_width) + chunk + channel, u);
#pragma unroll
                for (int e = 0; e < RUN; ++e) u.at[e] = f(u.at[e]).value;
                store_run(at, u);
            });
        });
    };

    typename B::Sum sum;
    typename C::Sums::Sum hidden;
    clear(sum);
    copy_rows_async<B::THREADS>(tiles.input, Rows<S>{args.input, nullptr, count, width}, first, 0);
    pipeline<2>(ceil_div(inner_width, C::CHANNELS) * steps, load, [&](int index) {
        const int chunk = index / steps * C::CHANNELS, step = index % steps;
        const auto& stage = tiles.stage[index % 2];
        if (step >= inner_steps) {
            multiply_add<B::K>(sum, along_rows(tiles.hidden, B::warp_row(), (step - inner_steps) * B::K),
                               along_rows(stage.outer, B::warp_column()));
            return;
        }
        if (step == 0) clear(hidden);
        multiply_add<C::INNER_K>(hidden, along_rows(tiles.input, B::warp_row(), step * C::INNER_K),
                                 along_rows(stage.inner, C::Sums::warp_column()));
        if (step < inner_steps - 1) return;
        // All are through with the chunk before: this step began with a barrier.
        store_chunk<B>(tiles.hidden, hidden, [&](int column, float& x, float& y) {
            if (chunk + column >= inner_width) return;
            const float2 bias = *reinterpret_cast<const float2*>(args.inner_bias + chunk + column);
            x += bias.x;
            y += bias.y;
        });
        __syncthreads();
        activate(chunk);
    });

    stage<B>(memory.sums, sum);
    __syncthreads();
    const Step step = *args.step;
    tail_forward<typename B::Lanes>(args.tail, step, {first, min(first + B::ROWS, count)}, [&](int row, int channel) {
        return load_run(memory.sums.row(row - first) + channel);
    });
}

template <class S, int WIDTH> __device__ void ffn_backward(FfnBackward<S> args) {
    using B = RowBlock<S, WIDTH>;
    using C = Chunk<B>;
    using L = typename B::Lanes;
    auto& memory = *reinterpret_cast<BackwardMemory<B>*>(DYNAMIC_SHARED());
    auto& tiles = memory.tiles;
    const int width = args.tail.width, inner_width = args.inner_width;
    const Span all = slot_span(*args.rows, gridDim.x, blockIdx.x, B::ROWS);
    const Step dropout_step = *args.step;
    NormSums<L> norm_sums;
    clear(norm_sums);

    // Each chunk takes `outer_steps` tiles of W2, then OUTER_STEPS of W1.
    const Rows<S> inner_weight{args.inner_weight, nullptr, inner_width, width};
    const Rows<S> outer_weight{args.outer_weight, nullptr, width, inner_width};
    const int outer_steps = ceil_div(width, C::INNER_K), steps = outer_steps + C::OUTER_STEPS;
    auto load = [&](int index) {
        const int chunk = index / steps * C::CHANNELS, step = index % steps;
        auto& stage = tiles.stage[index % 2];
        if (step < outer_steps)
            copy_rows_async<B::THREADS>(stage.outer, outer_weight, step * C::INNER_K, chunk);
        else
            copy_rows_async<B::THREADS>(stage.inner, inner_weight, chunk + (step - outer_steps) * B::K, 0);
    };

    for (int first = all.first; first < all.end; first += B::ROWS) {
        const Span rows = {first, min(first + B::ROWS, all.end)};
        // The gradient of f(u) in shared memory becomes that of u, in place, and is kept.
        auto descend = [&](int chunk) {
            with_activation<S>(args.activation, [&](auto f) {
                C::for_each_run([&](int row, int channel) {
                    const bool inside = first + row < rows.end && chunk + channel < inner_width;
                    const size_t place = static_cast<size_t>(first + row) * inner_width + chunk + channel;
                    const Run u = load_run_if(inside, args.hidden + place);
                    S* at = tiles.d_hidden.row(row) + channel;
                    Run d = load_run(at);
#pragma unroll
                    for (int e = 0; e < RUN; ++e) d.at[e] *= f(u.at[e]).slope;
                    store_run(at, d);
                    if (inside) store_run(args.d_hidden + place, d);
                });
            });
        };

        tail_backward<L>(args.tail, dropout_step, rows, norm_sums, [&](int row, int channel, const Run& d_linear) {
            store_run(tiles.d_linear.row(row - first) + channel, d_linear);
        });
        typename B::Sum sum;
        typename C::Sums::Sum d_hidden;
        clear(sum);
        pipeline<2>(ceil_div(inner_width, C::CHANNELS) * steps, load, [&](int index) {
            const int step = index % steps;
            const auto& stage = tiles.stage[index % 2];
            if (step >= outer_steps) {
                multiply_add<B::K>(sum, along_rows(tiles.d_hidden, B::warp_row(), (step - outer_steps) * B::K),
                                   along_columns(stage.inner, 0, B::warp_column()));
                return;
            }
            if (step == 0) clear(d_hidden);
            multiply_add<C::INNER_K>(d_hidden, along_rows(tiles.d_linear, B::warp_row(), step * C::INNER_K),
                                     along_columns(stage.outer, 0, C::Sums::warp_column()));
            if (step < outer_steps - 1) return;
            // All are through with the chunk before: this step began with a barrier.
            store_chunk<B>(tiles.d_hidden, d_hidden, [](int, float&, float&) {});
            __syncthreads();
            descend(index / steps * C::CHANNELS);
        });

        stage<B>(memory.sums, sum);
        __syncthreads();
        for_each_held_run<L>(rows, width, [&](int row, int channel) {
            Run d_input = load_run(memory.sums.row(row - first) + channel);
            S* to = row_of(args.d_input != nullptr ? args.d_input : args.tail.d_input, row, width) + channel;
            if (args.d_input == nullptr) d_input += load_run(to);
            store_run(to, d_input);
        });
        __syncthreads();
    }
    assign_norm_part(args.tail, norm_sums, memory.reduction, blockIdx.x);
}

template <class S> __device__ void ffn_inner_wide(WideForward<S> args) { wide_forward(args); }
template <class S> __device__ void ffn_outer_wide(WideForward<S> args) { wide_activated_forward(args); }
template <class S> __device__ void ffn_backward_wide(WideBackward<S> args) { wide_backward(args); }

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

KERNEL(ffn_inner_wide_f32, 128, 2, WideForward<float>, ffn_inner_wide<float>)
KERNEL(ffn_inner_wide_bf16, 128, 2, WideForward<bf16>, ffn_inner_wide<bf16>)
KERNEL(ffn_outer_wide_f32, 256, 1, WideForward<float>, ffn_outer_wide<float>)
KERNEL(ffn_outer_wide_bf16, 256, 1, WideForward<bf16>, ffn_outer_wide<bf16>)
KERNEL(ffn_backward_wide_f32, 128, 2, WideBackward<float>, ffn_backward_wide<float>)
KERNEL(ffn_backward_wide_bf16, 128, 2, WideBackward<bf16>, ffn_backward_wide<bf16>)
