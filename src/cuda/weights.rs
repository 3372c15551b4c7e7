//! Weights, moments and gradients on the device, and where each tensor's gradient comes together.
//!
//! The arenas are laid out by the host's [`ParameterTable`], with one difference: `output_bias`, the only tensor
//! whose length is no multiple of 16, is followed by padding, so that every tensor begins at a multiple of 16
//! elements. The padding is 0 and stays 0.

use super::adamw::{Arenas, Chunk};
use super::device::Device;
use super::memory::{Memory, Slice, Storage};
use super::operands::{Linear, LinearPartials, Norm, NormPartials, Partials};
use crate::Result;
use crate::model::engine::State;
use crate::model::params::{LayerNormParams, LinearParams, ParameterTable};
use std::any::TypeId;
use std::ops::Range;

/// Every tensor begins at a multiple of this many elements.
const ALIGNMENT: usize = 16;

/// Parts that gradients are summed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Of matrices and their biases.
    pub matrices: u32,
    /// Of layer norms.
    pub norms: u32,
    /// Of the output table and its bias: 1, unless there are few items.
    pub tables: u32,
}

/// Where a host arena's elements lie in a device arena.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Elements before the padding.
    before: usize,
    /// Elements of padding.
    padding: usize,
    /// Elements of a host arena.
    host: usize,
}

impl Layout {
    fn new(table: &ParameterTable) -> Self {
        let before = table.dense_start;
        Layout { before, padding: before.next_multiple_of(ALIGNMENT) - before, host: table.total }
    }

    /// Elements of a device arena.
    fn total(&self) -> usize {
        (self.host + self.padding).next_multiple_of(ALIGNMENT)
    }

    /// Place of a host range that does not span the padding.
    fn place(&self, range: &Range<usize>) -> Range<usize> {
        let shift = if range.start >= self.before { self.padding } else { 0 };
        range.start + shift..range.end + shift
    }

    fn spread<T: bytemuck::Pod>(&self, host: &[f32], convert: impl Fn(f32) -> T) -> Vec<T> {
        let mut device = vec![T::zeroed(); self.total()];
        for part in [0..self.before, self.before..self.host] {
            let place = self.place(&part);
            for (to, &from) in device[place].iter_mut().zip(&host[part]) {
                *to = convert(from);
            }
        }
        device
    }

    fn gather(&self, device: &[f32]) -> Vec<f32> {
        let dense = self.place(&(self.before..self.host));
        [&device[..self.before], &device[dense]].concat()
    }
}

/// All arenas of a model.
pub struct Weights<S> {
    layout: Layout,
    dense_start: usize,
    /// What the optimizer works on.
    pub arenas: Arenas<S>,
    /// `[slots, dense elements]`: parts of the gradients of matrices and their biases.
    matrices: Slice<f32>,
    /// `[slots, output table and bias]`; empty where there is one slot, the gradient itself.
    tables: Slice<f32>,
    /// One `[slots, D]` block for each norm tensor, in arena order.
    norms: Vec<(usize, Slice<f32>)>,
    slots: Slots,
    memory: Memory,
}

impl<S: Storage> Weights<S> {
    /// Allocates what ranking needs: weights alone, undefined until [`Self::load`]. There is no room for gradients.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] that names the arena; [`crate::Error::Device`].
    pub fn for_ranking(device: &Device, table: &ParameterTable) -> Result<Self> {
        let layout = Layout::new(table);
        let total = layout.total();
        let mut memory = Memory::default();
        let parameters = memory.take_zeroed::<f32>(device, "weights", total)?;
        let stored = if TypeId::of::<S>() == TypeId::of::<f32>() {
            parameters.cast()
        } else {
            memory.take_zeroed::<S>(device, "stored weights", total)?
        };
        Ok(Weights {
            layout,
            dense_start: table.dense_start,
            arenas: Arenas {
                chunks: Slice::default(),
                parameters,
                stored,
                gradient: Slice::default(),
                first_moment: Slice::default(),
                second_moment: Slice::default(),
            },
            matrices: Slice::default(),
            tables: Slice::default(),
            norms: Vec::new(),
            slots: Slots { matrices: 1, norms: 1, tables: 1 },
            memory,
        })
    }

