// Weight gradients of up to four linear maps y = f(x) W^T + b at once: for the rows of each slot (slots.cuh),
//     dW = dy^T f(x), [out, in],  db = column sums of dy, [out],
// where x may be picked by an index of rows and f is an activation or nothing. Assigns its part of both, zeros
// where a slot has no rows.
//
// Launch: one block a tile of 64 x 64 or, where no map is narrower, 128 x 128 of dW and a slot of rows. Tiles of
// all maps along x, so that the blocks that read the same rows run together and all but the first find them in
// L2; slots along y. The bias is summed by the blocks of the first column of tiles, from the chunks they hold.
// Bytes a row from memory: out + in elements (of L2: (in / TILE) out + (out / TILE) in); each part is 4 bytes a
// weight. FLOPs a row: 2 out in; f is evaluated out / TILE times an input.
// Blocks have 4 warps of 32 x 32 (32 accumulators) or 64 x 64 (128 accumulators). Shared memory: three stages of
// 32 (bf16) or 16 (float) rows of both operands, 27 or 51 KiB, which the epilogue uses again: 4 or 2 blocks a
// multiprocessor, by registers. Both operands are read across their rows: ldmatrix transposes them on the way.
// 128 x 128 makes 64 FLOPs a byte of L2 traffic; 64 x 64 tiles waste nothing at D = 64, where memory is the limit
// anyway.
#include "common/activation.cuh"
#include "common/gemm.cuh"
#include "common/slots.cuh"

struct LinearMap {
    // Number of rows.
    const uint32_t* rows;
    // dy [rows, outputs], x [.., inputs], and which row of x belongs to each row of dy; null for its own.
    const void* upstream;
    const void* input;
    const uint32_t* tokens;
    // Part 0 of dW and db, and elements from one part to the next.
    float* weight;
    float* bias;
    uint64_t weight_stride;
    uint64_t bias_stride;
    uint32_t outputs;
    uint32_t inputs;
    uint32_t slots;
    // f, see activation.cuh.
    uint32_t activation;
};

constexpr int LINEAR_MAPS = 4;

// Maps that are not there have no outputs.
struct LinearArguments {
    LinearMap maps[LINEAR_MAPS];
};

constexpr int LINEAR_STAGES = 3;

// Sums of columns of dy: a thread has two neighbouring columns and every GROUPS-th row.
template <class B> struct BiasGroups {
    static constexpr int PAIRS = B::ROWS / 2, GROUPS = B::THREADS / PAIRS;
    float at[GROUPS][B::ROWS];
};

template <class B> struct LinearStages {
    Tile<typename B::S, B::CHUNK, B::ROWS> upstream[LINEAR_STAGES];
    Tile<typename B::S, B::CHUNK, B::COLUMNS> input[LINEAR_STAGES];
};

template <class B> union LinearShared {
    LinearStages<B> stages;
    Patches<B> patches;
    BiasGroups<B> groups;
};

// Finds the map that tile `tile` of the launch belongs to; `tile` becomes its number within the map. Each word is
// selected by itself: a map selected as a whole would make the compiler take the address of the arguments.
template <class B> __device__ inline LinearMap find_map(const LinearArguments& args, int& tile) {
    constexpr int WORDS = sizeof(LinearMap) / sizeof(uint32_t);
    uint32_t words[WORDS] = {};
    bool found = false;
#pragma unroll
    for (int i = 0; i < LINEAR_MAPS; ++i) {
        const LinearMap map = args.maps[i];
        const int tiles = ceil_div(map.outputs, B::ROWS) * ceil_div(map.inputs, B::COLUMNS);
        const uint32_t chosen = !found && tile < tiles ? 0xffffffffu : 0u;
        found = found || tile < tiles;
        if (!found) tile -= tiles;
        uint32_t of_map[WORDS];
        memcpy(of_map, &map, sizeof map);
#pragma unroll
        for (int k = 0; k < WORDS; ++k) words[k] |= of_map[k] & chosen;
    }
    LinearMap map;
    memcpy(&map, words, sizeof map);
    return map;
}

// Applies f to what this thread copied of a tile: it sees that before the others do, so no barrier is needed.
template <int THREADS, class F, class S, int ROWS, int COLUMNS>
__device__ inline void apply_to_own_packs(Tile<S, ROWS, COLUMNS>& tile, F f) {
    constexpr int PACK = Pack<S>::COUNT, PACKS = COLUMNS / PACK;
    for (int index = threadIdx.x; index < ROWS * PACKS; index += THREADS) {
        S* at = tile.row(index / PACKS) + index % PACKS * PACK;
        Pack<S> pack = load_pack(at);
#pragma unroll
        for (int i = 0; i < PACK; ++i) pack.at[i] = from_float<S>(f(to_float(pack.at[i])).value);
        store_pack(at, pack);
    }
}

