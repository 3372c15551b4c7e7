//! Which kernels must have which instructions, on every architecture.

/// Name of an instruction for people, and whether an opcode is it.
pub type Instruction = (&'static str, fn(&str) -> bool);

/// Kernels and what they must have.
pub struct Meant {
    /// Names; `*` stands for anything.
    kernels: &'static str,
    /// At least one of each.
    pub instructions: &'static [Instruction],
}

impl Meant {
    /// Whether the row speaks of this kernel.
    pub fn covers(&self, kernel: &str) -> bool {
        let mut rest = kernel;
        let mut parts = self.kernels.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(after) = rest.strip_prefix(first) else { return false };
        rest = after;
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// bf16 products on tensor cores, summed in f32.
const TENSOR: Instruction = ("HMMA.16816.F32.BF16", |opcode| opcode == "HMMA.16816.F32.BF16");
/// Fragments for them from shared memory, four matrices at once.
const MATRIX: Instruction =
    ("LDSM", |opcode| opcode.starts_with("LDSM.16.M") && opcode.ends_with(".4"));
/// Copies of 16 bytes into shared memory past the registers.
const ASYNC: Instruction = ("LDGSTS.E.BYPASS.128", |opcode| {
    opcode.starts_with("LDGSTS.E.BYPASS") && opcode.contains(".128")
});
/// 16 bytes of global memory at once, into registers or shared memory.
const LOAD: Instruction = ("128-bit global load", |opcode| {
    (opcode.starts_with("LDG.") || opcode.starts_with("LDGSTS."))
        && opcode.split('.').any(|part| part == "128")
});
const STORE: Instruction = ("128-bit global store", |opcode| {
    opcode.starts_with("STG.") && opcode.split('.').any(|part| part == "128")
});

const fn row(kernels: &'static str, instructions: &'static [Instruction]) -> Meant {
    Meant { kernels, instructions }
}

/// A kernel may be in several rows; each must be in one. `d*` and `k*` are classes of widths and head widths.
pub const MEANT: &[Meant] = &[
    row("attention_*_bf16", &[TENSOR, MATRIX, ASYNC, STORE]),
    row("attention_*_f32", &[ASYNC, STORE]),
    row("qkv_*_bf16", &[TENSOR, MATRIX, ASYNC, STORE]),
    row("qkv_*_f32", &[ASYNC, STORE]),
    row("projection_*_bf16", &[TENSOR, MATRIX, ASYNC, LOAD, STORE]),
    row("projection_*_f32", &[ASYNC, LOAD, STORE]),
    row("ffn_*_bf16", &[TENSOR, MATRIX, ASYNC, LOAD, STORE]),
    row("ffn_*_f32", &[ASYNC, LOAD, STORE]),
    row("linear_gradients_*_bf16", &[TENSOR, MATRIX, ASYNC]),
    row("linear_gradients_*_f32", &[ASYNC]),
    row("head_*_d*_bf16", &[TENSOR, MATRIX, ASYNC, STORE]),
    row("head_*_d*_f32", &[ASYNC, STORE]),
    row("head_*_map_bf16", &[TENSOR, MATRIX, ASYNC, STORE]),
    row("head_*_map_f32", &[ASYNC, STORE]),
    row("item_softmax_*_d*_bf16", &[TENSOR, MATRIX, ASYNC]),
    row("item_softmax_*_d*_f32", &[ASYNC]),
    // One number a row of each part of the vocabulary.
    row("item_softmax_combine_*", &[]),
    row("gbce_*_d*_bf16", &[TENSOR, MATRIX, ASYNC]),
    row("gbce_*_d*_f32", &[ASYNC]),
    row("gbce_combine_*", &[]),
    row("rank_d*_bf16", &[TENSOR, MATRIX, ASYNC]),
    row("rank_d*_f32", &[ASYNC]),
    row("rank_begin_*", &[]),
    row("top_k_*", &[]),
    // These wait for memory.
    row("embedding_*", &[LOAD, STORE]),
    row("layernorm_*", &[LOAD, STORE]),
    row("head_*_rows_*", &[LOAD, STORE]),
    row("item_softmax_rows_combine_*", &[LOAD, STORE]),
    row("shortlist_*", &[LOAD, STORE]),
    row("gradient_norm_*", &[LOAD]),
    row("adamw_update_*", &[LOAD, STORE]),
];

#[test]
fn patterns() {
    let covers = |kernels, name| row(kernels, &[]).covers(name);
    assert!(covers("*", "anything"));
    assert!(covers("ffn_*_bf16", "ffn_forward_d64_bf16"));
    assert!(covers("a", "a") && !covers("a", "ab") && !covers("ffn_*_bf16", "ffn_forward_d64_f32"));
    assert!(covers("a_*_d64_*", "a_b_d64_f32") && !covers("a_*_d64_*", "a_b_d128_f32"));
}