    /// Allocates everything; weights are undefined until [`Self::load`].
    ///
    /// # Errors
    /// [`crate::Error::Memory`] that names the arena; [`crate::Error::Device`].
    pub fn new(device: &Device, table: &ParameterTable, slots: Slots) -> Result<Self> {
        let mut weights = Weights::for_ranking(device, table)?;
        let total = weights.layout.total();
        let memory = &mut weights.memory;
        weights.arenas.gradient = memory.take_zeroed(device, "gradients", total)?;
        weights.arenas.first_moment = memory.take_zeroed(device, "first moments", total)?;
        weights.arenas.second_moment = memory.take_zeroed(device, "second moments", total)?;
        let dense = total - weights.layout.place(&(table.dense_start..table.total)).start;
        weights.matrices =
            memory.take(device, "parts of gradients", dense * slots.matrices as usize)?;
        let parts = if slots.tables > 1 { slots.tables as usize } else { 0 };
        let len = table.output_table().len() + bias_len(table);
        weights.tables = memory.take(device, "parts of gradients of items", len * parts)?;
        for norm in norm_tensors(table) {
            let len = norm.len() * slots.norms as usize;
            let parts = memory.take(device, "parts of gradients of norms", len)?;
            weights.norms.push((norm.start, parts));
        }
        weights.slots = slots;
        let chunks = weights.chunks(table);
        weights.arenas.chunks = weights.memory.take_copy(device, "list of tensors", &chunks)?;
        Ok(weights)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Cuts every tensor into chunks.
    fn chunks(&self, table: &ParameterTable) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for tensor in &table.tensors {
            let (range, place) = (tensor.range(), self.layout.place(&tensor.range()));
            let parts = self.parts_of(table, &range);
            chunks.extend(Chunk::cut(place.start, range.len(), tensor.decay, parts));
        }
        chunks
    }

    /// Where a tensor's gradient is summed in parts; `None` for tables, whose gradients are assigned whole.
    fn parts_of(&self, table: &ParameterTable, range: &Range<usize>) -> Option<Partials> {
        let (output_table, output_bias) = self.output_partials(table);
        let in_parts = |partials: Partials| (partials.slots > 1).then_some(partials);
        if *range == table.output_table() {
            return in_parts(output_table);
        }
        if *range == table.output_bias {
            return in_parts(output_bias);
        }
        if range.start < self.dense_start || *range == table.position_embedding {
            return None;
        }
        match self.norms.iter().find(|(start, _)| *start == range.start) {
            Some(_) => Some(self.norm_parts(range)),
            None => Some(self.matrix_parts(range)),
        }
    }

    fn matrix_parts(&self, range: &Range<usize>) -> Partials {
        let stride = self.matrices.len / self.slots.matrices as usize;
        let first = self.matrices.part(range.start - self.dense_start, range.len());
        Partials { first, stride, slots: self.slots.matrices }
    }

    fn norm_parts(&self, range: &Range<usize>) -> Partials {
        let parts = self.norms.iter().find(|(start, _)| *start == range.start);
        let all = parts.map_or(Slice::default(), |(_, parts)| *parts);
        Partials { first: all.part(0, range.len()), stride: range.len(), slots: self.slots.norms }
    }

    /// Parts of a linear map's gradients.
    pub fn linear_partials(&self, params: &LinearParams) -> LinearPartials {
        LinearPartials {
            weight: self.matrix_parts(&params.weight),
            bias: self.matrix_parts(&params.bias),
        }
    }

