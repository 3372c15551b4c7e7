// What changes from step to step, in one struct on the device, so that a captured graph can be replayed.
// Mirrored by src/cuda/step.rs.
#pragma once
#include "kernel.cuh"

struct Step {
    // T, B and P of the batch at hand.
    uint32_t tokens;
    uint32_t sequences;
    uint32_t rows;
    // Number of segments: distinct items among the tokens.
    uint32_t token_segments;
    // Items that scores are made of: V, or C where the loss looks at a shortlist.
    uint32_t items;
    // Dropout: number of the step and the two key words of the seed.
    uint32_t number;
    uint32_t key[2];
    // AdamW: learning rate, 1 / (1 - beta1^t), 1 / (1 - beta2^t).
    float learning_rate;
    float mean_correction;
    float square_correction;
    uint32_t unused;
};

// Share and scale of dropout: an element is dropped where its 16-bit number is below `threshold` (0: nothing
// is), survivors are multiplied by `scale` = 65536 / (65536 - threshold).
struct Rate {
    uint32_t threshold;
    float scale;
};
