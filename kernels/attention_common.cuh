// What both directions of attention share: arguments, the place of a block, and dropout of the weights.
#pragma once
#include "common/fragment.cuh"
#include "common/philox.cuh"

// Mirrored by src/cuda/attention.rs.
struct Attention {
    const Step* step;
    const uint32_t* cu_seqlens;  // [B + 1] where each sequence begins among the tokens
    const uint32_t* cu_queries;  // [B + 1] where it begins among the queries
    const uint32_t* tokens;      // [Tq] token of each query; null: query i is token i
    uint32_t heads;              // H
    uint32_t head_width;         // K, a multiple of 8
    uint32_t layer;
    Rate rate;
    float scale;      // 1 / sqrt(K)
    uint32_t causal;  // 1: a query sees no key after itself
};

// Scores times this and the scale are exponents of 2.
constexpr float LOG2_E = 1.4426950408889634f;

template <class S> __device__ inline float power_of_two(float x);
template <> __device__ inline float power_of_two<float>(float x) { return exp2f(x); }
template <> __device__ inline float power_of_two<bf16>(float x) { return exp2_fast(x); }

// A head of a sequence and the rows of it that a block owns.
struct Place {
    int sequence;
    int head;
    int query, queries;  // first row among all queries, and how many the sequence has
    int key, keys;       // first row among all tokens, and how many the sequence has
    int first;           // first owned row, counted within the sequence
};

// Finds the rows of tile `index`. A sequence that begins at row c of `bounds` has the tiles from c / ROWS + its
// number on: enough for any length, at most one too many, and no tile has to know the longest sequence. All
// 32 lanes look at once: two rounds of loads up to 1,024 sequences, three up to 32,768. False where the tile
// is one too many.
template <int ROWS>
__device__ inline bool find_place(const Attention& attention, const uint32_t* bounds, int index, int head, Place& place) {
    const int sequences = attention.step->sequences;
    int sequence = 0, span = sequences;
    while (span > 1) {
        const int stride = ceil_div(span, WARP), probe = lane_index() * stride;
        const bool before = probe < span && static_cast<int>(bounds[sequence + probe] / ROWS) + sequence + probe <= index;
        const int skipped = (__popc(__ballot_sync(0xffffffffu, before)) - 1) * stride;
        sequence += skipped;
        span = min(stride, span - skipped);
    }
    if (sequences == 0) return false;
    place.sequence = sequence;
    place.head = head;
    place.query = attention.cu_queries[sequence];
    place.queries = attention.cu_queries[sequence + 1] - place.query;
    place.key = attention.cu_seqlens[sequence];
    place.keys = attention.cu_seqlens[sequence + 1] - place.key;
    const int begin = bounds[sequence], end = bounds[sequence + 1];
    place.first = (index - begin / ROWS - sequence) * ROWS;
    return place.first < end - begin;
}

// Rows of one head in a matrix that is `stride` wide: `count` of them from row `row` on, null beyond.
template <class Element> struct HeadRows {
    Element* at;
    int stride, count;
    __device__ HeadRows(Element* matrix, int row, int count, int stride, int channel)
        : at(matrix + static_cast<size_t>(row) * stride + channel), stride(stride), count(count) {}
    __device__ Element* operator()(int row) const {
        return row < count ? at + static_cast<size_t>(row) * stride : nullptr;
    }
    // The same from row `first` on.
    __device__ HeadRows from(int first) const {
        HeadRows rest = *this;
        rest.at += static_cast<size_t>(first) * stride;
        rest.count -= first;
        return rest;
    }
};

// Position of a query within its sequence, dropout's address; `query` counts from the sequence's first.
__device__ inline uint32_t query_position(const Attention& attention, const Place& place, int query) {
    if (query >= place.queries) return 0;
    const int row = place.query + query;
    return (attention.tokens == nullptr ? row : static_cast<int>(attention.tokens[row])) - place.key;
}

// How many keys, from the sequence's first on, a query at `position` sees.
__device__ inline int keys_seen(const Attention& attention, const Place& place, uint32_t position) {
    return attention.causal != 0 ? static_cast<int>(position) + 1 : place.keys;
}

// The same of the queries g and g + 8 of a warp's tile, g = lane / 4; `position` is that of query lane % 16.
__device__ inline void keys_seen(const Attention& attention, const Place& place, uint32_t position, int (&seen)[2]) {
#pragma unroll
    for (int low = 0; low < 2; ++low) {
        const uint32_t of_row = __shfl_sync(0xffffffffu, position, lane_index() / 4 + 8 * low);
        seen[low] = keys_seen(attention, place, of_row);
    }
}

