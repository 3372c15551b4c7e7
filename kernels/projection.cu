// Attention's output projection: y = LN(x + dropout(c W^T + b)) for rows c of the context [T, D], W [D, D], the
// norm only where norms stand after the sublayers; x is gathered by token. Back: d = LN'(dy) is the residual's
// gradient, dl = dropout(d) the map's output's, dc = dl W the context's. Assigned besides: the parts of the
// gradients of gamma and beta. The map's own gradients are linear.cu's.
//
// D <= 256, one launch: a block of 128 threads (256 for D > 128) keeps 64 rows (32 in float) in shared memory, multiplies
// them by W, which passes through two buffers, and ends or begins with whole rows in registers (common/tail.cuh).
// Forward: a block for every 64 rows. Backward: where there is a norm, a block for each part of its gradients, which
// walks through its share of the rows; else a block for every 64 rows.
// D > 256: the product is alone (common/wide.cuh), tail and way back are layernorm.cu's.
//
// Bytes a token in units of D elements: forward 2 read, 2 written (1 without norm); backward 2 read, 3 written (1 and 3).
// W comes from L2, D^2 elements a block: 1 to 4 elements a channel of a row. FLOPs a token: 2 D^2 each way.
// At D = 64 memory is the bound, at D = 256 tensor cores and memory are about even on an A100. Nothing here was timed:
// no GPU was at hand.
// Shared memory, registers at most, blocks a multiprocessor (A100): D <= 64: 27 KiB, 128, 4; D <= 128: 53 KiB, 168, 3;
// D <= 256: 73 KiB, 128, 2. Tiles of 128 rows would halve what L2 delivers, and leave a block of D = 256 alone on its
// multiprocessor.
#include "common/row_block.cuh"
#include "common/wide.cuh"

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

// Two weights' tiles on their way beside the rows that they are multiplied with, then the block's product.
template <class B> struct ForwardTiles {
    typename B::Held context;
    Tile<typename B::S, B::COLUMNS, B::K> weight[2];
};
template <class B> union ForwardMemory {
    ForwardTiles<B> tiles;
    typename B::Sums sums;
};

template <class B> struct BackwardTiles {
    typename B::Held d_linear;
    Tile<typename B::S, B::K, B::COLUMNS> weight[2];
};
template <class B> union BackwardMemory {
    BackwardTiles<B> tiles;
    typename B::Sums sums;
    NormReduction<typename B::Lanes> reduction;
};

// What src/cuda/projection.rs asks for; float needs a little less.
static_assert(sizeof(ForwardMemory<RowBlock<bf16, 64>>) == 27648);
static_assert(sizeof(ForwardMemory<RowBlock<bf16, 128>>) == 54272);
static_assert(sizeof(ForwardMemory<RowBlock<bf16, 256>>) == 74752);
static_assert(sizeof(ForwardMemory<RowBlock<float, 64>>) <= 27648);
static_assert(sizeof(ForwardMemory<RowBlock<float, 128>>) <= 54272);
static_assert(sizeof(ForwardMemory<RowBlock<float, 256>>) <= 74752);
static_assert(sizeof(BackwardMemory<RowBlock<bf16, 64>>) == 27648);
static_assert(sizeof(BackwardMemory<RowBlock<bf16, 128>>) == 52224);
static_assert(sizeof(BackwardMemory<RowBlock<bf16, 256>>) == 67584);
static_assert(sizeof(BackwardMemory<RowBlock<float, 64>>) <= 27648);
static_assert(sizeof(BackwardMemory<RowBlock<float, 128>>) <= 52224);
static_assert(sizeof(BackwardMemory<RowBlock<float, 256>>) <= 67584);

template <class S, int WIDTH> __device__ void projection_forward(ProjectionForward<S> args) {
    using B = RowBlock<S, WIDTH>;
    auto& memory = *reinterpret_cast<ForwardMemory<B>*>(DYNAMIC_SHARED());
    auto& tiles = memory.tiles;
    const int width = args.tail.width, count = *args.rows, first = blockIdx.x * B::ROWS;
    if (first >= count) return;

    const Rows<S> context{args.context, nullptr, count, width}, weight{args.weight, nullptr, width, width};
    typename B::Sum sum;
    clear(sum);
    copy_rows_async<B::THREADS>(tiles.context, context, first, 0);
    pipeline<2>(
        ceil_div(width, B::K),
        [&](int c) { copy_rows_async<B::THREADS>(tiles.weight[c % 2], weight, 0, c * B::K); },
        [&](int c) {
            multiply_add<B::K>(sum, along_rows(tiles.context, B::warp_row(), c * B::K),
                               along_rows(tiles.weight[c % 2], B::warp_column()));
        });
    stage<B>(memory.sums, sum);
    __syncthreads();
    const Step step = *args.step;
    tail_forward<typename B::Lanes>(args.tail, step, {first, min(first + B::ROWS, count)}, [&](int row, int channel) {
        return load_run(memory.sums.row(row - first) + channel);
    });
}

template <class S, int WIDTH> __device__ void projection_backward(ProjectionBackward<S> args) {
    using B = RowBlock<S, WIDTH>;
    using L = typename B::Lanes;
    auto& memory = *reinterpret_cast<BackwardMemory<B>*>(DYNAMIC_SHARED());
    auto& tiles = memory.tiles;
    const int width = args.tail.width;
    const Rows<S> weight{args.weight, nullptr, width, width};
    const Span all = slot_span(*args.rows, gridDim.x, blockIdx.x, B::ROWS);
    const Step step = *args.step;
    NormSums<L> norm_sums;
    clear(norm_sums);

    for (int first = all.first; first < all.end; first += B::ROWS) {
        const Span rows = {first, min(first + B::ROWS, all.end)};
        tail_backward<L>(args.tail, step, rows, norm_sums, [&](int row, int channel, const Run& d_linear) {
            store_run(tiles.d_linear.row(row - first) + channel, d_linear);
        });
        typename B::Sum sum;
        clear(sum);
        pipeline<2>(
            ceil_div(width, B::K),
            [&](int c) { copy_rows_async<B::THREADS>(tiles.weight[c % 2], weight, c * B::K, 0); },
            [&](int c) {
                multiply_add<B::K>(sum, along_rows(tiles.d_linear, B::warp_row(), c * B::K),
                                   along_columns(tiles.weight[c % 2], 0, B::warp_column()));
            });
        stage<B>(memory.sums, sum);
        __syncthreads();
        for_each_held_run<L>(rows, width, [&](int row, int channel) {
            store_run(row_of(args.d_context, row, width) + channel, load_run(memory.sums.row(row - first) + channel));
        });
        __syncthreads();
    }
    assign_norm_part(args.tail, norm_sums, memory.reduction, blockIdx.x);
}

template <class S> __device__ void projection_forward_wide(WideForward<S> args) { wide_forward(args); }
template <class S> __device__ void projection_backward_wide(WideBackward<S> args) { wide_backward(args); }

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

KERNEL(projection_forward_wide_f32, 128, 2, WideForward<float>, projection_forward_wide<float>)
KERNEL(projection_forward_wide_bf16, 128, 2, WideForward<bf16>, projection_forward_wide<bf16>)
KERNEL(projection_backward_wide_f32, 128, 2, WideBackward<float>, projection_backward_wide<float>)
KERNEL(projection_backward_wide_bf16, 128, 2, WideBackward<bf16>, projection_backward_wide<bf16>)
