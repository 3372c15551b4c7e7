// The forward pass: see attention.cu.
#pragma once
#include "attention_common.cuh"

template <class S> struct AttentionForward {
    Attention attention;
    const S* q;          // [Tq, D]
    const S* kv;         // [T, 2D] keys, then values of a token
    float* log_sum_exp;  // [Tq, H] to base 2
    S* context;          // [Tq, D]
};

// A block owns 16 queries a warp and goes through the keys in steps, two of them in shared memory.
// BYTES of shared memory is what a launch has to give it.
template <class Element, int WIDTH, int WARP_COUNT, int KEYS, int BYTES> struct ForwardShape {
    using S = Element;
    static constexpr int K = WIDTH, WARPS = WARP_COUNT, THREADS = WARP * WARPS, ROWS = 16 * WARPS, STEP = KEYS;
    struct Shared {
        Tile<S, ROWS, K> q;
        Tile<S, STEP, K> k[2], v[2];
        Tile<S, sizeof(S) == 4 ? ROWS : 1, STEP> staged;
    };
    static_assert(sizeof(Shared) == BYTES, "correct the table in attention.cu and src/cuda/attention.rs");
};

// Softmax that goes along: sums are relative to the largest exponent so far and shrink when it grows.
struct OnlineSoftmax {
    float top[2] = {-INFINITY, -INFINITY};  // of rows g and g + 8
    float total[2] = {0.0f, 0.0f};          // this lane's share

    // Turns scores into weights, and returns in `shrink` what sums so far are to be multiplied by.
    template <class S, int NT>
    __device__ void weigh(float (&scores)[1][NT][4], float factor, float (&shrink)[2]) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
            float largest = scores[0][0][2 * low];
#pragma unroll
            for (int j = 0; j < NT; ++j)
                largest = fmaxf(largest, fmaxf(scores[0][j][2 * low], scores[0][j][2 * low + 1]));
            const float next = fmaxf(top[low], row_max(largest) * factor);
            shrink[low] = power_of_two<S>(top[low] - next);
            top[low] = next;
            total[low] *= shrink[low];
#pragma unroll
            for (int j = 0; j < NT; ++j)
#pragma unroll
                for (int entry = 2 * low; entry < 2 * low + 2; ++entry) {
                    scores[0][j][entry] = power_of_two<S>(fmaf(scores[0][j][entry], factor, -next));
                    total[low] += scores[0][j][entry];
                }
        }
    }
};

template <class Shape> __device__ inline void attention_forward(const AttentionForward<typename Shape::S> args) {
    using S = typename Shape::S;
    constexpr int K = Shape::K, STEP = Shape::STEP, THREADS = Shape::THREADS;
    auto& shared = *reinterpret_cast<typename Shape::Shared*>(DYNAMIC_SHARED());
    const Attention& attention = args.attention;
    const int heads = attention.heads, width = attention.head_width, d = heads * width;
    Place place;
    if (!find_place<Shape::ROWS>(attention, attention.cu_queries, blockIdx.x / heads, blockIdx.x % heads, place)) return;

    const int channel = place.head * width;
    const auto queries = HeadRows<const S>(args.q, place.query, place.queries, d, channel).from(place.first);
    const HeadRows<const S> keys(args.kv, place.key, place.keys, 2 * d, channel);
    const HeadRows<const S> values(args.kv + d, place.key, place.keys, 2 * d, channel);
    const auto copy_keys = [&](int begin) {
        const int stage = begin / STEP % 2;
        copy_tile_async<THREADS>(shared.k[stage], width, keys.from(begin));
        copy_tile_async<THREADS>(shared.v[stage], width, values.from(begin));
        copy_async_commit();
    };
    copy_tile_async<THREADS>(shared.q, width, queries);
    copy_keys(0);

    const WeightDropout dropout(attention, place);
    const int row = 16 * warp_index(), query = place.first + row;
    const bool busy = query < place.queries;
    const uint32_t position = query_position(attention, place, query + lane_index() % 16);
    int seen[2];
    keys_seen(attention, place, position, seen);
    const int end = keys_seen_by_block(attention, place, Shape::ROWS);
    const float factor = attention.scale * LOG2_E;
    OnlineSoftmax softmax;
    float sum[1][K / 8][4];
    clear(sum);
    copy_async_wait<0>();
    __syncthreads();
    const auto q = hold<K>(along_rows(shared.q, row));
    for (int begin = 0; begin < end; begin += STEP) {
        const int stage = begin / STEP % 2;
        if (begin + STEP < end) copy_keys(begin + STEP);
        if (busy) {
            float scores[1][STEP / 8][4], shrink[2];
            clear(scores);
            multiply_add<K>(scores, q, along_rows(shared.k[stage]));
            mask_columns(scores, seen, begin);
            softmax.template weigh<S>(scores, factor, shrink);
            const KeptAcross<STEP> kept(dropout, position, begin);
            for_each_entry(scores, [&](int j, int entry, float& weight) {
                if (!kept.at(j, entry)) weight = 0.0f;
            });
            scale_rows(sum, shrink);
            multiply_add<STEP>(sum, as_left<STEP>(scores, shared.staged), along_columns(shared.v[stage]));
        }
        copy_async_wait<0>();
        __syncthreads();  // the next step is here, and all are done with this one
    }
    if (!busy) return;

    const float total[2] = {row_sum(softmax.total[0]), row_sum(softmax.total[1])};
    const float inverse[2] = {attention.rate.scale / total[0], attention.rate.scale / total[1]};
    scale_rows(sum, inverse);
    store_rows(shared.q, sum, width,
               HeadRows<S>(args.context, place.query, place.queries, d, channel).from(place.first));
#pragma unroll
    for (int low = 0; low < 2; ++low) {
        const int mine = query + lane_index() / 4 + 8 * low;
        if (lane_index() % 4 == 0 && mine < place.queries)
            args.log_sum_exp[static_cast<size_t>(place.query + mine) * heads + place.head] =
                softmax.top[low] + log2f(total[low]);
    }
}
