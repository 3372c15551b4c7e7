// Layer norm of whole rows: n = (x - mean(x)) / sqrt(var(x) + epsilon), y = gamma n + beta, and back:
// dx = rstd (g - mean(g) - n mean(g n)) with g = gamma dy, dgamma = sum of dy n, dbeta = sum of dy over the rows.
//
// Where norms stand before their sublayers, and, since a row wider than 256 is no epilogue of a matrix product,
// for the ends of wide sublayers: forward also adds a bias, drops and adds a residual; backward also adds a
// gradient that took another way, row by row or scattered, and drops (see common/tail.cuh).
//
// Launch: a row of up to 64, 128 or 256 channels is held by 8, 16 or 32 lanes, of up to 512 or 1,024 by a warp with 2 or 4
// runs a lane; 16 bytes an access. Blocks have 256 threads, 128 at 1,024. Forward: a block for every four rows (two in
// float, one from 512 on) a group of lanes. Backward: a block for each part of the gradients of gamma and beta, which it
// assigns, zeros included; it walks through its share of the rows with its sums in registers, and its groups add
// them up in order through shared memory (at most 32 KiB). Without a norm (wide rows that are only dropped): a block for
// every GROUPS rows.
//
// Bytes a row in units of D elements: forward 1 read, 2 written, 1 more read with a residual; backward 2 read, 1
// written, 1 more for each of residual and d_linear. About 10 and 15 FLOPs a channel: bound by memory, which is kept busy
// by rows fetched ahead of their use, 64 bytes a lane. Registers: at most 64 forward up to 512 channels, so 4 blocks a
// multiprocessor, 128 backward, 2 blocks; 168 at 1,024, 3 small blocks. A block a row was considered: at these widths it
// spends its time in barriers. Nothing here was timed: no GPU was at hand.
#include "common/tail.cuh"

template <class S> struct LayernormForward {
    const uint32_t* rows;
    const Step* step;
    const S* input;  // [rows, D]
    TailForward<S> tail;
};

template <class S> struct LayernormBackward {
    const uint32_t* rows;
    const Step* step;
    TailBackward<S> tail;
};

// Threads of a block for rows of up to WIDTH channels.
template <int WIDTH> constexpr int ROW_THREADS = WIDTH < 1024 ? 256 : 128;

template <class S, int WIDTH> __device__ void layernorm_forward(LayernormForward<S> args) {
    using L = RowLanes<WIDTH, ROW_THREADS<WIDTH>>;
    constexpr int ROWS = L::GROUPS * ROWS_AHEAD<S, L>;
    const int rows = *args.rows, first = blockIdx.x * ROWS;
    if (first >= rows) return;
    const Step step = *args.step;
    tail_forward<L>(args.tail, step, {first, min(first + ROWS, rows)}, [&](int row, int channel) {
        return load_run(row_of(args.input, row, args.tail.width) + channel);
    });
}

template <class S, int WIDTH> __device__ void layernorm_backward(LayernormBackward<S> args) {
    using L = RowLanes<WIDTH, ROW_THREADS<WIDTH>>;
    STATIC_SHARED(NormReduction<L>, reduction);
    const Span rows = slot_span(*args.rows, gridDim.x, blockIdx.x, L::GROUPS);
    const Step step = *args.step;
    NormSums<L> sums;
    clear(sums);
    tail_backward<L>(args.tail, step, rows, sums, [](int, int, const Run&) {});
    assign_norm_part(args.tail, sums, reduction, blockIdx.x);
}

KERNEL(layernorm_forward_d64_f32, 256, 4, LayernormForward<float>, (layernorm_forward<float, 64>))
KERNEL(layernorm_forward_d128_f32, 256, 4, LayernormForward<float>, (layernorm_forward<float, 128>))
KERNEL(layernorm_forward_d256_f32, 256, 4, LayernormForward<float>, (layernorm_forward<float, 256>))
KERNEL(layernorm_forward_d512_f32, 256, 3, LayernormForward<float>, (layernorm_forward<float, 512>))
KERNEL(layernorm_forward_d1024_f32, 128, 4, LayernormForward<float>, (layernorm_forward<float, 1024>))
KERNEL(layernorm_forward_d64_bf16, 256, 4, LayernormForward<bf16>, (layernorm_forward<bf16, 64>))
KERNEL(layernorm_forward_d128_bf16, 256, 4, LayernormForward<bf16>, (layernorm_forward<bf16, 128>))
KERNEL(layernorm_forward_d256_bf16, 256, 4, LayernormForward<bf16>, (layernorm_forward<bf16, 256>))
KERNEL(layernorm_forward_d512_bf16, 256, 3, LayernormForward<bf16>, (layernorm_forward<bf16, 512>))
KERNEL(layernorm_forward_d1024_bf16, 128, 4, LayernormForward<bf16>, (layernorm_forward<bf16, 1024>))

KERNEL(layernorm_backward_d64_f32, 256, 2, LayernormBackward<float>, (layernorm_backward<float, 64>))
KERNEL(layernorm_backward_d128_f32, 256, 2, LayernormBackward<float>, (layernorm_backward<float, 128>))
KERNEL(layernorm_backward_d256_f32, 256, 2, LayernormBackward<float>, (layernorm_backward<float, 256>))
KERNEL(layernorm_backward_d512_f32, 256, 2, LayernormBackward<float>, (layernorm_backward<float, 512>))
KERNEL(layernorm_backward_d1024_f32, 128, 3, LayernormBackward<float>, (layernorm_backward<float, 1024>))
KERNEL(layernorm_backward_d64_bf16, 256, 2, LayernormBackward<bf16>, (layernorm_backward<bf16, 64>))
KERNEL(layernorm_backward_d128_bf16, 256, 2, LayernormBackward<bf16>, (layernorm_backward<bf16, 128>))
KERNEL(layernorm_backward_d256_bf16, 256, 2, LayernormBackward<bf16>, (layernorm_backward<bf16, 256>))
KERNEL(layernorm_backward_d512_bf16, 256, 2, LayernormBackward<bf16>, (layernorm_backward<bf16, 512>))
KERNEL(layernorm_backward_d1024_bf16, 128, 3, LayernormBackward<bf16>, (layernorm_backward<bf16, 1024>))