    /// Parts of the gradients of the output table and of its bias.
    pub fn output_partials(&self, table: &ParameterTable) -> (Partials, Partials) {
        let (items, bias) = (table.output_table(), &table.output_bias);
        if self.slots.tables <= 1 {
            let [items, bias] = [&items, bias].map(|range| self.gradient(range));
            return (Partials::whole(items), Partials::whole(bias));
        }
        let stride = self.tables.len / self.slots.tables as usize;
        let part = |start, len| Partials {
            first: self.tables.part(start, len),
            stride,
            slots: self.slots.tables,
        };
        (part(0, items.len()), part(items.len(), bias.len()))
    }

    /// Where the tokens' share of the item embedding's gradient is added.
    pub fn item_gradient(&self, table: &ParameterTable) -> Slice<f32> {
        match &table.output_weight {
            Some(_) => self.gradient(&table.item_embedding),
            None => self.output_partials(table).0.first,
        }
    }

    /// Parts of a norm's gradients.
    pub fn norm_partials(&self, params: &LayerNormParams) -> NormPartials {
        NormPartials {
            weight: self.norm_parts(&params.weight),
            bias: self.norm_parts(&params.bias),
        }
    }

    fn of<T>(&self, arena: Slice<T>, range: &Range<usize>) -> Slice<T> {
        let place = self.layout.place(range);
        arena.part(place.start, place.len())
    }

    /// A tensor as products read it.
    pub fn stored(&self, range: &Range<usize>) -> Slice<S> {
        self.of(self.arenas.stored, range)
    }

    /// A tensor in full precision.
    pub fn parameter(&self, range: &Range<usize>) -> Slice<f32> {
        self.of(self.arenas.parameters, range)
    }

    /// A tensor's gradient, as a whole.
    pub fn gradient(&self, range: &Range<usize>) -> Slice<f32> {
        self.of(self.arenas.gradient, range)
    }

    /// A linear map.
    pub fn linear(&self, params: &LinearParams) -> Linear<S> {
        Linear { weight: self.stored(&params.weight), bias: self.parameter(&params.bias) }
    }

    /// A layer norm.
    pub fn norm(&self, params: &LayerNormParams, epsilon: f32) -> Norm {
        Norm { weight: self.parameter(&params.weight), bias: self.parameter(&params.bias), epsilon }
    }

    /// Puts weights onto the device.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn load(&self, device: &Device, parameters: &[f32]) -> Result<()> {
        device.upload(self.arenas.parameters, &self.layout.spread(parameters, |x| x))?;
        device.upload(self.arenas.stored, &self.layout.spread(parameters, S::from_f32))
    }

    /// Puts weights and moments onto the device.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn load_state(&self, device: &Device, state: &State) -> Result<()> {
        self.load(device, &state.parameters)?;
        let spread = |arena: &[f32]| self.layout.spread(arena, |x| x);
        device.upload(self.arenas.first_moment, &spread(&state.first_moment))?;
        device.upload(self.arenas.second_moment, &spread(&state.second_moment))
    }

    /// Weights and moments.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn state(&self, device: &Device) -> Result<State> {
        Ok(State {
            parameters: self.download(device, self.arenas.parameters)?,
            first_moment: self.download(device, self.arenas.first_moment)?,
            second_moment: self.download(device, self.arenas.second_moment)?,
        })
    }

    /// One arena, laid out as on the host.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn download(&self, device: &Device, arena: Slice<f32>) -> Result<Vec<f32>> {
        Ok(self.layout.gather(&device.download(arena)?))
    }
}

/// Elements of the output bias in one part, so that the next part is aligned.
fn bias_len(table: &ParameterTable) -> usize {
    table.output_bias.len().next_multiple_of(ALIGNMENT)
}

/// Scale and shift of every norm, in arena order.
fn norm_tensors(table: &ParameterTable) -> impl Iterator<Item = Range<usize>> {
    let layers = table.layers.iter().flat_map(|layer| [&layer.attention_norm, &layer.ffn_norm]);
    let norms = std::iter::once(&table.embedding_norm).chain(layers).chain([&table.head_norm]);
    norms.flat_map(|norm| [norm.weight.clone(), norm.bias.clone()])
}
