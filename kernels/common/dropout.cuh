// Dropout of hidden activations in runs: one Philox block decides exactly the eight channels that a lane holds,
// so that no number is drawn twice.
#pragma once
#include "philox.cuh"
#include "run.cuh"

// Site, share and scale, mirrored by `HiddenDropout` in src/cuda/operands.rs.
struct HiddenDropout {
    uint32_t site;
    Rate rate;
};

// Multiplies the channels from `channel` on of a token's row of `width` by 0 or the scale.
__device__ inline void drop_run(Run& run, const Step& step, const HiddenDropout& dropout, uint32_t token, int width,
                                int channel) {
    const uint64_t block = static_cast<uint64_t>(token) * (width / RUN) + channel / RUN;
    const Words words = hidden_dropout_block(step, dropout.site, block);
#pragma unroll
    for (int i = 0; i < RUN; ++i) run.at[i] *= dropout_factor(dropout.rate, half_of(words, i));
}