// How many keys the `rows` queries that a block owns see between them: the last sees most.
__device__ inline int keys_seen_by_block(const Attention& attention, const Place& place, int rows) {
    return keys_seen(attention, place, query_position(attention, place, min(place.first + rows, place.queries) - 1));
}

// The first query of the sequence that sees key `key`; the number of queries where none does.
__device__ inline int first_query(const Attention& attention, const Place& place, int key) {
    if (attention.causal == 0) return 0;
    if (attention.tokens == nullptr) return key;
    int low = 0, high = place.queries;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (static_cast<int>(query_position(attention, place, middle)) < key) low = middle + 1;
        else high = middle;
    }
    return low;
}

// No weight for keys that a row does not see; the tile's columns are keys from `begin` on.
template <int NT>
__device__ inline void mask_columns(float (&scores)[1][NT][4], const int (&seen)[2], int begin) {
    if (min(seen[0], seen[1]) >= begin + 8 * NT) return;
    for_each_entry(scores, [&](int j, int entry, float& x) {
        if (begin + 8 * j + 2 * (lane_index() % 4) + entry % 2 >= seen[entry / 2]) x = -INFINITY;
    });
}

// Dropout of one head's weights.
struct WeightDropout {
    const Step* step;  // read each time: kept, the keys of ten rounds would fill twenty registers
    uint32_t layer, sequence_head, threshold;
    __device__ WeightDropout(const Attention& attention, const Place& place)
        : step(attention.step),
          layer(attention.layer),
          sequence_head(place.sequence * attention.heads + place.head),
          threshold(attention.rate.threshold) {}
    // Bit n: whether the weight of key 8 `block` + n is kept.
    __device__ uint32_t kept(uint32_t query, uint32_t block) const {
        const Words words = attention_dropout_block(*step, layer, sequence_head, query, block);
        uint32_t bits = 0;
#pragma unroll
        for (int n = 0; n < 8; ++n) bits |= (half_of(words, n) >= threshold ? 1u : 0u) << n;
        return bits;
    }
};

// Which weights of a warp's tile are kept, 16 queries down and KEYS keys across: a bit for each entry of this
// lane's accumulator. Each random block is made once, by lane l for query l % 16 and eight keys of every 16;
// then lanes ask each other.
template <int KEYS> struct KeptAcross {
    static_assert(KEYS % 16 == 0 && KEYS <= 64, "a byte for every 16 columns");
    uint32_t bits = 0xffffffffu;
    // `query`: position of query lane % 16; `key`: the first key, a multiple of 8.
    __device__ KeptAcross(const WeightDropout& dropout, uint32_t query, int key) {
        if (dropout.threshold == 0) return;
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        uint32_t made = 0;
#pragma unroll
        for (int i = 0; i < KEYS / 16; ++i) made |= dropout.kept(query, key / 8 + 2 * i + lane / 16) << (8 * i);
        bits = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n) {  // columns 8 (n / 2) + 2t and the next of every 16, row g + 8 (n % 2)
            const uint32_t row = __shfl_sync(0xffffffffu, made, g + 8 * (n % 2) + 16 * (n / 2));
            bits |= (row >> (2 * t) & 0x03030303u) << (2 * n);
        }
    }
    // Of the accumulator's entry [j][entry].
    __device__ bool at(int j, int entry) const { return bits >> (8 * (j / 2) + 4 * (j % 2) + entry) & 1u; }
};

// The same with 16 keys down and QUERIES queries across.
template <int QUERIES> struct KeptDown {
    static_assert(QUERIES % 16 == 0 && QUERIES <= 64, "a byte for every 16 columns");
    uint32_t bits = 0xffffffffu;
    // `positions[q]`: position of query q; `key`: the first key, a multiple of 8.
    __device__ KeptDown(const WeightDropout& dropout, const uint32_t* positions, int key) {
        if (dropout.threshold == 0) return;
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        uint32_t made = 0;
#pragma unroll
        for (int i = 0; i < QUERIES / 16; ++i)
            made |= dropout.kept(positions[16 * i + lane % 16], key / 8 + lane / 16) << (8 * i);
        bits = 0;
#pragma unroll
        for (int n = 0; n < 8; ++n) {  // column 8 (n / 4) + 2t + n % 2 of every 16, row g + 8 (n / 2 % 2)
            const uint32_t column = __shfl_sync(0xffffffffu, made, 8 * (n / 4) + 2 * t + n % 2 + 16 * (n / 2 % 2));
            bits |= (column >> g & 0x01010101u) << n;
        }
    }
    __device__ bool at(int j, int entry) const { return bits >> (8 * (j / 2) + 4 * (j % 2) + entry) & 1u; }
};
