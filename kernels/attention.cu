// Multi-head attention within each sequence of a packed batch; scores and weights never leave the chip.
//
//     forward   s = q k^T / sqrt(K), p = softmax(s), w = dropout(p), context = w v; keeps lse = log2 sum 2^(s log2 e)
//     backward  p = 2^(s log2 e - lse), delta = d_context . context, d_p = dropout(d_context v^T),
//               d_s = p (d_p - delta), d_v = w^T d_context, d_q = d_s k / sqrt(K), d_k = d_s^T q / sqrt(K)
//
// Shapes. q, context, d_context, d_q [Tq, D]; kv, d_kv [T, 2D], keys then values of a token; lse [Tq, H], to base
// 2, so that no logarithm is converted twice. Queries are all tokens or those that are read; a query's position,
// dropout's address, is its token minus its sequence's first. Assigns context and lse, or d_q and d_kv, each
// element once: sequences without queries get d_kv = 0.
//
// Causal. A query sees the keys up to its own place. Blocks that own queries stop after the last key that any of
// theirs sees, blocks that own keys begin with the first query that sees any: of long sequences half the steps are
// left out, and only those at the diagonal are masked. The first token of a sequence has one key, and so no d_q.
//
// Launch. One block for each head and tile of 64 rows (32 for K = 128 in float): Tq / 64 + B tiles forward, and as
// many again for keys backward, which bounds the tiles of any lengths, so that a grid needs no longest length and
// short sequences beside a long one cost nothing. A block finds its sequence by a search of all lanes at once
// (attention_common.cuh). Heads are neighbours in the grid: together they read whole cache lines. Backward is one
// launch with two roles: blocks that own keys go through the queries and sum d_k and d_v in registers, blocks
// that own queries go through the keys and sum d_q. Each recomputes p, and so every sum has one owner and one
// order: no atomics, no second pass, no copy of d_q in float.
//
// A warp owns 16 rows and all columns of a step. Other rows come in steps by cp.async, two steps in shared memory,
// one barrier a step (two for keys backward: delta of the step's queries is made in between, from contexts that
// need only one buffer because of it). In bf16 an accumulator is the next product's left operand as it lies in its
// registers; the keys' role computes transposed scores for that. In float it goes by 16 rows of shared memory.
//
// Cost, a token, u = D elements of storage: forward reads 3u and writes u, 4H bytes of lse, 4 len D FLOPs;
// backward reads 4u and writes 3u, 14 len D FLOPs where the least is 10. Rows beyond the owned are read again for
// each tile of 64, from L2: len / 64 times 2u forward, 5u backward. One exponential a score forward, two backward.
// A Philox block serves eight keys of a query and is made once a warp, then shared by shuffles: with dropout it
// costs as much as the products at K = 32.
//
// Budget, bf16, blocks of 128 threads on an SM of an A100 or H100 by registers and shared memory:
//     K          16         32         64         128
//     forward    3, 16 KB   4, 26 KB   3, 46 KB   3, 52 KB
//     backward   4, 14 KB   3, 24 KB   3, 42 KB   2, 79 KB
// All fit the 99 KB of the smaller GPUs, where 100 KB for all blocks leave fewer of them at K = 64 and 128. In float
// K = 64 backward has 86 KB: one block, two on an H100. Narrower heads are filled up with zeros to a class on the chip.
//
// Considered. Steps of 64 backward: spill at 168 registers, and 12 warps instead of 16. Rows held in registers
// backward for K = 64: spill. One block for a whole sequence of up to 208 tokens, 13 warps that own 16 keys each
// and d_scores by way of shared memory for d_q: five products instead of seven and one exponential and one Philox
// block instead of two; but 13 warps of some 128 registers fill an SM with one block that waits at two barriers a
// step, it ends at a length, and it would stand beside these kernels, which long sequences need. Worth trying
// first where a GPU can time it: nothing here was timed on one.
#include "attention_backward.cuh"
#include "attention_forward.cuh"

