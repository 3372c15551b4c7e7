// The prediction head up to the product with the items: u = x W^T + b, y = LN(gelu(u)), always the exact GELU.
//
// Forward:  from x [P, D]: u, the normalised rows and y, [P, D] each, and 1 / sqrt(var + epsilon), [P].
// Backward: from dy [P, D]: du = LN'(dy) gelu'(u) and dx = du W, [P, D] each; assigns its part of the gradients of
//           gamma and beta. The gradients of W and b are those of linear.cu.
//
// Up to D = 256 one launch each way: a block of 4 warps has 64 rows and all columns, as 2 x 2 parts. The forward
// product goes to shared memory in float, and from there groups of D / 8 lanes take whole rows, so that the norm
// is its epilogue and all memory is accessed in contiguous 16 bytes. (A warp that keeps 16 whole rows in its
// accumulators needs no shared memory for the norm, but reads all of W for 16 rows instead of half of it for 32,
// and moves pairs, not 16 bytes.) The backward pass makes du by the same groups of lanes, keeps its 64 rows in
// shared memory, and multiplies them by chunks of W.
// Above D = 256 two launches each way: the product by tiles of 128 x 128, and rows by whole warps.
//
// Launch: forward one block for 64 rows; backward one block a slot (slots.cuh), which takes 64 rows at a time;
// above D = 256 a grid of tiles (columns along x), and one block for 4 rows or a slot.
// Bytes a row from memory: forward D in, 3 D out; backward 3 D in, 2 D out; above D = 256 another D each way.
// FLOPs a row: 2 D^2 each way.
// Shared memory at D = 256: forward 66 KiB (the product in float, over the stages of the copies), 2 blocks a
// multiprocessor, backward 67 (bf16), 2, or 98 KiB (float: nearly all that a block may have on most GPUs), 1; at
// D = 128 34 KiB, 4 blocks; at D = 64 18 KiB, 6 blocks. 128 rows a block would halve the traffic of W, but P is small: 64
// rows leave enough blocks to fill the multiprocessors.
#include "common/activation.cuh"
#include "common/gemm.cuh"
#include "common/row_norm.cuh"
#include "common/slots.cuh"

struct HeadArguments {
    // P
    const uint32_t* rows;
    const void* weight;
    const float* bias;
    const float* gamma;
    const float* beta;
    const void* input;
    void* hidden;
    void* normalized;
    float* rstd;
    void* output;
    uint32_t width;
    float epsilon;
};

struct HeadBackwardArguments {
    // P
    const uint32_t* rows;
    const void* weight;
    const float* gamma;
    const void* hidden;
    const void* normalized;
    const float* rstd;
    const void* d_output;
    void* d_hidden;
    void* d_input;
    // Part 0 of the gradients of gamma and beta, and elements from one part to the next.
    float* d_gamma;
    float* d_beta;
    uint64_t d_gamma_stride;
    uint64_t d_beta_stride;
    uint32_t width;
    uint32_t slots;
};

// From u in registers to all that is kept of its row.
template <class S, class L>
__device__ inline void finish_row(const HeadArguments& args, int row, bool valid, Run (&u)[L::RUNS]) {
    const int width = args.width;
    const size_t first = static_cast<size_t>(row) * width;
    const Gelu<S> gelu;
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r)
#pragma unroll
        for (int i = 0; i < RUN; ++i) u[r].at[i] = gelu(u[r].at[i]).value;
    const float rstd = normalize<L>(u, width, args.epsilon);
    L::store(static_cast<S*>(args.normalized) + first, u, width, valid);
    if (valid && L::column(0) == 0) args.rstd[row] = rstd;
    scale_and_shift<L>(u, width, args.gamma, args.beta);
    L::store(static_cast<S*>(args.output) + first, u, width, valid);
}

// From dy in memory to du, in memory and in registers; zeros where the row does not exist.
template <class S, class L>
__device__ inline void row_backward(const HeadBackwardArguments& args, int row, bool valid, NormSums<L>& sums,
                                    Run (&du)[L::RUNS]) {
    const int width = args.width;
    const size_t first = static_cast<size_t>(row) * width;
    Run other[L::RUNS];
    L::load(du, static_cast<const S*>(args.d_output) + first, width, valid);
    L::load(other, static_cast<const S*>(args.normalized) + first, width, valid);
    normalize_backward<L>(du, other, width, args.gamma, valid ? args.rstd[row] : 0.0f, sums);
    L::load(other, static_cast<const S*>(args.hidden) + first, width, valid);
    const Gelu<S> gelu;
#pragma unroll
    for (int r = 0; r < L::RUNS; ++r)
#pragma unroll
        for (int i = 0; i < RUN; ++i) du[r].at[i] *= gelu(other[r].at[i]).slope;
    L::store(static_cast<S*>(args.d_hidden) + first, du, width, valid);
}

