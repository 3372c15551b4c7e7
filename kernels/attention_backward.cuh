// The backward pass: see attention.cu.
#pragma once
#include "attention_common.cuh"

template <class S> struct AttentionBackward {
    Attention attention;
    const S* q;                // [Tq, D]
    const S* kv;               // [T, 2D]
    const float* log_sum_exp;  // [Tq, H] to base 2
    const S* context;          // [Tq, D]
    const S* d_context;        // [Tq, D]
    S* d_q;                    // [Tq, D]
    S* d_kv;                   // [T, 2D]
    uint32_t key_blocks;       // tiles of keys; those of queries follow
    uint32_t unused;
};

// A block owns 16 rows a warp, of keys or of queries, and goes through the others in steps.
// BYTES of shared memory is what a launch has to give it.
template <class Element, int WIDTH, int WARP_COUNT, int OTHERS, int BYTES> struct BackwardShape {
    using S = Element;
    static constexpr int K = WIDTH, WARPS = WARP_COUNT, THREADS = WARP * WARPS, ROWS = 16 * WARPS, STEP = OTHERS;
    using Owned = Tile<S, ROWS, K>;
    using Other = Tile<S, STEP, K>;
    using Staged = Tile<S, sizeof(S) == 4 ? ROWS : 1, STEP>;
    struct OfKeys {
        Owned k, v;
        Other q[2], d_context[2], context;
        Staged staged;
        float log_sum_exp[STEP], delta[STEP];
        uint32_t position[STEP];
    };
    struct OfQueries {
        Owned q, d_context;
        Other k[2], v[2];
        Staged staged;
        float log_sum_exp[ROWS], delta[ROWS];
    };
    static constexpr int NEEDED = sizeof(OfKeys) > sizeof(OfQueries) ? sizeof(OfKeys) : sizeof(OfQueries);
    static_assert(NEEDED == BYTES, "correct the table in attention.cu and src/cuda/attention.rs");
};

// Rows that stay in registers where there is room for them beside two accumulators.
template <int K> __device__ inline auto hold_narrow(const AlongRows<bf16>& left) {
    if constexpr (K <= 32) return hold<K>(left);
    else return left;
}
template <int K> __device__ inline AlongRows<float> hold_narrow(const AlongRows<float>& left) { return left; }

