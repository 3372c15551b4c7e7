//! Softmax cross-entropy over all items, or those of a shortlist, without a `P x V` matrix: logits are made again
//! where they are needed.

use super::item_loss::{Call, Found, Problem, RowTerms, Scratch};
use super::memory::{Slice, Storage};
use super::operands::{Launcher, Partials};
use crate::Result;
use bytemuck::NoUninit;

/// How the names of the kernels begin.
const KERNELS: &str = "item_softmax";

/// Writes the log-sum-exp `[P]` and the loss `[P]` (log-sum-exp minus the target's logit) of each row.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    scratch: Scratch,
    log_sum_exp: Slice<f32>,
    losses: Slice<f32>,
) -> Result<()> {
    let call = Call::new(KERNELS, launcher, problem)?;
    call.check_rows("log-sum-exp", log_sum_exp)?;
    call.check_rows("losses", losses)?;
    let Found { of_splits, target_scores } = call.forward(scratch)?;
    let arguments = CombineArguments {
        rows: launcher.size(problem.rows.size),
        items: launcher.size(problem.items.size),
        targets: problem.targets.address,
        bias: problem.bias.address,
        of_splits,
        target_scores,
        log_sum_exp: log_sum_exp.address,
        losses: losses.address,
        most: problem.rows.most as u32,
        splits: scratch.splits as u32,
    };
    // SAFETY: the sweep before has left what it found of every row and split; outputs have an element for every row.
    unsafe { launcher.device.launch("item_softmax_combine_f32", call.grid_of_rows(), &arguments) }
}

/// Assigns d_head `[P, D]`, the gradient of the mean loss.
///
/// # Errors
/// As [`forward`].
pub fn rows_backward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    log_sum_exp: Slice<f32>,
    scratch: Scratch,
    d_head: Slice<S>,
) -> Result<()> {
    let call = Call::new(KERNELS, launcher, problem)?;
    call.rows_backward(terms(&call, log_sum_exp)?, scratch, d_head)
}

/// Assigns all parts of d_table `[V + 2, D]` (rows 0 and V + 1 become 0) and d_bias `[V + 1]` (entry 0 becomes 0), the
/// gradients of the mean loss; both have the same number of slots.
///
/// # Errors
/// As [`forward`].
pub fn table_backward<S: Storage>(
    launcher: Launcher<'_>,
    problem: Problem<S>,
    log_sum_exp: Slice<f32>,
    d_table: Partials,
    d_bias: Partials,
) -> Result<()> {
    let call = Call::new(KERNELS, launcher, problem)?;
    call.table_backward(terms(&call, log_sum_exp)?, d_table, d_bias)
}

fn terms<S: Storage>(call: &Call<'_, S>, log_sum_exp: Slice<f32>) -> Result<RowTerms> {
    call.check_rows("log-sum-exp", log_sum_exp)?;
    Ok(RowTerms { terms: log_sum_exp.address, pulls: 0 })
}

/// Mirrors `SoftmaxCombine` of kernels/item_softmax.cu.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct CombineArguments {
    rows: u64,
    items: u64,
    targets: u64,
    bias: u64,
    of_splits: u64,
    target_scores: u64,
    log_sum_exp: u64,
    losses: u64,
    most: u32,
    splits: u32,
}
