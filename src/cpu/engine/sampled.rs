//! Losses over a sample of the items ([`Loss::SampledSoftmax`], [`Loss::Gbce`]), for catalogues whose full softmax
//! would take too long.
//!
//! The rows of the output table that a step looks at (its targets and a sample, [`Shortlist`]) are gathered into a
//! table of `C` rows, which the passes of the full softmax then work on, and their gradients put back: 6 P D C FLOPs
//! in place of 6 P D V.
//!
//! Sampled softmax: of the sum Σ e^s over the catalogue, the targets' terms are there and the rest, over V - |T| items,
//! is estimated from the m items of the sample among them, by adding log((V - |T|) / m) to their logits. So
//! the estimate of that sum has no bias (importance sampling, Bengio and Senécal, IEEE TNN 2008; for a sample shared by a
//! batch, Jean et al., ACL 2015), and with the whole catalogue as the sample the loss is the full softmax. Other
//! rows' targets stand in the sum at their true weight. gBCE: [`gbce`](crate::cpu::gbce).

use super::softmax::ItemSoftmax;
use crate::batch::Batch;
use crate::config::{Loss, TrainConfig};
use crate::cpu::gbce::Negatives;
use crate::cpu::item_softmax::Problem;
use crate::cpu::lane::Randomness;
use crate::model::shortlist::Shortlist;
use rayon::prelude::*;

/// The loss, and memory kept between steps: `O(C D)`, and a byte an item.
pub(super) struct SampledLoss {
    loss: Loss,
    negatives: usize,
    calibration: f64,
    shortlist: Shortlist,
    table: Vec<f32>,
    bias: Vec<f32>,
    d_table: Vec<f32>,
    d_bias: Vec<f32>,
}

impl SampledLoss {
    /// `None` where the loss looks at all items.
    pub fn new(train: &TrainConfig) -> Option<Self> {
        (train.loss != Loss::CrossEntropy).then(|| SampledLoss {
            loss: train.loss,
            negatives: train.negatives,
            calibration: train.calibration,
            shortlist: Shortlist::default(),
            table: Vec::new(),
            bias: Vec::new(),
            d_table: Vec::new(),
            d_bias: Vec::new(),
        })
    }

    /// As [`ItemSoftmax::run`], `whole` being the problem over all items, with the sample of one step.
    pub fn run(
        &mut self,
        whole: &Problem,
        batch: &Batch,
        randomness: Randomness,
        softmax: &mut ItemSoftmax,
        d_table: &mut [f32],
        d_bias: &mut [f32],
    ) -> f64 {
        let Randomness { seed, step } = randomness;
        self.shortlist.draw(batch, whole.items(), self.negatives, seed, step);
        self.gather(whole);
        let list = &self.shortlist;
        let (rows, targets) = (whole.rows, &list.targets[..]);
        let problem = Problem { rows, targets, table: &self.table, bias: &self.bias };
        self.d_table.resize(self.table.len(), 0.0);
        self.d_bias.resize(self.bias.len(), 0.0);
        let negatives = (self.loss == Loss::Gbce).then_some(Negatives {
            sampled: &list.sampled,
            drawn: list.drawn,
            catalogue: whole.items(),
            calibration: self.calibration,
        });
        let (d_list, d_list_bias) = (&mut self.d_table, &mut self.d_bias);
        let segments = &list.target_segments;
        let loss = softmax.run_loss(&problem, negatives.as_ref(), segments, d_list, d_list_bias);
        self.scatter(whole.width(), d_table, d_bias);
        loss
    }

    /// The list's rows of the output table, and their biases with the correction.
    fn gather(&mut self, whole: &Problem) {
        let SampledLoss { shortlist, table, bias, .. } = self;
        let d = whole.width();
        table.clear();
        bias.clear();
        for &item in &shortlist.items {
            let item = item as usize - 1;
            table.extend_from_slice(&whole.table[item * d..][..d]);
            bias.push(whole.bias[item]);
        }
        if self.loss == Loss::SampledSoftmax {
            let correction = shortlist.correction(whole.items());
            bias.iter_mut().for_each(|bias| *bias += correction);
            for &target in &shortlist.target_segments.keys {
                let target = target as usize - 1;
                bias[target] = whole.bias[shortlist.items[target] as usize - 1];
            }
        }
    }

    /// Writes the list's gradients to their rows of the whole, and 0 to all others.
    fn scatter(&self, d: usize, d_table: &mut [f32], d_bias: &mut [f32]) {
        d_table.par_chunks_mut(super::ARENA_BLOCK).for_each(|block| block.fill(0.0));
        d_bias.fill(0.0);
        for (index, &item) in self.shortlist.items.iter().enumerate() {
            let item = item as usize - 1;
            d_table[item * d..][..d].copy_from_slice(&self.d_table[index * d..][..d]);
            d_bias[item] = self.d_bias[index];
        }
    }
}
