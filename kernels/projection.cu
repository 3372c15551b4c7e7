// Attention's output projection: y = LN(x + dropout(c W^T + b)) for rows c of the context [T, D], W [D, D], the
// norm only where norms stand after the sublayers; x is gathered by token. Back: d = LN'(dy) is the residual's
// gradient, dl = dropout(d) the map's output's, dc = dl W the context's. Assigned besides: the parts of the
// gradients of gamma and beta. The map's own gradients are linear.cu's.
//
// D <= 256, one launch: a block of 128 threads (256 for D > 128) keeps M = 64 rows (32 in float), multiplies them by W,
// which passes through two buffers of shared memory, and ends or begins with whole rows in registers
// (common/tail.cuh). Forward: a block for every M rows. Backward: where there is a norm, a block for each part of its
// gradients, which walks through its share of the rows; else a block for every M rows.
// D > 256: the product alone is `wide` below, tail and way back are layernorm.cu's.
//
// Bytes a token in units of D elements: forward 2 read, 2 written (1 without norm); backward 2 read, 3 written (1 and 3).
// W comes from L2 once a block: D / M elements a channel of a row, 1 to 4 in bf16. FLOPs a token: 2 D^2 each way.
// At D = 64 memory is the bound, at D = 256 tensor cores and memory are even on an A100.
// Shared memory, registers, blocks a multiprocessor (A100): D <= 64 28 KiB, 128 registers, 4; D <= 128 53 KiB, 3;
// D <= 256 73 KiB, 2. Tiles of 128 rows would halve what L2 delivers and leave one block of D = 256 alone on its
// multiprocessor.
#include "common/row_block.cuh"

template <class S> struct ProjectionForward {
    const uint32_t* rows;
    const Step* step;
    const S* context;  // [rows, D]
    const S* weight;   // [D, D]
    TailForward<S> tail;
};

template <class S> struct ProjectionBackward {
    const uint32_t* rows;
    const Step* step;
    const S* weight;  // [D, D]
    S* d_context;     // [rows, D]
    TailBackward<S> tail;
};

template <class B, class S> struct ForwardTiles {
    typename B::Rows context;
    Tile<S, B::WIDTH, B::K> weight[2];
};
template <class B, class S> union ForwardMemory {
    ForwardTiles<B, S> tiles;
    FloatRows<B> sums;
};

template <class B, class S> struct BackwardTiles {
    typename B::Rows d_linear;
    Tile<S, B::K, B::WIDTH> weight[2];
};
template <class B, class S> union BackwardMemory {
    BackwardTiles<B, S> tiles;
    FloatRows<B> sums;
    NormReduction<typename B::L> reduction;
};

template <class S, int WIDTH> __device__ void projection_forward(ProjectionForward<S> args) {
    using B = RowBlock<S, WIDTH>;
    auto& memory = *reinterpret_cast<ForwardMemory<B, S>*>(DYNAMIC_SHARED());
    auto& tiles = memory.tiles;
    const int width = args.tail.width;
    const uint32_t count = *args.rows, first = blockIdx.x * B::M;
    if (first >= count) return;
    const RowRange rows = {first, min(first + B::M, count)};

    auto start = [&](int index) {
        const int k = index * B::K;
        copy_tile_async<B::THREADS>(tiles.weight[index % 2], width - k, [&](int row) {
            return row < width ? row_of(args.weight, row, width) + k : nullptr;
        });
    };
    float sum[B::MT][B::NT][4];
    clear(sum);
    start_rows<B>(tiles.context, args.context, rows, width);
    start(0);
    pipeline(ceil_div(width, B::K), start, [&](int index) {
        multiply_add<B::K>(sum, along_rows(tiles.context, warp_row<B>(), index * B::K),
                           along_rows(tiles.weight[index % 2], warp_column<B, B::NT>()));
    });

    __syncthreads();
    store_sums<B>(memory.sums, sum);
    __syncthreads();
    const Step step = *args.step;
    tail_forward<typename B::L>(args.tail, step, rows, [&](uint32_t row, int channel) {
        return load_run(memory.sums.row(row - first) + channel);
    });
}

template <class S, int WIDTH> __device__ void projection_backward(ProjectionBackward<S> args) {
    using B = RowBlock<S, WIDTH>;
    using L = typename B::L;
    auto& memory = *reinterpret_cast<BackwardMemory<B, S>*>(DYNAMIC_SHARED());
    auto& tiles = memory.tiles;
    const int width = args.tail.width;
    const RowRange all = part_of_rows(*args.rows, gridDim.x, blockIdx.x, B::M);
    const Step step = *args.step;
    NormSums<L> norm_sums;
    clear(norm_sums);

    for (uint32_t first = all.begin; first < all.end; first += B::M) {
        const RowRange rows = {first, min(first + B::M, all.end)};
        auto start = [&](int index) {
            const int k = index * B::K;
            copy_tile_async<B::THREADS>(tiles.weight[index % 2], width, [&](int row) {
                return k + row < width ? row_of(args.weight, k + row, width) : nullptr;
            });
        };
        start(0);
        tail_backward<L>(args.tail, step, rows, norm_sums, [&](uint32_t row, int channel, const Run& d_linear) {
            store_run(tiles.d_linear.row(row - first) + channel, d_linear);
        });
        float sum[B::MT][B::NT][4];
        clear(sum);
        pipeline(ceil_div(width, B::K), start, [&](int index) {
            multiply_add<B::K>(sum, along_rows(tiles.d_linear, warp_row<B>(), index * B::K),
                               along_columns(tiles.weight[index % 2], 0, warp_column<B, B::NT>()));
        });

        __syncthreads();
        store_sums<B>(memory.sums, sum);
        __syncthreads();
        for (uint32_t row = first + L::group(); row < rows.end; row += L::GROUPS)
            if (L::column(0) < width)
                store_run(row_of(args.d_context, row, width) + L::column(0),
                          load_run(memory.sums.row(row - first) + L::column(0)));
        __syncthreads();
    }
    assign_norm_part(args.tail, norm_sums, memory.reduction, blockIdx.x);
}

KERNEL(projection_forward_d64_f32, 128, 4, ProjectionForward<float>, (projection_forward<float, 64>))
KERNEL(projection_forward_d128_f32, 128, 3, ProjectionForward<float>, (projection_forward<float, 128>))
KERNEL(projection_forward_d256_f32, 256, 2, ProjectionForward<float>, (projection_forward<float, 256>))
KERNEL(projection_forward_d64_bf16, 128, 4, ProjectionForward<bf16>, (projection_forward<bf16, 64>))
KERNEL(projection_forward_d128_bf16, 128, 3, ProjectionForward<bf16>, (projection_forward<bf16, 128>))
KERNEL(projection_forward_d256_bf16, 256, 2, ProjectionForward<bf16>, (projection_forward<bf16, 256>))

KERNEL(projection_backward_d64_f32, 128, 4, ProjectionBackward<float>, (projection_backward<float, 64>))
KERNEL(projection_backward_d128_f32, 128, 3, ProjectionBackward<float>, (projection_backward<float, 128>))
KERNEL(projection_backward_d256_f32, 256, 2, ProjectionBackward<float>, (projection_backward<float, 256>))
KERNEL(projection_backward_d64_bf16, 128, 4, ProjectionBackward<bf16>, (projection_backward<bf16, 64>))
KERNEL(projection_backward_d128_bf16, 128, 3, ProjectionBackward<bf16>, (projection_backward<bf16, 128>))
KERNEL(projection_backward_d256_bf16, 256, 2, ProjectionBackward<bf16>, (projection_backward<bf16, 256>))
