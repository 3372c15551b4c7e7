//! Multi-head attention within sequences of any length, fused: scores and probabilities stay on the chip.

use super::device::{Grid, failed};
use super::memory::{Slice, Storage, check};
use super::operands::{AttentionDropout, Count, Launcher, Rows};
use super::step::Rate;
use super::tiles::check_all;
use crate::Result;
use bytemuck::NoUninit;

/// The packed sequences and which of their tokens ask.
#[derive(Clone, Copy)]
pub struct Sequences {
    /// `B`
    pub sequences: Count,
    /// `[B + 1]` where each sequence begins among the tokens.
    pub cu_seqlens: Slice<u32>,
    /// `[B + 1]` where each sequence begins among the queries; `cu_seqlens` itself where every token asks.
    pub cu_queries: Slice<u32>,
    /// Tokens of the queries.
    pub rows: Rows,
    /// `T`
    pub tokens: Count,
    /// `Tq`
    pub queries: Count,
    /// `H`
    pub heads: usize,
    /// `D`; the head width `K = D / H` is a multiple of 8 up to 128.
    pub width: usize,
    /// Whether a query sees no key after itself.
    pub causal: bool,
}

/// Kernels for heads up to a width; mirrors the table of shapes in `kernels/attention.cu`.
struct Class {
    /// Largest `K`; narrower heads are filled up with zeros on the chip.
    width: usize,
    /// Threads of a block: 32 for every 16 rows that it owns.
    threads: u32,
    /// Bytes of shared memory of a block.
    forward: u32,
    /// The same, backward.
    backward: u32,
}

impl Class {
    const fn new(width: usize, threads: u32, forward: u32, backward: u32) -> Self {
        Class { width, threads, forward, backward }
    }

    /// Blocks for each head that own up to `rows` rows of up to `sequences` sequences: tiles begin anew with
    /// each sequence.
    fn blocks(&self, rows: Count, sequences: Count) -> usize {
        rows.most / (self.threads as usize / 2) + sequences.most
    }

    fn grid(&self, blocks: usize, shared: u32) -> Grid {
        Grid { shared, ..Grid::new(blocks, self.threads) }
    }
}

const F32: [Class; 4] = [
    Class::new(16, 128, 24_576, 32_640),
    Class::new(32, 128, 36_864, 51_072),
    Class::new(64, 128, 61_440, 87_936),
    Class::new(128, 64, 53_248, 78_784),
];

const BF16: [Class; 4] = [
    Class::new(16, 128, 15_504, 14_288),
    Class::new(32, 128, 25_744, 23_504),
    Class::new(64, 128, 46_224, 41_936),
    Class::new(128, 128, 52_304, 78_800),
];

/// Mirrors `Attention` of `kernels/attention_common.cuh`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Shared {
    step: u64,
    cu_seqlens: u64,
    cu_queries: u64,
    tokens: u64,
    heads: u32,
    head_width: u32,
    layer: u32,
    rate: Rate,
    scale: f32,
    causal: u32,
    unused: u32,
}

/// Mirrors `AttentionForward`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ForwardArguments {
    shared: Shared,
    q: u64,
    kv: u64,
    log_sum_exp: u64,
    context: u64,
}

/// Mirrors `AttentionBackward`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct BackwardArguments {
    shared: Shared,
    q: u64,
    kv: u64,
    log_sum_exp: u64,
    context: u64,
    d_context: u64,
    d_q: u64,
    d_kv: u64,
    key_blocks: u32,
    unused: u32,
}

