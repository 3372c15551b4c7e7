//! A step's loss over items: all of them, or those of a list.

use super::sampled::Sampled;
use crate::Result;
use crate::cuda::item_loss::Problem;
use crate::cuda::memory::{Slice, Storage};
use crate::cuda::operands::Launcher;
use crate::cuda::shortlist::{self, List, Output};
use crate::cuda::weights::Weights;
use crate::cuda::workspace::Scratch;
use crate::cuda::{gbce, item_softmax};
use crate::model::params::ParameterTable;

/// The loss of one batch after its forward pass.
#[derive(Clone, Copy)]
pub(super) struct ItemLoss<'a, S> {
    pub launcher: Launcher<'a>,
    /// Over all items.
    pub whole: Problem<S>,
    /// Buffers that nothing else reads.
    pub scratch: Scratch,
    /// Where the loss looks at a list of items.
    pub sampled: Option<&'a Sampled>,
    /// The list.
    pub list: List,
}

impl<S: Storage> ItemLoss<'_, S> {
    /// What the kernels of the loss work on.
    fn problem(&self) -> Problem<S> {
        match self.sampled {
            None => self.whole,
            Some(sampled) => {
                let Output { table, bias } = sampled.output();
                Problem { items: self.list.count, table, bias, ..self.whole }
            }
        }
    }

    fn binary(&self) -> Option<(gbce::Negatives, gbce::Terms)> {
        self.sampled.and_then(|sampled| sampled.binary(self.list, &self.whole))
    }

    /// The losses, and the gradient of the head's output `[P, D]`.
    pub fn of_rows(&self, d_head: Slice<S>) -> Result<()> {
        let Problem { width, table, bias, .. } = self.whole;
        if let Some(sampled) = self.sampled {
            let whole = Output { table, bias };
            shortlist::gather(self.launcher, self.list, width, whole, sampled.output())?;
        }
        let (launcher, problem) = (self.launcher, self.problem());
        let Scratch { softmax: scratch, log_sum_exp, losses, .. } = self.scratch;
        match self.binary() {
            None => {
                item_softmax::forward(launcher, problem, scratch, log_sum_exp, losses)?;
                item_softmax::rows_backward(launcher, problem, log_sum_exp, scratch, d_head)
            }
            Some((negatives, terms)) => {
                gbce::forward(launcher, problem, negatives, scratch, terms, losses)?;
                gbce::rows_backward(launcher, problem, terms, scratch, d_head)
            }
        }
    }

    /// Assigns the gradients of the output table and bias; that of the item embedding becomes 0 where it is another.
    pub fn of_tables(&self, weights: &Weights<S>, table: &ParameterTable) -> Result<()> {
        let (launcher, problem) = (self.launcher, self.problem());
        let whole = weights.output_partials(table);
        let (d_table, d_bias) = self.sampled.map_or(whole, |sampled| sampled.gradients);
        match self.binary() {
            None => {
                let log_sum_exp = self.scratch.log_sum_exp;
                item_softmax::table_backward(launcher, problem, log_sum_exp, d_table, d_bias)?;
            }
            Some((_, terms)) => gbce::table_backward(launcher, problem, terms, d_table, d_bias)?,
        }
        let Some(sampled) = self.sampled else {
            return match &table.output_weight {
                None => Ok(()),
                Some(_) => launcher.device.clear(weights.item_gradient(table)),
            };
        };
        // Item embedding, output table and bias lie side by side. Rows of items that are not listed stay 0.
        launcher.device.clear(weights.gradient(&(0..table.dense_start)))?;
        let (d_items, d_bias) = (whole.0.first, whole.1.first);
        shortlist::scatter(launcher, self.list, problem.width, sampled.gradients, d_items, d_bias)
    }
}