template <class L>
__device__ inline void assign_norm(const HeadBackwardArguments& args, const NormSums<L>& sums,
                                   NormReduction<L>& shared) {
    assign_norm_sums<L>(sums, shared, args.width, args.d_gamma + blockIdx.x * args.d_gamma_stride,
                        args.d_beta + blockIdx.x * args.d_beta_stride);
}

// Up to D = COLUMNS: 64 rows a block.
template <class S_, int COLUMNS_> struct Fused {
    static constexpr int COLUMNS = COLUMNS_, ROWS = 64;
    using S = S_;
    using B = Blocking<S, 2, 2, 2, COLUMNS / 16>;
    using L = Lanes<COLUMNS / RUN, 1, B::THREADS>;

    union Forward {
        Stages<B, AcrossOutputs, 2> stages;
        Staging<ROWS, COLUMNS> product;
    };
    struct Backward {
        Tile<S, ROWS, COLUMNS> d_hidden;
        union {
            RightStages<B, AcrossInputs, 2> stages;
            Patches<B> patches;
            NormReduction<L> norm;
        };
    };
};

template <class F> __device__ inline void head_forward(const HeadArguments& args) {
    using S = typename F::S;
    using B = typename F::B;
    using L = typename F::L;
    auto& shared = *reinterpret_cast<typename F::Forward*>(DYNAMIC_SHARED());
    const int rows = *args.rows, width = args.width, first = blockIdx.x * F::ROWS;
    if (first >= rows) return;

    const Rows<S> input{static_cast<const S*>(args.input), nullptr, rows, width};
    typename B::Sum sum;
    clear(sum);
    linear_product<B>(sum, shared.stages, input, Weight<S>{static_cast<const S*>(args.weight), width, width}, first, 0);
    stage<B>(shared.product, sum);
    __syncthreads();

    Run bias[1];
    L::load(bias, args.bias, width, true);
    for (int above = 0; above < F::ROWS; above += L::GROUPS) {
        const int i = above + L::group(), row = first + i;
        const bool valid = row < rows;
        Run u[1] = {load_run(shared.product.row(i) + L::column(0))};
        u[0] += bias[0];
        L::store(static_cast<S*>(args.hidden) + static_cast<size_t>(row) * width, u, width, valid);
        finish_row<S, L>(args, row, valid, u);
    }
}

template <class F> __device__ inline void head_backward(const HeadBackwardArguments& args) {
    using S = typename F::S;
    using B = typename F::B;
    using L = typename F::L;
    auto& shared = *reinterpret_cast<typename F::Backward*>(DYNAMIC_SHARED());
    const int width = args.width;
    const Span span = slot_span(*args.rows, args.slots, blockIdx.x, F::ROWS);
    const Weight<S> weight{static_cast<const S*>(args.weight), width, width};
    NormSums<L> sums;
    clear(sums);
    for (int first = span.first; first < span.end; first += F::ROWS) {
        for (int above = 0; above < F::ROWS; above += L::GROUPS) {
            const int i = above + L::group();
            Run du[1];
            row_backward<S, L>(args, first + i, first + i < span.end, sums, du);
            store_run(shared.d_hidden.row(i) + L::column(0), du[0]);
        }
        typename B::Sum sum;
        clear(sum);
        resident_product<B>(sum, shared.d_hidden, shared.stages, weight, width, 0);
        for_each_run<B>(sum, shared.patches, [&](int i, int j, const Run& run) {
            if (first + i < span.end && j < width)
                store_run(static_cast<S*>(args.d_input) + static_cast<size_t>(first + i) * width + j, run);
        });
        // The patches lie where the next rows' chunks of W go.
        __syncthreads();
    }
    assign_norm<L>(args, sums, shared.norm);
}

// Above D = 256: the products.
template <class B> __device__ inline void head_forward_map(const HeadArguments& args) {
    using S = typename B::S;
    using Shared = LinearTileShared<B, AcrossOutputs>;
    const int rows = *args.rows, width = args.width, row = blockIdx.y * B::ROWS;
    if (row >= rows) return;
    linear_tile<B>(*reinterpret_cast<Shared*>(DYNAMIC_SHARED()),
                   Rows<S>{static_cast<const S*>(args.input), nullptr, rows, width},
                   Weight<S>{static_cast<const S*>(args.weight), width, width}, args.bias,
                   static_cast<S*>(args.hidden), row, blockIdx.x * B::COLUMNS);
}

