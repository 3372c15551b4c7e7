// Philox 4x32-10 (Salmon et al., SC 2011) and dropout, addressed exactly as src/philox.rs says.
#pragma once
#include "step.cuh"

struct Words {
    uint32_t at[4];
};

__device__ inline Words philox(uint32_t key0, uint32_t key1, Words words) {
    for (int round = 0; round < 10; ++round) {
        const uint32_t low0 = 0xD2511F53u * words.at[0], high0 = __umulhi(0xD2511F53u, words.at[0]);
        const uint32_t low1 = 0xCD9E8D57u * words.at[2], high1 = __umulhi(0xCD9E8D57u, words.at[2]);
        words = {{high1 ^ words.at[1] ^ key0, low1, high0 ^ words.at[3] ^ key1, low0}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return words;
}

// 16-bit number `index`, 0 to 7, of a block.
__device__ inline uint32_t half_of(const Words& words, int index) {
    return words.at[index / 2] >> (16 * (index % 2)) & 0xffffu;
}

constexpr uint32_t HIDDEN_DROPOUT_STREAM = 1u << 24;
constexpr uint32_t ATTENTION_DROPOUT_STREAM = 2u << 24;

// Dropout of hidden activations at one site: the block that decides elements 8 `block` to 8 `block` + 7, where
// element = token * D + channel. D is a multiple of 16, so a block never spans two tokens.
__device__ inline Words hidden_dropout_block(const Step& step, uint32_t site, uint64_t block) {
    return philox(step.key[0], step.key[1],
                  {{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), step.number,
                    HIDDEN_DROPOUT_STREAM | site}});
}

// Dropout of attention probabilities in one layer: the block that decides keys 8 `block` to 8 `block` + 7 for
// `query` (both positions within their sequence); `sequence_head` = sequence * H + head.
__device__ inline Words attention_dropout_block(const Step& step, uint32_t layer, uint32_t sequence_head,
                                                uint32_t query, uint32_t block) {
    return philox(step.key[0], step.key[1],
                  {{query * 65536u + block, sequence_head, step.number, ATTENTION_DROPOUT_STREAM | layer}});
}

// What an element with this 16-bit number is multiplied by.
__device__ inline float dropout_factor(const Rate& rate, uint32_t half) {
    return half < rate.threshold ? 0.0f : rate.scale;
}