// Adds the rows of a chunk to this thread's two columns.
template <class B, class S, int ROWS, int COLUMNS>
__device__ inline void add_rows(float (&sums)[2], const Tile<S, ROWS, COLUMNS>& tile) {
    using Groups = BiasGroups<B>;
    const int column = 2 * (threadIdx.x % Groups::PAIRS);
#pragma unroll
    for (int row = threadIdx.x / Groups::PAIRS; row < ROWS; row += Groups::GROUPS) {
        sums[0] += to_float(tile.row(row)[column]);
        sums[1] += to_float(tile.row(row)[column + 1]);
    }
}

// Adds the groups up in order. Shared memory is free before and after.
template <class B>
__device__ inline void assign_bias(const float (&sums)[2], BiasGroups<B>& groups, int outputs, float* bias) {
    using Groups = BiasGroups<B>;
    store_pair(&groups.at[threadIdx.x / Groups::PAIRS][2 * (threadIdx.x % Groups::PAIRS)], sums[0], sums[1]);
    __syncthreads();
    for (int output = threadIdx.x; output < B::ROWS && output < outputs; output += B::THREADS) {
        float sum = 0.0f;
#pragma unroll
        for (int group = 0; group < Groups::GROUPS; ++group) sum += groups.at[group][output];
        bias[output] = sum;
    }
    __syncthreads();
}

template <class B> __device__ inline void linear_gradients(const LinearArguments& args) {
    using S = typename B::S;
    LinearShared<B>& shared = *reinterpret_cast<LinearShared<B>*>(DYNAMIC_SHARED());
    LinearStages<B>& stages = shared.stages;
    int tile = blockIdx.x;
    const LinearMap map = find_map<B>(args, tile);
    const int slot = blockIdx.y, slots = map.slots, outputs = map.outputs, inputs = map.inputs;
    if (slot >= slots) return;
    const int tiles_across = ceil_div(inputs, B::COLUMNS);
    const int output = tile / tiles_across * B::ROWS, input = tile % tiles_across * B::COLUMNS;

    const Span span = slot_span(*map.rows, slots, slot, B::CHUNK);
    const Rows<S> dy{static_cast<const S*>(map.upstream), nullptr, span.end, outputs};
    const Rows<S> x{static_cast<const S*>(map.input), map.tokens, span.end, inputs};
    typename B::Sum sum;
    clear(sum);
    float bias[2] = {};
    pipeline<LINEAR_STAGES>(
        ceil_div(span.end - span.first, B::CHUNK),
        [&](int c) {
            const int stage = c % LINEAR_STAGES, row = span.first + c * B::CHUNK;
            copy_rows_async<B::THREADS>(stages.upstream[stage], dy, row, output);
            copy_rows_async<B::THREADS>(stages.input[stage], x, row, input);
        },
        [&](int c) {
            with_activation<S>(map.activation, [&](auto f) {
                apply_to_own_packs<B::THREADS>(stages.input[c % LINEAR_STAGES], f);
            });
        },
        [&](int c) {
            const auto& upstream = stages.upstream[c % LINEAR_STAGES];
            multiply_add<B::CHUNK>(sum, along_columns(upstream, 0, B::warp_row()),
                                   along_columns(stages.input[c % LINEAR_STAGES], 0, B::warp_column()));
            if (input == 0) add_rows<B>(bias, upstream);
        });

    if (input == 0) assign_bias<B>(bias, shared.groups, outputs - output, map.bias + slot * map.bias_stride + output);
    float* weight = map.weight + slot * map.weight_stride;
    for_each_run<B>(sum, shared.patches, [&](int i, int j, const Run& run) {
        if (output + i < outputs && input + j < inputs)
            store_run(weight + static_cast<size_t>(output + i) * inputs + input + j, run);
    });
}

template <class S> using Narrow = Blocking<S, 2, 2, 2, 4>;
template <class S> using Wide = Blocking<S, 2, 2, 4, 8>;

KERNEL(linear_gradients_d64_f32, 128, 4, LinearArguments, linear_gradients<Narrow<float>>)
KERNEL(linear_gradients_d64_bf16, 128, 4, LinearArguments, linear_gradients<Narrow<bf16>>)
KERNEL(linear_gradients_wide_f32, 128, 2, LinearArguments, linear_gradients<Wide<float>>)
KERNEL(linear_gradients_wide_bf16, 128, 2, LinearArguments, linear_gradients<Wide<bf16>>)
