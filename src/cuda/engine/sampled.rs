//! What losses over a sample of the items ([`Loss::SampledSoftmax`], [`Loss::Gbce`]) have beside the others: the list
//! of each step, drawn on the host as for the CPU, and memory for its rows of the output table and their gradients.

use crate::Result;
use crate::batch::Batch;
use crate::config::{Loss, TrainConfig};
use crate::cpu::gbce::Weighting;
use crate::cuda::batch::Listed;
use crate::cuda::device::Device;
use crate::cuda::gbce::{Negatives, Terms};
use crate::cuda::item_loss::{Problem, table_slots};
use crate::cuda::memory::{Memory, Slice, Storage};
use crate::cuda::operands::Partials;
use crate::cuda::shortlist::{List, Output};
use crate::model::shortlist::Shortlist;

/// Which loss, and of how many items.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    loss: Loss,
    /// Items of a sample.
    negatives: usize,
    /// `V`
    catalogue: usize,
    /// `gbce_t`
    calibration: f64,
}

impl Sampling {
    /// `None` where the loss looks at all items.
    pub fn new(train: &TrainConfig, catalogue: usize) -> Option<Self> {
        (train.loss != Loss::CrossEntropy).then(|| Sampling {
            loss: train.loss,
            negatives: train.negatives.min(catalogue),
            catalogue,
            calibration: train.calibration,
        })
    }

    /// Most items of a list for up to `rows` rows.
    pub fn most_items(&self, rows: usize) -> usize {
        self.negatives.saturating_add(rows).min(self.catalogue)
    }

    /// Of a row whose target is not in the sample, and of one whose is.
    fn weighting(&self) -> [Weighting; 2] {
        [0, 1].map(|own| {
            let negatives = (self.negatives - own) as f64;
            Weighting::new(negatives, self.catalogue, self.calibration)
        })
    }
}

/// The loss, the list of the step that was handed in last, and memory of the device: `O(C D)`.
pub(super) struct Sampled {
    sampling: Sampling,
    shortlist: Shortlist,
    /// `[C]` as [`Listed::offsets`].
    offsets: Vec<f32>,
    /// Most items of a list.
    pub most: usize,
    /// `[C + 2, D]` as products read it.
    table: Slice<u8>,
    /// `[C + 1]`
    bias: Slice<f32>,
    /// Parts of the gradients of both.
    pub gradients: (Partials, Partials),
    /// Empty where the loss has no use for them.
    terms: Terms,
    memory: Memory,
}

impl Sampled {
    /// For rows of `width` elements in batches of up to `rows` rows. The order of sums depends on `usual_rows`.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] that names the buffer.
    pub fn new(
        device: &Device,
        sampling: Sampling,
        rows: usize,
        usual_rows: usize,
        width: usize,
        element: usize,
    ) -> Result<Self> {
        let most = sampling.most_items(rows);
        let usual = sampling.most_items(usual_rows);
        let slots = table_slots(usual_rows, width, usual, device.multiprocessors());
        let mut memory = Memory::default();
        let mut partials = |what: &str, len: usize| -> Result<Partials> {
            let stride = len.next_multiple_of(4);
            let all = memory.take(device, what, stride * slots as usize)?;
            Ok(Partials { first: all.part(0, len), stride, slots })
        };
        let gradients = (
            partials("gradients of listed items", (most + 2) * width)?,
            partials("gradients of listed biases", most + 1)?,
        );
        let rows = if sampling.loss == Loss::Gbce { rows } else { 0 };
        Ok(Sampled {
            sampling,
            shortlist: Shortlist::default(),
            offsets: Vec::new(),
            most,
            table: memory.take(device, "listed items", (most + 2) * width * element)?,
            bias: memory.take(device, "listed biases", most + 1)?,
            gradients,
            terms: Terms {
                factors: memory.take(device, "factors of rows", rows)?,
                pulls: memory.take(device, "pulls of rows", rows)?,
            },
            memory,
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// The list of `batch`, whose targets are grouped, at an address of seed and step.
    pub fn draw(&mut self, batch: &Batch, (seed, step): (u64, u64)) -> Listed<'_> {
        let Sampling { loss, negatives, catalogue, .. } = self.sampling;
        let Sampled { shortlist: list, offsets, .. } = self;
        list.draw(batch, catalogue, negatives, seed, step);
        offsets.clear();
        if loss == Loss::SampledSoftmax {
            offsets.resize(list.items.len(), list.correction(catalogue));
            list.target_segments.keys.iter().for_each(|&place| offsets[place as usize - 1] = 0.0);
        } else {
            let offset = |&sampled: &f32| if sampled > 0.0 { 0.0 } else { f32::NEG_INFINITY };
            offsets.extend(list.sampled.iter().map(offset));
        }
        Listed { items: &list.items, offsets, targets: &list.targets }
    }

    /// The list's rows of the output table, and their biases.
    pub fn output<S: Storage>(&self) -> Output<S> {
        Output { table: self.table.cast(), bias: self.bias }
    }

    /// What the binary loss needs beside its problem; `None` where the loss is the softmax. `whole` is the problem of
    /// all items.
    pub fn binary<S>(&self, list: List, whole: &Problem<S>) -> Option<(Negatives, Terms)> {
        let weighting = self.sampling.weighting();
        (self.sampling.loss == Loss::Gbce)
            .then_some((Negatives { list, bias: whole.bias, weighting }, self.terms))
    }
}
