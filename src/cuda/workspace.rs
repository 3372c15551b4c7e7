//! Activations and their gradients on the device, for batches of up to a capacity.

use super::batch::Capacity;
use super::device::Device;
use super::item_loss;
use super::memory::{Memory, Slice, Storage};
use super::tiles::FUSED_WIDTH;
use crate::Result;
use crate::config::{ModelConfig, NormPlacement};
use crate::model::activations::{
    ActivationGradients, Activations, EmbeddingActivations, HeadActivations, LayerActivations,
    NormActivations,
};

/// An activation buffer: bytes, since some hold statistics in full precision. Empty where the model has no
/// use for it.
pub type Buffer = Slice<u8>;

/// Buffers of operations that nothing else reads.
#[derive(Clone, Copy, Default)]
pub struct Scratch {
    /// `[T, D]` gradient of a sublayer's linear map.
    pub linear: Buffer,
    /// `[T, D]` gradient of a normed input, where norms stand before.
    pub normed: Buffer,
    /// `[T, F]` gradient of what stands before the activation.
    pub hidden: Buffer,
    /// `[P, D]` gradient of what stands before the head's activation.
    pub head: Buffer,
    /// Of the loss over items.
    pub softmax: item_loss::Scratch,
    /// `[P]`
    pub log_sum_exp: Slice<f32>,
    /// `[P]`
    pub losses: Slice<f32>,
}

/// All buffers of a pass.
pub struct Workspace {
    /// What fits.
    pub capacity: Capacity,
    /// What the forward pass keeps.
    pub activations: Activations<Buffer>,
    /// Empty where there is no backward pass.
    pub gradients: ActivationGradients<Buffer>,
    /// Temporary buffers.
    pub scratch: Scratch,
    memory: Memory,
}

/// Takes buffers of `S` for one model and capacity.
struct Taker<'a> {
    device: &'a Device,
    model: &'a ModelConfig,
    capacity: Capacity,
    /// Bytes of an element.
    element: usize,
    memory: Memory,
}