template <class B> __device__ inline void head_backward_map(const HeadBackwardArguments& args) {
    using S = typename B::S;
    using Shared = LinearTileShared<B, AcrossInputs>;
    const int rows = *args.rows, width = args.width, row = blockIdx.y * B::ROWS;
    if (row >= rows) return;
    linear_tile<B>(*reinterpret_cast<Shared*>(DYNAMIC_SHARED()),
                   Rows<S>{static_cast<const S*>(args.d_hidden), nullptr, rows, width},
                   Weight<S>{static_cast<const S*>(args.weight), width, width}, nullptr,
                   static_cast<S*>(args.d_input), row, blockIdx.x * B::COLUMNS);
}

// Above D = 256, up to 1,024: a warp a row.
using Wide = Lanes<WARP, 4, 128>;

template <class S> __device__ inline void head_forward_rows(const HeadArguments& args) {
    const int rows = *args.rows, width = args.width, first = blockIdx.x * Wide::GROUPS;
    if (first >= rows) return;
    const int row = first + Wide::group();
    const bool valid = row < rows;
    Run u[Wide::RUNS];
    Wide::load(u, static_cast<const S*>(args.hidden) + static_cast<size_t>(row) * width, width, valid);
    finish_row<S, Wide>(args, row, valid, u);
}

template <class S> __device__ inline void head_backward_rows(const HeadBackwardArguments& args) {
    STATIC_SHARED(NormReduction<Wide>, reduction);
    const Span span = slot_span(*args.rows, args.slots, blockIdx.x, Wide::GROUPS);
    NormSums<Wide> sums;
    clear(sums);
    for (int first = span.first; first < span.end; first += Wide::GROUPS) {
        const int row = first + Wide::group();
        Run du[Wide::RUNS];
        row_backward<S, Wide>(args, row, row < span.end, sums, du);
    }
    assign_norm<Wide>(args, sums, reduction);
}

template <class S> using Tiles = Blocking<S, 2, 2, 4, 8>;

template <class S> using D64 = Fused<S, 64>;
template <class S> using D128 = Fused<S, 128>;
template <class S> using D256 = Fused<S, 256>;

KERNEL(head_forward_d64_f32, 128, 6, HeadArguments, head_forward<D64<float>>)
KERNEL(head_forward_d64_bf16, 128, 6, HeadArguments, head_forward<D64<bf16>>)
KERNEL(head_forward_d128_f32, 128, 3, HeadArguments, head_forward<D128<float>>)
KERNEL(head_forward_d128_bf16, 128, 4, HeadArguments, head_forward<D128<bf16>>)
KERNEL(head_forward_d256_f32, 128, 2, HeadArguments, head_forward<D256<float>>)
KERNEL(head_forward_d256_bf16, 128, 2, HeadArguments, head_forward<D256<bf16>>)
KERNEL(head_forward_map_f32, 128, 2, HeadArguments, head_forward_map<Tiles<float>>)
KERNEL(head_forward_map_bf16, 128, 2, HeadArguments, head_forward_map<Tiles<bf16>>)
KERNEL(head_forward_rows_f32, 128, 5, HeadArguments, head_forward_rows<float>)
KERNEL(head_forward_rows_bf16, 128, 5, HeadArguments, head_forward_rows<bf16>)

KERNEL(head_backward_d64_f32, 128, 4, HeadBackwardArguments, head_backward<D64<float>>)
KERNEL(head_backward_d64_bf16, 128, 4, HeadBackwardArguments, head_backward<D64<bf16>>)
KERNEL(head_backward_d128_f32, 128, 3, HeadBackwardArguments, head_backward<D128<float>>)
KERNEL(head_backward_d128_bf16, 128, 3, HeadBackwardArguments, head_backward<D128<bf16>>)
KERNEL(head_backward_d256_f32, 128, 1, HeadBackwardArguments, head_backward<D256<float>>)
KERNEL(head_backward_d256_bf16, 128, 2, HeadBackwardArguments, head_backward<D256<bf16>>)
KERNEL(head_backward_map_f32, 128, 2, HeadBackwardArguments, head_backward_map<Tiles<float>>)
KERNEL(head_backward_map_bf16, 128, 2, HeadBackwardArguments, head_backward_map<Tiles<bf16>>)
KERNEL(head_backward_rows_f32, 128, 2, HeadBackwardArguments, head_backward_rows<float>)
KERNEL(head_backward_rows_bf16, 128, 2, HeadBackwardArguments, head_backward_rows<bf16>)