impl Sequences {
    /// The kernels for its heads.
    fn class<S: Storage>(&self, operation: &str) -> Result<&'static Class> {
        let head_width = self.width.checked_div(self.heads).unwrap_or(0);
        let classes = if S::NAME == "f32" { &F32 } else { &BF16 };
        classes
            .iter()
            .find(|class| head_width <= class.width)
            .filter(|_| self.heads * head_width == self.width)
            .filter(|_| head_width > 0 && head_width.is_multiple_of(8))
            .ok_or_else(|| {
                let problem = format!(
                    "has no kernel for width {} in {} heads: a head's width is a multiple of 8 up to 128",
                    self.width, self.heads
                );
                failed(operation, problem)
            })
    }

    fn check(&self, operation: &str) -> Result<()> {
        check(operation, "cu_seqlens", self.cu_seqlens, self.sequences.most + 1)?;
        check(operation, "cu_queries", self.cu_queries, self.sequences.most + 1)?;
        match self.rows {
            Rows::All if self.queries.most == self.tokens.most => Ok(()),
            Rows::All => Err(failed(
                operation,
                format!("{} queries of {} tokens are not all", self.queries.most, self.tokens.most),
            )),
            Rows::Selected { tokens, .. } => check(operation, "tokens", tokens, self.queries.most),
        }
    }

    /// Checks what is `[Tq, D]`.
    fn check_queries<S>(&self, operation: &str, buffers: &[(&str, Slice<S>)]) -> Result<()> {
        check_all(operation, self.queries.most * self.width, buffers)
    }

    fn check_keys<S>(&self, operation: &str, name: &str, slice: Slice<S>) -> Result<()> {
        check(operation, name, slice, self.tokens.most * 2 * self.width)
    }

    fn shared(&self, launcher: Launcher<'_>, dropout: AttentionDropout) -> Shared {
        let head_width = self.width / self.heads;
        Shared {
            step: launcher.step.address,
            cu_seqlens: self.cu_seqlens.address,
            cu_queries: self.cu_queries.address,
            tokens: self.rows.tokens_address(),
            heads: self.heads as u32,
            head_width: head_width as u32,
            layer: dropout.layer,
            rate: dropout.rate,
            scale: 1.0 / (head_width as f32).sqrt(),
            causal: u32::from(self.causal),
            unused: 0,
        }
    }
}

/// context `[Tq, D]` = dropout(softmax(q kᵀ / sqrt(K))) v a head; q `[Tq, D]`, kv `[T, 2D]` (keys, then values
/// of a token). Keeps the log-sum-exp of each query and head, `[Tq, H]`, to base 2. One launch.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    sequences: &Sequences,
    dropout: AttentionDropout,
    q: Slice<S>,
    kv: Slice<S>,
    log_sum_exp: Slice<f32>,
    context: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "attention";
    let class = sequences.class::<S>(OPERATION)?;
    sequences.check(OPERATION)?;
    sequences.check_queries(OPERATION, &[("q", q), ("context", context)])?;
    sequences.check_keys(OPERATION, "kv", kv)?;
    check(OPERATION, "log_sum_exp", log_sum_exp, sequences.queries.most * sequences.heads)?;
    let arguments = ForwardArguments {
        shared: sequences.shared(launcher, dropout),
        q: q.address,
        kv: kv.address,
        log_sum_exp: log_sum_exp.address,
        context: context.address,
    };
    let kernel = format!("attention_forward_k{}_{}", class.width, S::NAME);
    let blocks = class.blocks(sequences.queries, sequences.sequences) * sequences.heads;
    // SAFETY: the kernel takes this struct; all buffers have the lengths that the sizes ask for, and the step
    // block counts no more rows than they were made for.
    unsafe { launcher.device.launch(&kernel, class.grid(blocks, class.forward), &arguments) }
}

/// From d_context `[Tq, D]` to d_q `[Tq, D]` and d_kv `[T, 2D]`, every element assigned; without atomics, so
/// that sums have one order. One launch.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "mirrors the forward pass, one argument a tensor")]
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    sequences: &Sequences,
    dropout: AttentionDropout,
    q: Slice<S>,
    kv: Slice<S>,
    log_sum_exp: Slice<f32>,
    context: Slice<S>,
    d_context: Slice<S>,
    d_q: Slice<S>,
    d_kv: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "attention backward";
    let class = sequences.class::<S>(OPERATION)?;
    sequences.check(OPERATION)?;
    let of_queries = [("q", q), ("context", context), ("d_context", d_context), ("d_q", d_q)];
    sequences.check_queries(OPERATION, &of_queries)?;
    sequences.check_keys(OPERATION, "kv", kv)?;
    sequences.check_keys(OPERATION, "d_kv", d_kv)?;
    check(OPERATION, "log_sum_exp", log_sum_exp, sequences.queries.most * sequences.heads)?;
    let key_blocks = class.blocks(sequences.tokens, sequences.sequences);
    let query_blocks = class.blocks(sequences.queries, sequences.sequences);
    let arguments = BackwardArguments {
        shared: sequences.shared(launcher, dropout),
        q: q.address,
        kv: kv.address,
        log_sum_exp: log_sum_exp.address,
        context: context.address,
        d_context: d_context.address,
        d_q: d_q.address,
        d_kv: d_kv.address,
        key_blocks: key_blocks as u32,
        unused: 0,
    };
    let kernel = format!("attention_backward_k{}_{}", class.width, S::NAME);
    let blocks = (key_blocks + query_blocks) * sequences.heads;
    // SAFETY: as in `forward`.
    unsafe { launcher.device.launch(&kernel, class.grid(blocks, class.backward), &arguments) }
}
