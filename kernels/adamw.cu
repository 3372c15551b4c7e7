// Gradient norm and AdamW (Loshchilov and Hutter, ICLR 2019) over the whole arena, in chunks that belong to one
// tensor each.
//
// gradient_norm: g = sum of the parts of a chunk, in order of slots, into the gradient arena (nothing to be done
// where the gradient is there already), and each chunk's sum of squares. A block a chunk; 4 B read a parameter and
// part, 4 B written.
//
// update, with s = min(1, clip / |g|):
//     m = b1 m + (1 - b1) s g,  v = b2 v + (1 - b2) (s g)^2,
//     p = (1 - lr decay) p - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon);
// coupled (Adam): s g + decay p in place of s g, for every tensor, and nothing is taken off p.
// Each block adds the squares of all chunks and all losses up for itself, in one order, so that all come to the same
// scale and the same decision whether to skip, without another launch; blocks are few and walk over chunks, so that
// this costs little. 28 B a parameter (p, m, v read and written, g read), 2 B more where a bf16 copy is written.
//
// Launch: blocks of 256 threads; a thread holds four neighbouring elements, in 16-byte accesses. Both are bound by
// memory: 30 FLOPs or fewer for 28 bytes. No shared memory beyond 32 B, at most 64 registers: 4 blocks or more fit on a
// multiprocessor, which is 16 KiB under way for each array. The last elements of a chunk whose length is no
// multiple of four are moved one by one.
#include "common/block.cuh"
#include "common/ptx.cuh"
#include "common/step.cuh"

constexpr int THREADS = 256;
// Parts that are fetched before they are added, and updates whose operands are fetched together.
constexpr int AHEAD = 8;

// Mirrored by src/cuda/adamw.rs, as are the three structs below.
struct Chunk {
    uint64_t first;
    const float* parts;
    uint64_t stride;
    uint32_t len;
    uint32_t slots;
    uint32_t decay;
    uint32_t unused;
};

struct Outcome {
    uint32_t number;
    uint32_t skipped;
    float loss;
    float gradient_norm;
};

struct NormArguments {
    const Chunk* chunks;
    float* gradient;
    float* squares;
};

struct UpdateArguments {
    const Step* step;
    const uint32_t* rows;
    const Chunk* chunks;
    const float* squares;
    const float* losses;
    float* parameters;
    void* stored;  // of storage type S
    const float* gradient;
    float* first_moment;
    float* second_moment;
    uint32_t* halted;
    Outcome* outcomes;
    uint32_t chunk_count;
    uint32_t outcome_count;
    float clip_norm;
    float epsilon;
    float weight_decay;
    float beta1;
    float beta2;
    float mean_weight;
    float square_weight;
    uint32_t coupled;
};

// Up to four elements, the others 0.
__device__ inline Pack<float> load_some(const float* from, uint32_t count) {
    if (count >= 4) return load_pack(from);
    Pack<float> pack;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) pack.at[i] = i < count ? from[i] : 0.0f;
    return pack;
}
__device__ inline void store_some(float* to, const Pack<float>& pack, uint32_t count) {
    if (count >= 4) return store_pack(to, pack);
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i)
        if (i < count) to[i] = pack.at[i];
}

// The copy that products read; in float the parameters are that copy.
__device__ inline void store_copy(float*, const Pack<float>&, uint32_t) {}
__device__ inline void store_copy(bf16* to, const Pack<float>& pack, uint32_t count) {
    if (count >= 4) {
        *reinterpret_cast<uint2*>(to) =
            make_uint2(pack_bf16(pack.at[0], pack.at[1]), pack_bf16(pack.at[2], pack.at[3]));
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i)
        if (i < count) to[i] = from_float<bf16>(pack.at[i]);
}

// Sum over the slots of four elements.
__device__ inline Pack<float> sum_parts(const Chunk& chunk, uint32_t element) {
    const uint32_t count = chunk.len - element;
    Pack<float> sum = load_some(chunk.parts + element, count);
    for (uint32_t slot = 1; slot < chunk.slots; slot += AHEAD) {
        Pack<float> part[AHEAD];
#pragma unroll
        for (uint32_t a = 0; a < AHEAD; ++a)
            if (slot + a < chunk.slots)
                part[a] = load_some(chunk.parts + (slot + a) * chunk.stride + element, count);
#pragma unroll
        for (uint32_t a = 0; a < AHEAD; ++a)
            if (slot + a < chunk.slots)
#pragma unroll
                for (int i = 0; i < 4; ++i) sum.at[i] += part[a].at[i];
    }
    return sum;
}