// Storage, widest head, warps of a block, rows of a step, bytes of shared memory; mirrored by src/cuda/attention.rs.
using ForwardK16Bf16 = ForwardShape<bf16, 16, 4, 64, 15504>;
using ForwardK32Bf16 = ForwardShape<bf16, 32, 4, 64, 25744>;
using ForwardK64Bf16 = ForwardShape<bf16, 64, 4, 64, 46224>;
using ForwardK128Bf16 = ForwardShape<bf16, 128, 4, 32, 52304>;
using ForwardK16F32 = ForwardShape<float, 16, 4, 32, 24576>;
using ForwardK32F32 = ForwardShape<float, 32, 4, 32, 36864>;
using ForwardK64F32 = ForwardShape<float, 64, 4, 32, 61440>;
using ForwardK128F32 = ForwardShape<float, 128, 2, 16, 53248>;

KERNEL(attention_forward_k16_bf16, 128, 3, AttentionForward<bf16>, attention_forward<ForwardK16Bf16>)
KERNEL(attention_forward_k32_bf16, 128, 4, AttentionForward<bf16>, attention_forward<ForwardK32Bf16>)
KERNEL(attention_forward_k64_bf16, 128, 3, AttentionForward<bf16>, attention_forward<ForwardK64Bf16>)
KERNEL(attention_forward_k128_bf16, 128, 3, AttentionForward<bf16>, attention_forward<ForwardK128Bf16>)
KERNEL(attention_forward_k16_f32, 128, 4, AttentionForward<float>, attention_forward<ForwardK16F32>)
KERNEL(attention_forward_k32_f32, 128, 4, AttentionForward<float>, attention_forward<ForwardK32F32>)
KERNEL(attention_forward_k64_f32, 128, 2, AttentionForward<float>, attention_forward<ForwardK64F32>)
KERNEL(attention_forward_k128_f32, 64, 3, AttentionForward<float>, attention_forward<ForwardK128F32>)

using BackwardK16Bf16 = BackwardShape<bf16, 16, 4, 32, 14288>;
using BackwardK32Bf16 = BackwardShape<bf16, 32, 4, 32, 23504>;
using BackwardK64Bf16 = BackwardShape<bf16, 64, 4, 32, 41936>;
using BackwardK128Bf16 = BackwardShape<bf16, 128, 4, 32, 78800>;
using BackwardK16F32 = BackwardShape<float, 16, 4, 32, 32640>;
using BackwardK32F32 = BackwardShape<float, 32, 4, 32, 51072>;
using BackwardK64F32 = BackwardShape<float, 64, 4, 32, 87936>;
using BackwardK128F32 = BackwardShape<float, 128, 2, 16, 78784>;

KERNEL(attention_backward_k16_bf16, 128, 4, AttentionBackward<bf16>, attention_backward<BackwardK16Bf16>)
KERNEL(attention_backward_k32_bf16, 128, 3, AttentionBackward<bf16>, attention_backward<BackwardK32Bf16>)
KERNEL(attention_backward_k64_bf16, 128, 3, AttentionBackward<bf16>, attention_backward<BackwardK64Bf16>)
KERNEL(attention_backward_k128_bf16, 128, 2, AttentionBackward<bf16>, attention_backward<BackwardK128Bf16>)
KERNEL(attention_backward_k16_f32, 128, 3, AttentionBackward<float>, attention_backward<BackwardK16F32>)
KERNEL(attention_backward_k32_f32, 128, 3, AttentionBackward<float>, attention_backward<BackwardK32F32>)
KERNEL(attention_backward_k64_f32, 128, 1, AttentionBackward<float>, attention_backward<BackwardK64F32>)
KERNEL(attention_backward_k128_f32, 64, 1, AttentionBackward<float>, attention_backward<BackwardK128F32>)
