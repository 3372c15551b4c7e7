//! Generalised binary cross-entropy over a sample of the items; [`crate::cpu::gbce`] has the maths.

use super::item_loss::{Call, Found, Problem, RowTerms, Scratch};
use super::memory::{Slice, Storage, check};
use super::operands::{Launcher, Partials};
use super::shortlist::List;
use crate::Result;
use crate::cpu::gbce::Weighting;
use bytemuck::NoUninit;

/// How the names of the kernels begin.
const KERNELS: &str = "gbce";

/// What the forward pass leaves of each row for the gradients.
#[derive(Clone, Copy)]
pub struct Terms {
    /// `[P]` what sigmoids of negatives are multiplied by.
    pub factors: Slice<f32>,
    /// `[P]` minus the gradient of the target's logit.
    pub pulls: Slice<f32>,
}

/// Which items of a problem are negatives, and how targets weigh.
#[derive(Clone, Copy)]
pub struct Negatives {
    /// The problem's items. Those whose offset is 0 are negatives; the others have an offset of negative infinity.
    pub list: List,
    /// `[V + 1]` biases of the whole catalogue.
    pub bias: Slice<f32>,
    /// Of a row whose target is not in the sample, and of one whose is.
    pub weighting: [Weighting; 2],
}

/// Writes the loss `[P]` of each row, and what its gradients need. The problem is that of the list.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    negatives: Negatives,
    scratch: Scratch,
    terms: Terms,
    losses: Slice<f32>,
) -> Result<()> {
    let call = Call::new(KERNELS, launcher, problem)?;
    let row_terms = checked(&call, terms)?;
    call.check_rows("losses", losses)?;
    let Negatives { list, bias, weighting: [apart, sampled] } = negatives;
    check(KERNELS, "items", list.items, problem.items.most)?;
    check(KERNELS, "offsets", list.offsets, problem.items.most)?;
    let Found { of_splits, target_scores } = call.forward(scratch)?;
    let arguments = CombineArguments {
        rows: launcher.size(problem.rows.size),
        items: launcher.size(problem.items.size),
        targets: problem.targets.address,
        listed: list.items.address,
        offsets: list.offsets.address,
        bias: bias.address,
        of_splits,
        target_scores,
        factors: row_terms.terms,
        pulls: row_terms.pulls,
        losses: losses.address,
        weight: apart.weight as f32,
        beta: apart.beta as f32,
        weight_if_sampled: sampled.weight as f32,
        beta_if_sampled: sampled.beta as f32,
        most: problem.rows.most as u32,
        splits: scratch.splits as u32,
    };
    // SAFETY: the sweep before has left what it found of every row and split; listed items have a bias by the contract
    // of `List`; outputs have an element for every row.
    unsafe { launcher.device.launch("gbce_combine_f32", call.grid_of_rows(), &arguments) }
}

/// Assigns d_head `[P, D]`, the gradient of the mean loss.
///
/// # Errors
/// As [`forward`].
pub fn rows_backward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    terms: Terms,
    scratch: Scratch,
    d_head: Slice<S>,
) -> Result<()> {
    let call = Call::new(KERNELS, launcher, problem)?;
    call.rows_backward(checked(&call, terms)?, scratch, d_head)
}

/// Assigns all parts of d_table `[C + 2, D]` (rows 0 and C + 1 become 0) and d_bias `[C + 1]` (entry 0 becomes 0), the
/// gradients of the mean loss; both have the same number of slots.
///
/// # Errors
/// As [`forward`].
pub fn table_backward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    terms: Terms,
    d_table: Partials,
    d_bias: Partials,
) -> Result<()> {
    let call = Call::new(KERNELS, launcher, problem)?;
    call.table_backward(checked(&call, terms)?, d_table, d_bias)
}

fn checked<S: Storage>(call: &Call<'_, S>, terms: Terms) -> Result<RowTerms> {
    call.check_rows("factors", terms.factors)?;
    call.check_rows("pulls", terms.pulls)?;
    Ok(RowTerms { terms: terms.factors.address, pulls: terms.pulls.address })
}

/// Mirrors `BinaryCombine` of kernels/gbce.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct CombineArguments {
    rows: u64,
    items: u64,
    targets: u64,
    listed: u64,
    offsets: u64,
    bias: u64,
    of_splits: u64,
    target_scores: u64,
    factors: u64,
    pulls: u64,
    losses: u64,
    weight: f32,
    beta: f32,
    weight_if_sampled: f32,
    beta_if_sampled: f32,
    most: u32,
    splits: u32,
}