__device__ inline void norm_of_chunk(const NormArguments& args) {
    const Chunk chunk = args.chunks[blockIdx.x];
    float* gradient = args.gradient + chunk.first;
    float squares = 0.0f;
#pragma unroll 4
    for (uint32_t element = 4 * threadIdx.x; element < chunk.len; element += 4 * THREADS) {
        const uint32_t count = chunk.len - element;
        Pack<float> sum;
        if (chunk.parts == nullptr) {
            sum = load_some(gradient + element, count);
        } else {
            sum = sum_parts(chunk, element);
            store_some(gradient + element, sum, count);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) squares = fmaf(sum.at[i], sum.at[i], squares);
    }
    squares = block_sum<THREADS>(squares);
    if (threadIdx.x == 0) args.squares[blockIdx.x] = squares;
}

// Sum of a list, the same in every block.
__device__ inline float list_sum(const float* list, uint32_t count) {
    float sum = 0.0f;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) sum += list[i];
    return block_sum<THREADS>(sum);
}

__device__ inline bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

// What all elements of a step share.
struct Factors {
    float learning_rate;
    float scale;
    float mean_correction;
    float square_correction;
};

template <class S>
__device__ inline void update_chunk(const UpdateArguments& args, const Chunk& chunk, const Factors& factors) {
    const bool coupled = args.coupled != 0;
    const float added = coupled ? args.weight_decay : 0.0f;
    const float keep = 1.0f - factors.learning_rate * (!coupled && chunk.decay != 0 ? args.weight_decay : 0.0f);
#pragma unroll 2
    for (uint32_t element = 4 * threadIdx.x; element < chunk.len; element += 4 * THREADS) {
        const uint32_t count = chunk.len - element;
        const uint64_t at = chunk.first + element;
        Pack<float> p = load_some(args.parameters + at, count);
        Pack<float> m = load_some(args.first_moment + at, count);
        Pack<float> v = load_some(args.second_moment + at, count);
        const Pack<float> gradient = load_some(args.gradient + at, count);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float g = gradient.at[i] * factors.scale + added * p.at[i];
            m.at[i] = args.beta1 * m.at[i] + args.mean_weight * g;
            v.at[i] = args.beta2 * v.at[i] + args.square_weight * (g * g);
            const float denominator = sqrtf(v.at[i] * factors.square_correction) + args.epsilon;
            p.at[i] = keep * p.at[i] - factors.learning_rate * (m.at[i] * factors.mean_correction) / denominator;
        }
        store_some(args.parameters + at, p, count);
        store_some(args.first_moment + at, m, count);
        store_some(args.second_moment + at, v, count);
        store_copy(static_cast<S*>(args.stored) + at, p, count);
    }
}

template <class S> __device__ inline void update(const UpdateArguments& args) {
    const Step& step = *args.step;
    const uint32_t rows = *args.rows;
    STATIC_SHARED(uint32_t, halted);
    // Whoever finds the flag that the first block sets in this very launch comes to the same decision by itself. The
    // sums below have barriers.
    if (threadIdx.x == 0) halted = atomicOr(args.halted, 0u);
    const float norm = sqrtf(list_sum(args.squares, args.chunk_count));
    const float loss = list_sum(args.losses, rows) / static_cast<float>(max(rows, 1u));
    const bool skip = halted != 0 || !is_finite(norm) || !is_finite(loss);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        if (skip) atomicOr(args.halted, 1u);
        args.outcomes[step.number % args.outcome_count] = {step.number, skip, loss, norm};
    }
    if (skip) return;
    const float scale = norm > args.clip_norm ? args.clip_norm / norm : 1.0f;
    const Factors factors = {step.learning_rate, scale, step.mean_correction, step.square_correction};
    for (uint32_t index = blockIdx.x; index < args.chunk_count; index += gridDim.x)
        update_chunk<S>(args, args.chunks[index], factors);
}

KERNEL(gradient_norm_f32, 256, 4, NormArguments, norm_of_chunk)
KERNEL(adamw_update_f32, 256, 4, UpdateArguments, update<float>)
KERNEL(adamw_update_bf16, 256, 4, UpdateArguments, update<bf16>)
