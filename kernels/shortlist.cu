// What a loss over a sample of the items looks at: the rows of the output table and the biases of a shortlist of C
// items (the batch's targets and a sample of the catalogue), taken out of the whole before the loss and their gradients
// put back after it.
//
// gather: table[c + 1] = E[item_c], bias[c + 1] = b[item_c] + offset_c: a table of C items as item_softmax.cu and
// gbce.cu take it. The offset is what the loss adds to an item's logits, from the host: log((V - |T|) / m) for those
// that stand for V - |T| items that are no target (sampled softmax), negative infinity for those that are no negative
// (gBCE), else 0. scatter: dE[item_c] = sum over slots of d_table[c + 1], in order, and the same for biases. It assigns
// these rows; those of all other items must have been cleared, and where the table is the input embedding's too,
// embedding_tables adds to it later.
//
// A thread for eight channels of a row, blocks of 256, for the most items that there can be; those beyond C return at
// once. Both wait for memory: gather reads and writes 2 D elements an item, scatter reads 4 D slots bytes and writes
// 4 D; 12 B an item beside that. No shared memory, few registers: 4 blocks or more on a multiprocessor.
// Alternatives: sweeps that read listed rows where they are save the copy, once for 64 rows of the batch, and cost an
// address from memory for each row of each tile. Clearing by a kernel that knows the list saves writing 4 C D bytes of
// the 4 V D that the memset writes.
#include "common/run.cuh"

constexpr int THREADS = 256;

// Mirrored by src/cuda/shortlist.rs, as is the other.
template <class S> struct ShortlistGather {
    const uint32_t* count;  // C
    const uint32_t* items;  // [C] from 1
    const float* offsets;   // [C]
    const S* table;         // [V + 2, D]
    const float* bias;      // [V + 1]
    S* listed_table;        // [C + 2, D]
    float* listed_bias;     // [C + 1]
    uint32_t width;
    uint32_t unused;
};

struct ShortlistScatter {
    const uint32_t* count;
    const uint32_t* items;
    const float* d_listed_table;  // part 0 of [C + 2, D]
    const float* d_listed_bias;   // part 0 of [C + 1]
    uint64_t table_stride;        // elements from one part to the next
    uint64_t bias_stride;
    float* d_table;  // [V + 2, D]
    float* d_bias;   // [V + 1]
    uint32_t width;
    uint32_t slots;
};

// Calls use(place, item, channel) where this thread has eight channels of a listed item.
template <class Use>
__device__ inline void for_listed_run(const uint32_t* count, const uint32_t* items, uint32_t width, Use use) {
    const uint32_t runs = width / RUN, at = blockIdx.x * THREADS + threadIdx.x, place = at / runs;
    if (place < *count) use(place, items[place], RUN * (at % runs));
}

template <class S> __device__ void shortlist_gather(const ShortlistGather<S>& args) {
    for_listed_run(args.count, args.items, args.width, [&](uint32_t place, uint32_t item, uint32_t channel) {
        const size_t from = static_cast<size_t>(item) * args.width, to = static_cast<size_t>(place + 1) * args.width;
        store_run(args.listed_table + to + channel, load_run(args.table + from + channel));
        if (channel == 0) args.listed_bias[place + 1] = args.bias[item] + args.offsets[place];
    });
}

__device__ inline void shortlist_scatter(const ShortlistScatter& args) {
    for_listed_run(args.count, args.items, args.width, [&](uint32_t place, uint32_t item, uint32_t channel) {
        const size_t from = static_cast<size_t>(place + 1) * args.width + channel;
        Run sum = load_run(args.d_listed_table + from);
        for (uint32_t slot = 1; slot < args.slots; ++slot) sum += load_run(args.d_listed_table + slot * args.table_stride + from);
        store_run(args.d_table + static_cast<size_t>(item) * args.width + channel, sum);
        if (channel > 0) return;
        float bias = args.d_listed_bias[place + 1];
        for (uint32_t slot = 1; slot < args.slots; ++slot) bias += args.d_listed_bias[slot * args.bias_stride + place + 1];
        args.d_bias[item] = bias;
    });
}

KERNEL(shortlist_gather_f32, 256, 4, ShortlistGather<float>, shortlist_gather<float>)
KERNEL(shortlist_gather_bf16, 256, 4, ShortlistGather<bf16>, shortlist_gather<bf16>)
KERNEL(shortlist_scatter_f32, 256, 4, ShortlistScatter, shortlist_scatter)