// Sum of a[i] b[i] over i < `width` by the `parts` lanes that share a row, in one order.
template <class S> __device__ inline float shared_dot(const S* a, const S* b, int width, int part, int parts) {
    constexpr int PACK = Pack<S>::COUNT;
    float sum = 0.0f;
    for (int i = PACK * part; i < width; i += PACK * parts) {
        const Pack<S> x = load_pack(a + i), y = load_pack(b + i);
#pragma unroll
        for (int n = 0; n < PACK; ++n) sum = fmaf(to_float(x.at[n]), to_float(y.at[n]), sum);
    }
    for (int offset = parts / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    return sum;
}

// Log-sum-exp of a query of the sequence; infinite, so that it weighs nothing, where there is none.
template <class S> __device__ inline float log_sum_exp_of(const AttentionBackward<S>& args, const Place& place, int query) {
    if (query >= place.queries) return INFINITY;
    return args.log_sum_exp[static_cast<size_t>(place.query + query) * args.attention.heads + place.head];
}

// What gradients of scores are multiplied by on their way to queries and keys, where a query sees `seen` keys. The
// weight of an only key is 1 whatever its score; without this, rounding of the context would leave a remainder of
// its gradient.
__device__ inline float scale_of_scores(const Attention& attention, int seen) {
    return seen > 1 ? attention.scale : 0.0f;
}

template <int NT> __device__ inline void scale_all(float (&sum)[1][NT][4], float factor) {
    for_each_entry(sum, [&](int, int, float& x) { x *= factor; });
}

// dK and dV of the rows that `place` says, from all queries of the sequence, transposed throughout: a warp's
// scores are 16 keys down and STEP queries across.
template <class Shape>
__device__ inline void backward_of_keys(const AttentionBackward<typename Shape::S>& args, const Place& place) {
    using S = typename Shape::S;
    constexpr int K = Shape::K, STEP = Shape::STEP, THREADS = Shape::THREADS, PARTS = THREADS / STEP;
    auto& shared = *reinterpret_cast<typename Shape::OfKeys*>(DYNAMIC_SHARED());
    const Attention& attention = args.attention;
    const int width = attention.head_width, d = attention.heads * width, channel = place.head * width;
    const HeadRows<const S> queries(args.q, place.query, place.queries, d, channel);
    const HeadRows<const S> contexts(args.context, place.query, place.queries, d, channel);
    const HeadRows<const S> d_contexts(args.d_context, place.query, place.queries, d, channel);
    const auto keys = HeadRows<const S>(args.kv, place.key, place.keys, 2 * d, channel).from(place.first);
    const auto values = HeadRows<const S>(args.kv + d, place.key, place.keys, 2 * d, channel).from(place.first);

    // A step's query is looked after by PARTS neighbouring threads.
    const int own = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    float log_sum_exp;
    uint32_t position;
    const auto copy_queries = [&](int begin) {
        const int stage = begin / STEP % 2;
        copy_tile_async<THREADS>(shared.q[stage], width, queries.from(begin));
        copy_tile_async<THREADS>(shared.d_context[stage], width, d_contexts.from(begin));
        copy_tile_async<THREADS>(shared.context, width, contexts.from(begin));
        copy_async_commit();
        log_sum_exp = log_sum_exp_of(args, place, begin + own);
        position = query_position(attention, place, begin + own);
    };
    copy_tile_async<THREADS>(shared.k, width, keys);
    copy_tile_async<THREADS>(shared.v, width, values);
    const int start = first_query(attention, place, place.first) / STEP * STEP;
    copy_queries(start);

    const WeightDropout dropout(attention, place);
    const int row = 16 * warp_index(), key = place.first + row;
    const bool busy = key < place.keys, causal = attention.causal != 0;
    const float factor = attention.scale * LOG2_E, survivor_scale = attention.rate.scale;
    float d_k[1][K / 8][4], d_v[1][K / 8][4];
    clear(d_k);
    clear(d_v);
    copy_async_wait<0>();
    __syncthreads();
    const auto k = hold_narrow<K>(along_rows(shared.k, row));
    const auto v = hold_narrow<K>(along_rows(shared.v, row));
    for (int begin = start; begin < place.queries; begin += STEP) {
        const int stage = begin / STEP % 2;
        const float delta = shared_dot(shared.context.row(own), shared.d_context[stage].row(own), K, part, PARTS);
        if (part == 0) {
            shared.delta[own] = delta;
            shared.log_sum_exp[own] = log_sum_exp;
            shared.position[own] = position;
        }
        __syncthreads();  // the step's numbers are there, and its contexts are read
        if (begin + STEP < place.queries) copy_queries(begin + STEP);
        if (busy) {
            float weights[1][STEP / 8][4], d_weights[1][STEP / 8][4];
            clear(weights);
            multiply_add<K>(weights, k, along_rows(shared.q[stage]));
            if (causal && key + 15 > static_cast<int>(shared.position[0]))  // a key that not every query sees
                for_each_pair(weights, [&](int own_key, int query, float& x, float& y) {
                    if (key + own_key > static_cast<int>(shared.position[query])) x = -INFINITY;
                    if (key + own_key > static_cast<int>(shared.position[query + 1])) y = -INFINITY;
                });
            for_each_pair(weights, [&](int, int query, float& x, float& y) {
                x = power_of_two<S>(fmaf(x, factor, -shared.log_sum_exp[query]));
                y = power_of_two<S>(fmaf(y, factor, -shared.log_sum_exp[query + 1]));
            });
            const KeptDown<STEP> kept(dropout, shared.position, key);
            for_each_entry(weights, [&](int j, int entry, float& weight) {
                d_weights[0][j][entry] = kept.at(j, entry) ? weight : 0.0f;
            });
            multiply_add<STEP>(d_v, as_left<STEP>(d_weights, shared.staged), along_columns(shared.d_context[stage]));
            clear(d_weights);
            multiply_add<K>(d_weights, v, along_rows(shared.d_context[stage]));
            for_each_entry(d_weights, [&](int j, int entry, float& d_weight) {
                const int query = 8 * j + 2 * (lane_index() % 4) + entry % 2;
                const float d_kept = kept.at(j, entry) ? survivor_scale * d_weight : 0.0f;
                d_weight = weights[0][j][entry] * (d_kept - shared.delta[query]);
                if (causal && shared.position[query] == 0) d_weight = 0.0f;  // its only key: see scale_of_scores
            });
            multiply_add<STEP>(d_k, as_left<STEP>(d_weights, shared.staged), along_columns(shared.q[stage]));
        }
        copy_async_wait<0>();
        __syncthreads();  // the next step is here, and all are done with this one
    }
    if (!busy) return;
    scale_all(d_k, scale_of_scores(attention, place.keys));
    scale_all(d_v, survivor_scale);
    store_rows(shared.k, d_k, width, HeadRows<S>(args.d_kv, place.key, place.keys, 2 * d, channel).from(place.first));
    store_rows(shared.v, d_v, width,
               HeadRows<S>(args.d_kv + d, place.key, place.keys, 2 * d, channel).from(place.first));
}

// dQ of the rows that `place` says, from all keys of the sequence.
template <class Shape>
__device__ inline void backward_of_queries(const AttentionBackward<typename Shape::S>& args, const Place& place) {
    using S = typename Shape::S;
    constexpr int K = Shape::K, STEP = Shape::STEP, THREADS = Shape::THREADS, PARTS = THREADS / Shape::ROWS;
    auto& shared = *reinterpret_cast<typename Shape::OfQueries*>(DYNAMIC_SHARED());
    const Attention& attention = args.attention;
    const int width = attention.head_width, d = attention.heads * width, channel = place.head * width;
    const auto queries = HeadRows<const S>(args.q, place.query, place.queries, d, channel).from(place.first);
    const auto contexts = HeadRows<const S>(args.context, place.query, place.queries, d, channel).from(place.first);
    const auto d_contexts = HeadRows<const S>(args.d_context, place.query, place.queries, d, channel).from(place.first);
    const HeadRows<const S> keys(args.kv, place.key, place.keys, 2 * d, channel);
    const HeadRows<const S> values(args.kv + d, place.key, place.keys, 2 * d, channel);
    const auto copy_keys = [&](int begin) {
        const int stage = begin / STEP % 2;
        copy_tile_async<THREADS>(shared.k[stage], width, keys.from(begin));
        copy_tile_async<THREADS>(shared.v[stage], width, values.from(begin));
        copy_async_commit();
    };
    copy_tile_async<THREADS>(shared.q, width, queries);
    copy_tile_async<THREADS>(shared.d_context, width, d_contexts);
    copy_keys(0);

    const int own = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
    const bool exists = queries(own) != nullptr;
    const float own_delta = shared_dot(contexts(own), d_contexts(own), exists ? width : 0, part, PARTS);
    if (part == 0) {
        shared.delta[own] = own_delta;
        shared.log_sum_exp[own] = log_sum_exp_of(args, place, place.first + own);
    }
    const WeightDropout dropout(attention, place);
    const int row = 16 * warp_index(), query = place.first + row;
    const bool busy = query < place.queries;
    const uint32_t position = query_position(attention, place, query + lane_index() % 16);
    int seen[2];
    keys_seen(attention, place, position, seen);
    const int end = keys_seen_by_block(attention, place, Shape::ROWS);
    const float factor = attention.scale * LOG2_E, survivor_scale = attention.rate.scale;
    float d_q[1][K / 8][4];
    clear(d_q);
    copy_async_wait<0>();
    __syncthreads();
    const int g = row + lane_index() / 4;
    const float log_sum_exp[2] = {shared.log_sum_exp[g], shared.log_sum_exp[g + 8]};
    const float delta[2] = {shared.delta[g], shared.delta[g + 8]};
    const auto q = hold_narrow<K>(along_rows(shared.q, row));
    const auto d_context = hold_narrow<K>(along_rows(shared.d_context, row));
    for (int begin = 0; begin < end; begin += STEP) {
        const int stage = begin / STEP % 2;
        if (begin + STEP < end) copy_keys(begin + STEP);
        if (busy) {
            float weights[1][STEP / 8][4], d_weights[1][STEP / 8][4];
            clear(weights);
            multiply_add<K>(weights, q, along_rows(shared.k[stage]));
            mask_columns(weights, seen, begin);
            clear(d_weights);
            multiply_add<K>(d_weights, d_context, along_rows(shared.v[stage]));
            const KeptAcross<STEP> kept(dropout, position, begin);
            for_each_entry(d_weights, [&](int j, int entry, float& d_weight) {
                const float weight = power_of_two<S>(fmaf(weights[0][j][entry], factor, -log_sum_exp[entry / 2]));
                const float d_kept = kept.at(j, entry) ? survivor_scale * d_weight : 0.0f;
                d_weight = weight * (d_kept - delta[entry / 2]);
            });
            multiply_add<STEP>(d_q, as_left<STEP>(d_weights, shared.staged), along_columns(shared.k[stage]));
        }
        copy_async_wait<0>();
        __syncthreads();  // the next step is here, and all are done with this one
    }
    if (!busy) return;
    const float scale[2] = {scale_of_scores(attention, seen[0]), scale_of_scores(attention, seen[1])};
    scale_rows(d_q, scale);
    store_rows(shared.q, d_q, width,
               HeadRows<S>(args.d_q, place.query, place.queries, d, channel).from(place.first));
}

template <class Shape> __device__ inline void attention_backward(const AttentionBackward<typename Shape::S> args) {
    const int heads = args.attention.heads, index = blockIdx.x / heads, head = blockIdx.x % heads;
    const int key_blocks = args.key_blocks;
    Place place;
    if (index < key_blocks) {
        if (find_place<Shape::ROWS>(args.attention, args.attention.cu_seqlens, index, head, place))
            backward_of_keys<Shape>(args, place);
    } else {
        if (find_place<Shape::ROWS>(args.attention, args.attention.cu_queries, index - key_blocks, head, place))
            backward_of_queries<Shape>(args, place);
    }
}
