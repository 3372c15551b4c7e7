// Queries where they are read, keys and values everywhere.
//
// Forward:  q = x[tokens] Wq^T + bq, [Tq, D];  kv = x Wkv^T + bkv, [T, 2D].
// Backward: dx = dq[rows] Wq + dkv Wkv + residual[rows], [T, D]; a token without a row gets nothing of dq and of
//           the residual. The gradients of weights and biases are those of linear.cu.
//
// Launch: one block a tile of 128 rows and 64 (D <= 64) or 128 columns, columns along x so that blocks that read
// the same rows run together and all but the first find them in L2. Forward: x covers the column tiles of q and
// then those of kv, y the row tiles; backward: x the tiles of D, y those of T.
// Bytes a token from memory: forward reads D and writes 3D elements, backward reads 4D and writes D.
// FLOPs a token: 6 D^2 each way.
// Blocks have 4 warps: of 32 x 64 elements (64 accumulators, at most 168 registers, 3 blocks) or 64 x 64 (128
// accumulators, at most 255 registers, 2 blocks). Shared memory: two stages of 64 bytes by 192 or 256 rows, 30 or
// 40 KiB, which the epilogue uses again. 128 x 128 makes 64 FLOPs a byte of L2 traffic, which feeds the tensor
// cores of an A100; at D = 64 narrower tiles waste no columns and leave more blocks to hide latency. Three stages
// would cost the third block.
#include "common/gemm.cuh"

struct QkvArguments {
    // Sizes: T and Tq.
    const uint32_t* tokens;
    const uint32_t* queries;
    // Token of each query row (forward) or row of each token (backward); null where row i is token i.
    const uint32_t* index;
    const void* query_weight;
    const float* query_bias;
    const void* key_value_weight;
    const float* key_value_bias;
    // Forward reads x and writes q and kv; backward reads q, kv and, unless null, the residual's gradient, and
    // writes x.
    void* x;
    void* q;
    void* kv;
    const void* residual;
    uint32_t width;
    uint32_t unused;
};

template <class B> __device__ inline void qkv_forward(const QkvArguments& args) {
    using S = typename B::S;
    using Shared = LinearTileShared<B, AcrossOutputs>;
    Shared& shared = *reinterpret_cast<Shared*>(DYNAMIC_SHARED());
    const int width = args.width;
    const int tile = blockIdx.x, query_tiles = ceil_div(width, B::COLUMNS);
    const bool query = tile < query_tiles;
    const int outputs = query ? width : 2 * width;
    const int column = (query ? tile : tile - query_tiles) * B::COLUMNS;
    const int rows = query ? *args.queries : *args.tokens;
    const int row = blockIdx.y * B::ROWS;
    if (row >= rows) return;

    const Rows<S> input{static_cast<const S*>(args.x), query ? args.index : nullptr, rows, width};
    const void* weight_at = query ? args.query_weight : args.key_value_weight;
    const Weight<S> weight{static_cast<const S*>(weight_at), outputs, width};
    const float* bias = query ? args.query_bias : args.key_value_bias;
    linear_tile<B>(shared, input, weight, bias, static_cast<S*>(query ? args.q : args.kv), row, column);
}

template <class B> __device__ inline void qkv_backward(const QkvArguments& args) {
    using S = typename B::S;
    using Shared = LinearTileShared<B, AcrossInputs>;
    Shared& shared = *reinterpret_cast<Shared*>(DYNAMIC_SHARED());
    const int width = args.width;
    const int tokens = *args.tokens;
    const int row = blockIdx.y * B::ROWS, column = blockIdx.x * B::COLUMNS;
    if (row >= tokens) return;

    const int key_value_chunks = ceil_div(2 * width, B::CHUNK), query_chunks = ceil_div(width, B::CHUNK);
    typename B::Sum sum;
    clear(sum);
    product<B>(sum, shared.stages, key_value_chunks + query_chunks, [&](int c, auto& left, auto& right) {
        const bool query = c >= key_value_chunks;
        const int k = (query ? c - key_value_chunks : c) * B::CHUNK;
        const int outputs = query ? width : 2 * width;
        const void* gradient = query ? args.q : args.kv;
        const void* weight = query ? args.query_weight : args.key_value_weight;
        const uint32_t* index = query ? args.index : nullptr;
        copy_rows_async<B::THREADS>(left, Rows<S>{static_cast<const S*>(gradient), index, tokens, outputs}, row, k);
        AcrossInputs::copy<B>(right, Weight<S>{static_cast<const S*>(weight), outputs, width}, column, k);
    });

    const Rows<S> residual{static_cast<const S*>(args.residual), args.index, tokens, width};
    S* d_x = static_cast<S*>(args.x);
    for_each_run<B>(sum, shared.patches, [&](int i, int j, Run run) {
        if (row + i >= tokens || column + j >= width) return;
        const S* added = residual.at == nullptr ? nullptr : residual.row(row + i);
        if (added != nullptr) run += load_run(added + column + j);
        store_run(d_x + static_cast<size_t>(row + i) * width + column + j, run);
    });
}

template <class S> using Narrow = Blocking<S, 4, 1, 2, 8>;
template <class S> using Wide = Blocking<S, 2, 2, 4, 8>;

KERNEL(qkv_forward_d64_f32, 128, 3, QkvArguments, qkv_forward<Narrow<float>>)
KERNEL(qkv_forward_d64_bf16, 128, 3, QkvArguments, qkv_forward<Narrow<bf16>>)
KERNEL(qkv_forward_wide_f32, 128, 2, QkvArguments, qkv_forward<Wide<float>>)
KERNEL(qkv_forward_wide_bf16, 128, 2, QkvArguments, qkv_forward<Wide<bf16>>)
KERNEL(qkv_backward_d64_f32, 128, 3, QkvArguments, qkv_backward<Narrow<float>>)
KERNEL(qkv_backward_d64_bf16, 128, 3, QkvArguments, qkv_backward<Narrow<bf16>>)
KERNEL(qkv_backward_wide_f32, 128, 2, QkvArguments, qkv_backward<Wide<float>>)
KERNEL(qkv_backward_wide_bf16, 128, 2, QkvArguments, qkv_backward<Wide<bf16>>)