impl Taker<'_> {
    /// `[rows, width]` activations.
    fn rows(&mut self, what: &str, rows: usize, width: usize) -> Result<Buffer> {
        self.memory.take(self.device, what, rows * width * self.element)
    }

    /// `[rows, width]` in full precision.
    fn full(&mut self, what: &str, rows: usize, width: usize) -> Result<Buffer> {
        self.memory.take(self.device, what, rows * width * 4)
    }

    fn norm(&mut self, what: &str, rows: usize) -> Result<NormActivations<Buffer>> {
        let d = self.model.hidden_size;
        Ok(NormActivations {
            normalized: self.rows(what, rows, d)?,
            rstd: self.full(what, rows, 1)?,
        })
    }

    /// `queries` is `Tq`; `kept` whether a backward pass will read what stands before activations.
    fn layer(&mut self, queries: usize, kept: bool) -> Result<LayerActivations<Buffer>> {
        let ModelConfig { hidden_size: d, inner_size: f, n_heads: heads, .. } = *self.model;
        let tokens = self.capacity.tokens;
        let pre = self.model.norm == NormPlacement::Pre;
        Ok(LayerActivations {
            attention_norm: self.norm("norm of attention", if pre { tokens } else { queries })?,
            attention_input: self.rows("input of attention", if pre { tokens } else { 0 }, d)?,
            q: self.rows("queries", queries, d)?,
            kv: self.rows("keys and values", tokens, 2 * d)?,
            softmax: self.full("statistics of attention", queries, heads)?,
            context: self.rows("context", queries, d)?,
            middle: self.rows("output of attention", queries, d)?,
            ffn_norm: self.norm("norm of the feed-forward network", queries)?,
            ffn_input: self.rows(
                "input of the feed-forward network",
                if pre { queries } else { 0 },
                d,
            )?,
            hidden: self.rows(
                "hidden layer of the feed-forward network",
                // Wide rows leave the chip between the two maps.
                if kept || d > FUSED_WIDTH { queries } else { 0 },
                f,
            )?,
            output: self.rows("output of a layer", queries, d)?,
        })
    }

    fn ends(&mut self) -> Result<(EmbeddingActivations<Buffer>, HeadActivations<Buffer>)> {
        let (d, Capacity { tokens, rows, .. }) = (self.model.hidden_size, self.capacity);
        let embedding = EmbeddingActivations {
            norm: self.norm("norm of the embedding", tokens)?,
            output: self.rows("embedding", tokens, d)?,
        };
        let head = HeadActivations {
            hidden: self.rows("hidden layer of the head", rows, d)?,
            norm: self.norm("norm of the head", rows)?,
            output: self.rows("output of the head", rows, d)?,
        };
        Ok((embedding, head))
    }

    fn gradients(&mut self) -> Result<ActivationGradients<Buffer>> {
        let (d, Capacity { tokens, rows, .. }) = (self.model.hidden_size, self.capacity);
        Ok(ActivationGradients {
            head: self.rows("gradient of the head", rows, d)?,
            output: self.rows("gradient of a layer's output", tokens, d)?,
            middle: self.rows("gradient of attention's output", tokens, d)?,
            context: self.rows("gradient of the context", tokens, d)?,
            q: self.rows("gradient of queries", tokens, d)?,
            kv: self.rows("gradient of keys and values", tokens, 2 * d)?,
        })
    }

    fn scratch(&mut self, splits: usize) -> Result<Scratch> {
        let ModelConfig { hidden_size: d, inner_size: f, norm, .. } = *self.model;
        let Capacity { tokens, rows, .. } = self.capacity;
        let pre = norm == NormPlacement::Pre;
        let softmax = item_loss::scratch_len(splits, rows, d);
        Ok(Scratch {
            linear: self.rows("gradient of a linear map", tokens, d)?,
            normed: self.rows("gradient of a normed input", if pre { tokens } else { 0 }, d)?,
            hidden: self.rows("gradient of the hidden layer", tokens, f)?,
            head: self.rows("gradient of the head's hidden layer", rows, d)?,
            softmax: item_loss::Scratch {
                memory: self.memory.take(self.device, "scratch of the loss over items", softmax)?,
                splits,
            },
            log_sum_exp: self.memory.take(self.device, "log-sum-exp of items", rows)?,
            losses: self.memory.take(self.device, "losses", rows)?,
        })
    }
}

impl Workspace {
    /// For training steps: everything is kept, layer by layer. `splits`: see [`item_loss::Scratch`].
    ///
    /// # Errors
    /// [`crate::Error::Memory`] that names the buffer.
    pub fn training<S: Storage>(
        device: &Device,
        model: &ModelConfig,
        capacity: Capacity,
        splits: usize,
    ) -> Result<Self> {
        let mut take =
            Taker { device, model, capacity, element: size_of::<S>(), memory: Memory::default() };
        let mut layers = Vec::new();
        for index in 0..model.n_layers {
            let last = index + 1 == model.n_layers;
            layers.push(take.layer(if last { capacity.rows } else { capacity.tokens }, true)?);
        }
        let (embedding, head) = take.ends()?;
        let (gradients, scratch) = (take.gradients()?, take.scratch(splits)?);
        let activations = Activations { embedding, layers, head };
        Ok(Workspace { capacity, activations, gradients, scratch, memory: take.memory })
    }

    /// For forward passes alone: all layers share two sets of buffers.
    ///
    /// # Errors
    /// As [`Self::training`].
    pub fn inference<S: Storage>(
        device: &Device,
        model: &ModelConfig,
        capacity: Capacity,
    ) -> Result<Self> {
        let mut take =
            Taker { device, model, capacity, element: size_of::<S>(), memory: Memory::default() };
        // A layer reads its input to the end, and the last may have more rows than tokens.
        let queries = capacity.tokens.max(capacity.rows);
        let sets = [take.layer(queries, false)?, take.layer(queries, false)?];
        let layers = (0..model.n_layers).map(|index| sets[index % 2].clone()).collect();
        let (embedding, head) = take.ends()?;
        Ok(Workspace {
            capacity,
            activations: Activations { embedding, layers, head },
            gradients: ActivationGradients::default(),
            scratch: Scratch::default(),
            memory: take.memory,
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}
