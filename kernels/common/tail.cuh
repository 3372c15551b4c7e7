// What surrounds the linear maps of a sublayer, row by row: bias, dropout, residual and norm after the last map,
// and the way back through them before its gradient. Layer norm by itself is the same with less of it.
#pragma once
#include "dropout.cuh"
#include "row_norm.cuh"
#include "slots.cuh"

// output = LN(residual + dropout(x + bias)) for rows x that come from somewhere. Mirrored by src/cuda/tail.rs.
template <class S> struct TailForward {
    const float* bias;                // [D]; null: none
    const S* residual;                // [., D]; null: none
    const uint32_t* residual_tokens;  // [rows] which row of it belongs to each row; null: the same
    const uint32_t* tokens;           // [rows] dropout's address; null: row i is token i
    const float* gamma;               // [D]; null: no norm
    const float* beta;                // [D]
    S* normalized;                    // [rows, D]
    float* rstd;                      // [rows]
    S* output;                        // [rows, D]
    HiddenDropout dropout;
    float epsilon;
    uint32_t width;
    uint32_t unused;
};

// d = LN'(d_output), d_linear = dropout(d), d_input = d + residual. Mirrored by src/cuda/tail.rs.
template <class S> struct TailBackward {
    const S* d_output;              // [rows, D]
    S* d_input;                     // [rows, D], may be d_output
    const S* residual;              // [., D] a gradient to be added; null: none
    const uint32_t* residual_rows;  // [rows] which row of it belongs to each row, ~0 where none does; null: the same
    S* d_linear;                    // [rows, D]; null: not wanted
    const uint32_t* tokens;         // [rows] dropout's address; null: row i is token i
    const float* gamma;             // [D]; null: no norm
    const S* normalized;            // [rows, D]
    const float* rstd;              // [rows]
    float* d_gamma;                 // part 0 of [D]
    float* d_beta;                  // part 0 of [D]
    uint32_t d_gamma_stride;        // elements from one part to the next
    uint32_t d_beta_stride;
    HiddenDropout dropout;
    uint32_t width;
};

// How a block of THREADS holds rows of up to WIDTH channels.
template <int WIDTH, int THREADS>
using RowLanes = Lanes<(WIDTH / RUN < WARP ? WIDTH / RUN : WARP), (WIDTH / RUN < WARP ? 1 : WIDTH / RUN / WARP), THREADS>;

// Rows that a group of lanes fetches before it works on the first of them, to keep memory busy; backward, where
// each comes in two pieces, half as many.
template <class S, class L> constexpr int ROWS_AHEAD = L::RUNS > 1 ? 1 : sizeof(S) == 2 ? 4 : 2;

// Row `row` of `matrix`; indices go beyond 32 bits.
template <class S> __device__ inline S* row_of(S* matrix, uint32_t row, uint32_t width) {
    return matrix + static_cast<size_t>(row) * width;
}

// Works on `rows`; all threads of the block call it. `source(row, channel)` is the run of x from `channel` on.
template <class L, class S, class Source>
__device__ inline void tail_forward(const TailForward<S>& tail, const Step& step, Span rows, Source source) {
    constexpr int AHEAD = ROWS_AHEAD<S, L>;
    const int width = tail.width;
    for (int base = rows.first; base < rows.end; base += L::GROUPS * AHEAD) {
        Run residual[AHEAD][L::RUNS];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const int row = base + a * L::GROUPS + L::group();
            const bool valid = tail.residual != nullptr && row < rows.end;
            const uint32_t from = valid && tail.residual_tokens != nullptr ? tail.residual_tokens[row] : row;
            L::load(residual[a], row_of(tail.residual, from, width), width, valid);
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const int row = base + a * L::GROUPS + L::group();
            const bool valid = row < rows.end;
            const uint32_t token = valid && tail.tokens != nullptr ? tail.tokens[row] : row;
            Run x[L::RUNS];
#pragma unroll
            for (int r = 0; r < L::RUNS; ++r) {
                const int channel = L::column(r);
                x[r] = Run{};
                if (!valid || channel >= width) continue;
                x[r] = source(row, channel);
                if (tail.bias != nullptr) x[r] += load_run(tail.bias + channel);
                if (tail.dropout.rate.threshold > 0) drop_run(x[r], step, tail.dropout, token, width, channel);
                x[r] += residual[a][r];
            }
            if (tail.gamma != nullptr) {
                const float rstd = normalize<L>(x, width, tail.epsilon);
                L::store(row_of(tail.normalized, row, width), x, width, valid);
                if (valid && L::column(0) == 0) tail.rstd[row] = rstd;
                scale_and_shift<L>(x, width, tail.gamma, tail.beta);
            }
            L::store(row_of(tail.output, row, width), x, width, valid);
        }
    }
}

// Works on `rows`, adding them to `sums`; all threads of the block call it. `sink(row, channel, run)` gets
// d_linear, or zeros for the rows up to the next multiple of GROUPS * ROWS_AHEAD and channels up to COLUMNS.
template <class L, class S, class Sink>
__device__ inline void tail_backward(const TailBackward<S>& tail, const Step& step, Span rows, NormSums<L>& sums,
                                     Sink sink) {
    constexpr int AHEAD = ROWS_AHEAD<S, L> / 2 + ROWS_AHEAD<S, L> % 2;
    const int width = tail.width;
    const bool has_norm = tail.gamma != nullptr;
    for (int base = rows.first; base < rows.end; base += L::GROUPS * AHEAD) {
        Run d[AHEAD][L::RUNS], n[AHEAD][L::RUNS];
        float rstd[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const int row = base + a * L::GROUPS + L::group();
            const bool valid = row < rows.end;
            L::load(d[a], row_of(tail.d_output, row, width), width, valid);
            L::load(n[a], row_of(tail.normalized, row, width), width, valid && has_norm);
            rstd[a] = valid && has_norm ? tail.rstd[row] : 0.0f;
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            const int row = base + a * L::GROUPS + L::group();
            const bool valid = row < rows.end;
            if (has_norm) normalize_backward<L>(d[a], n[a], width, tail.gamma, rstd[a], sums);
            const uint32_t token = valid && tail.tokens != nullptr ? tail.tokens[row] : row;
            const uint32_t from = valid && tail.residual_rows != nullptr ? tail.residual_rows[row] : row;
            const bool has_residual = valid && tail.residual != nullptr && from != ~0u;
#pragma unroll
            for (int r = 0; r < L::RUNS; ++r) {
                const int channel = L::column(r);
                const bool inside = valid && channel < width;
                Run linear = d[a][r];
                if (inside && tail.dropout.rate.threshold > 0)
                    drop_run(linear, step, tail.dropout, token, width, channel);
                sink(row, channel, linear);
                if (!inside) continue;
                if (tail.d_linear != nullptr) store_run(row_of(tail.d_linear, row, width) + channel, linear);
                if (has_residual) d[a][r] += load_run(row_of(tail.residual, from, width) + channel);
                store_run(row_of(tail.d_input, row, width) + channel, d[a][r]);
            }
        }
    }
}

// Assigns part `part` of the norm's gradients, where there is a norm.
template <class L, class S>
__device__ inline void assign_norm_part(const TailBackward<S>& tail, const NormSums<L>& sums, NormReduction<L>& shared,
                                        uint32_t part) {
    if (tail.gamma == nullptr) return;
    assign_norm_sums<L>(sums, shared, tail.width, row_of(tail.d_gamma, part, tail.d_gamma_stride),
                        row_of(tail.d_beta, part, tail.d_beta_stride));
}
