// Linear maps of rows too wide for one block (D > 256), alone: what surrounds them is layernorm.cu's.
//
// A block makes a tile of the product, columns along x so that blocks that read the same rows run together and all but
// the first find them in L2, row tiles along y.
#pragma once
#include "activation.cuh"
#include "gemm.cuh"
#include "tail.cuh"

// output [rows, outputs] = f(input) W^T + bias, W [outputs, inputs]; without f `activation` is not read.
template <class S> struct WideForward {
    const uint32_t* rows;
    const S* input;
    const S* weight;
    const float* bias;
    S* output;
    uint32_t inputs;
    uint32_t outputs;
    uint32_t activation;
    uint32_t unused;
};

// d_input [rows, inputs] = (upstream W) f'(hidden) + residual, W [outputs, inputs]; without activation there is no
// hidden, and residual may be null, or d_input.
template <class S> struct WideBackward {
    const uint32_t* rows;
    const S* upstream;
    const S* weight;
    const S* hidden;
    const S* residual;
    S* d_input;
    uint32_t inputs;
    uint32_t outputs;
    uint32_t activation;
    uint32_t unused;
};

// Warps of 64 x 64 make tiles of 128 x 128 where rows are taken as they are.
template <class S> using WideBlock = Blocking<S, 2, 2, 4, 8>;
// Where an activation is applied to each row on its way, again for each tile of columns, tiles are 64 x 256.
template <class S> using WideActivatedBlock = Blocking<S, 2, 4, 2, 8>;

// Applies `f` in place to the packs that copy_tile_async had this thread copy.
template <class B, class F>
__device__ inline void activate_copied(Tile<typename B::S, B::ROWS, B::CHUNK>& tile, F f) {
    using S = typename B::S;
    constexpr int PACK = Pack<S>::COUNT, PACKS = B::CHUNK / PACK;
#pragma unroll
    for (int index = threadIdx.x; index < B::ROWS * PACKS; index += B::THREADS) {
        S* at = tile.row(index / PACKS) + index % PACKS * PACK;
        Pack<S> pack = load_pack(at);
#pragma unroll
        for (int i = 0; i < PACK; ++i) pack.at[i] = from_float<S>(f(to_float(pack.at[i])).value);
        store_pack(at, pack);
    }
}

template <class S> __device__ inline void wide_forward(const WideForward<S>& args) {
    using B = WideBlock<S>;
    auto& memory = *reinterpret_cast<LinearTileShared<B, AcrossOutputs>*>(DYNAMIC_SHARED());
    const int rows = *args.rows, inputs = args.inputs, outputs = args.outputs;
    const int first = blockIdx.y * B::ROWS, column = blockIdx.x * B::COLUMNS;
    if (first >= rows) return;
    linear_tile<B>(memory, Rows<S>{args.input, nullptr, rows, inputs}, Weight<S>{args.weight, outputs, inputs}, args.bias,
                   args.output, first, column);
}

template <class S> __device__ inline void wide_activated_forward(const WideForward<S>& args) {
    using B = WideActivatedBlock<S>;
    auto& memory = *reinterpret_cast<LinearTileShared<B, AcrossOutputs>*>(DYNAMIC_SHARED());
    auto& stages = memory.stages;
    const int rows = *args.rows, inputs = args.inputs, outputs = args.outputs;
    const int first = blockIdx.y * B::ROWS, column = blockIdx.x * B::COLUMNS;
    if (first >= rows) return;

    const Rows<S> input{args.input, nullptr, rows, inputs};
    const Weight<S> weight{args.weight, outputs, inputs};
    typename B::Sum sum;
    clear(sum);
    pipeline<2>(
        ceil_div(inputs, B::CHUNK),
        [&](int c) {
            copy_rows_async<B::THREADS>(stages.left[c % 2], input, first, c * B::CHUNK);
            AcrossOutputs::copy<B>(stages.right[c % 2], weight, column, c * B::CHUNK);
        },
        // What a thread copied itself is there for it before the barrier: it activates just that.
        [&](int c) { with_activation<S>(args.activation, [&](auto f) { activate_copied<B>(stages.left[c % 2], f); }); },
        [&](int c) {
            multiply_add<B::CHUNK>(sum, along_rows(stages.left[c % 2], B::warp_row()),
                                   along_rows(stages.right[c % 2], B::warp_column()));
        });

    for_each_run<B>(sum, memory.patches, [&](int i, int j, Run run) {
        if (first + i >= rows || column + j >= outputs) return;
        run += load_run(args.bias + column + j);
        store_run(row_of(args.output, first + i, outputs) + column + j, run);
    });
}

template <class S> __device__ inline void wide_backward(const WideBackward<S>& args) {
    using B = WideBlock<S>;
    auto& memory = *reinterpret_cast<LinearTileShared<B, AcrossInputs>*>(DYNAMIC_SHARED());
    const int rows = *args.rows, inputs = args.inputs, outputs = args.outputs;
    const int first = blockIdx.y * B::ROWS, column = blockIdx.x * B::COLUMNS;
    if (first >= rows) return;

    typename B::Sum sum;
    clear(sum);
    linear_product<B>(sum, memory.stages, Rows<S>{args.upstream, nullptr, rows, outputs},
                      Weight<S>{args.weight, outputs, inputs}, first, column);

    for_each_run<B>(sum, memory.patches, [&](int i, int j, Run run) {
        if (first + i >= rows || column + j >= inputs) return;
        const size_t place = static_cast<size_t>(first + i) * inputs + column + j;
        if (args.activation != NO_ACTIVATION) {
            const Run u = load_run(args.hidden + place);
            with_activation<S>(args.activation, [&](auto f) {
#pragma unroll
                for (int e = 0; e < RUN; ++e) run.at[e] *= f(u.at[e]).slope;
            });
        }
        if (args.residual != nullptr) run += load_run(args.residual + place);
        store_run(args.d_input + place, run);
    });
}
