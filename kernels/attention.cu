#include "attention_backward.cuh"
#include "attention_forward.cuh"

using ForwardK16Bf16 = ForwardShape<bf16, 16, 4, 64, 15504>;
using ForwardK32Bf16 = ForwardShape<bf16, 32, 4, 64, 25744>;
using ForwardK64Bf16 = ForwardShape<bf16, 64, 4, 64, 46224>;
using ForwardK128Bf16 = ForwardShape<bf16, 128, 4, 32, 52304>;
using ForwardK16F32 = ForwardShape<float, 16, 4, 32, 24576>;
using ForwardK32F32 = ForwardShape<float, 32, 4, 32, 36864>;
using ForwardK64F32 = ForwardShape<float, 64, 4, 32, 61440>;
using ForwardK128F32 = ForwardShape<float, 128, 2, 16, 53248>;

KERNEL(attention_forward_k16_bf16, 128, 4, AttentionForward<bf16>, attention_forward<ForwardK16Bf16>)
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
KERNEL(attention_backward_k32_bf16, 128, 4, AttentionBackward<bf16>, attention_backward<BackwardK32Bf16>)
KERNEL(attention_backward_k64_bf16, 128, 3, AttentionBackward<bf16>, attention_backward<BackwardK64Bf16>)
KERNEL(attention_backward_k128_bf16, 128, 2, AttentionBackward<bf16>, attention_backward<BackwardK128Bf16>)
KERNEL(attention_backward_k16_f32, 128, 3, AttentionBackward<float>, attention_backward<BackwardK16F32>)
KERNEL(attention_backward_k32_f32, 128, 3, AttentionBackward<float>, attention_backward<BackwardK32F32>)
KERNEL(attention_backward_k64_f32, 128, 2, AttentionBackward<float>, attention_backward<BackwardK64F32>)
KERNEL(attention_backward_k128_f32, 64, 1, AttentionBackward<float>, attention_backward<BackwardK128F32>)
