//! A batch on the device: one block of 32-bit words, uploaded at once from pinned memory.

use super::device::{Device, driver, failed};
use super::embedding::Segments;
use super::memory::{Memory, Slice};
use super::operands::{Count, Rows};
use super::shortlist::List;
use super::step::{Size, StepBlock};
use crate::Result;
use crate::batch::{Batch, TrainingBatches};
use crate::config::{ModelConfig, Objective, TrainConfig};
use cudarc::driver::result;

mod checks;

use checks::{check_indices, check_lists};
pub use checks::{require_target_segments, require_targets};

/// Every array begins at a multiple of this many words, 64 bytes.
const ALIGNMENT: usize = 16;

/// Most tokens, sequences and rows that buffers are made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// `T`
    pub tokens: usize,
    /// `B`
    pub sequences: usize,
    /// `P`
    pub rows: usize,
}

impl Capacity {
    /// What a batch needs.
    pub fn of(batch: &Batch) -> Self {
        Capacity {
            tokens: batch.token_count(),
            sequences: batch.sequence_count(),
            rows: batch.row_count(),
        }
    }

    /// What training batches need. The number of masked tokens is a matter of chance: room for six standard
    /// deviations more than there are on average, and an epoch's windows may lie otherwise in the next. Where nothing
    /// is masked, every token is a row.
    pub fn of_training(
        batches: &TrainingBatches,
        model: &ModelConfig,
        train: &TrainConfig,
    ) -> Self {
        let tokens = batches.max_tokens() as usize;
        let plan = batches.epoch(0);
        let most = (0..plan.len()).map(|index| plan.windows(index).len()).max().unwrap_or(0);
        let sequences = (most + most / 4 + 16).min(tokens);
        let (n, p) = (tokens as f64, train.mask_ratio);
        let rows = match model.objective {
            Objective::Cloze => {
                (n * p + 6.0 * (n * p * (1.0 - p)).sqrt()).ceil() as usize + sequences
            }
            Objective::Causal => tokens,
        };
        Capacity { tokens, sequences, rows: rows.min(tokens) }
    }

    /// What ranking the last token of up to `sequences` sequences needs.
    pub fn of_ranking(sequences: usize, max_len: usize) -> Self {
        Capacity { tokens: sequences.saturating_mul(max_len), sequences, rows: sequences }
    }

    /// Whether a batch that needs `other` fits.
    pub fn holds(&self, other: &Capacity) -> bool {
        self.tokens >= other.tokens && self.sequences >= other.sequences && self.rows >= other.rows
    }

    /// The larger of both, size by size.
    pub fn union(self, other: Capacity) -> Self {
        Capacity {
            tokens: self.tokens.max(other.tokens),
            sequences: self.sequences.max(other.sequences),
            rows: self.rows.max(other.rows),
        }
    }

    /// `T` as kernels read it.
    pub fn token_count(&self) -> Count {
        Count { size: Size::Tokens, most: self.tokens }
    }

    /// `B` as kernels read it.
    pub fn sequence_count(&self) -> Count {
        Count { size: Size::Sequences, most: self.sequences }
    }

    /// `P` as kernels read it.
    pub fn row_count(&self) -> Count {
        Count { size: Size::Rows, most: self.rows }
    }
}

/// What the indices of a batch may be.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// `V`; [`Batch::ids`] go to `V + 1`, MASK.
    pub items: usize,
    /// Rows of the position table.
    pub positions: usize,
}

/// A shortlist as the device gets it, in place of the batch's own targets.
#[derive(Clone, Copy)]
pub struct Listed<'a> {
    /// `[C]` item indices, 1 to `V`, none twice.
    pub items: &'a [u32],
    /// `[C]` what the loss adds to each item's logits.
    pub offsets: &'a [f32],
    /// `[P]` place of each row's target among `items`, from 1.
    pub targets: &'a [u32],
}

/// Memory of the host that the device reads from by itself.
struct Pinned {
    words: *mut u32,
    len: usize,
}

impl Pinned {
    fn new(len: usize) -> Result<Self> {
        // SAFETY: a plain allocation; `Drop` gives it back.
        let words = unsafe { result::malloc_host(len * 4, 0) }
            .map_err(driver("allocate pinned memory"))?
            .cast::<u32>();
        // SAFETY: the allocation has room for `len` words.
        unsafe { words.write_bytes(0, len) };
        Ok(Pinned { words, len })
    }

    fn as_slice(&self) -> &[u32] {
        // SAFETY: `len` words that `new` initialised and that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.words, self.len) }
    }

    fn as_mut_slice(&mut self) -> &mut [u32] {
        // SAFETY: as above, and borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.words, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`. A failure leaves nothing to be done.
        let _ = unsafe { result::free_host(self.words.cast()) };
    }
}

/// Where the arrays of a block begin, in words.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    ids: usize,
    positions: usize,
    cu_seqlens: usize,
    rows: usize,
    cu_rows: usize,
    targets: usize,
    row_of_token: usize,
    token_segments: [usize; 3],
    listed: [usize; 2],
    total: usize,
}

impl Places {
    fn new(capacity: &Capacity, most_listed: usize) -> Self {
        let Capacity { tokens, sequences, rows } = *capacity;
        let mut places = Places { total: ALIGNMENT, ..Places::default() };
        let mut take = |len: usize| {
            let place = places.total;
            places.total += len.next_multiple_of(ALIGNMENT);
            place
        };
        let ids = take(tokens);
        let positions = take(tokens);
        let cu_seqlens = take(sequences + 1);
        let rows_place = take(rows);
        let cu_rows = take(sequences + 1);
        let targets = take(rows);
        let row_of_token = take(tokens);
        let token_segments = [take(tokens), take(tokens + 1), take(tokens)];
        let listed = [take(most_listed), take(most_listed)];
        Places {
            ids,
            positions,
            cu_seqlens,
            rows: rows_place,
            cu_rows,
            targets,
            row_of_token,
            token_segments,
            listed,
            total: places.total,
        }
    }
}

/// A place on the device for one batch and its step block, and the pinned memory it is filled from.
pub struct BatchSlot {
    places: Places,
    capacity: Capacity,
    most_listed: usize,
    tables: Tables,
    pinned: Pinned,
    block: Slice<u32>,
    memory: Memory,
}

impl BatchSlot {
    /// For batches of up to `capacity` whose indices point into `tables`, and shortlists of up to `most_listed` items.
    ///
    /// # Errors
    /// [`crate::Error::Memory`]; [`crate::Error::Device`].
    pub fn new(
        device: &Device,
        capacity: Capacity,
        tables: Tables,
        most_listed: usize,
    ) -> Result<Self> {
        let places = Places::new(&capacity, most_listed);
        let mut memory = Memory::default();
        let block = memory.take::<u32>(device, "batch", places.total)?;
        let pinned = Pinned::new(places.total)?;
        Ok(BatchSlot { places, capacity, most_listed, tables, pinned, block, memory })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// The step block.
    pub fn step(&self) -> Slice<StepBlock> {
        self.block.part(0, size_of::<StepBlock>() / 4).cast()
    }

    /// Writes a batch into pinned memory, with the shortlist where its loss looks at one. The sizes of `step` are
    /// filled in.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the batch is larger than the slot, its lists contradict one another, or an
    /// index is not one of its table.
    pub fn fill(
        &mut self,
        batch: &Batch,
        listed: Option<Listed<'_>>,
        step: StepBlock,
    ) -> Result<()> {
        check_lists(batch)?;
        check_indices(batch, &self.tables)?;
        let needed = Capacity::of(batch);
        if !self.capacity.holds(&needed) {
            let problem = format!("{needed:?} do not fit {:?}", self.capacity);
            return Err(failed("put the batch onto the GPU", problem));
        }
        let items = listed.map_or(self.tables.items, |list| list.items.len());
        if listed.is_some() && items > self.most_listed {
            let problem = format!("{items} listed items do not fit {}", self.most_listed);
            return Err(failed("put the batch onto the GPU", problem));
        }
        let step = StepBlock {
            tokens: needed.tokens as u32,
            sequences: needed.sequences as u32,
            rows: needed.rows as u32,
            token_segments: batch.token_segments.keys.len() as u32,
            items: items as u32,
            ..step
        };
        let places = self.places;
        let words = self.pinned.as_mut_slice();
        let mut put = |place: usize, values: &[u32]| {
            words[place..place + values.len()].copy_from_slice(values);
        };
        put(0, bytemuck::cast_slice(&[step]));
        put(places.ids, &batch.ids);
        put(places.positions, &batch.positions);
        put(places.cu_seqlens, &batch.cu_seqlens);
        put(places.rows, &batch.rows);
        put(places.cu_rows, &batch.cu_rows);
        put(places.targets, listed.map_or(&batch.targets, |list| list.targets));
        if let Some(list) = listed {
            put(places.listed[0], list.items);
            put(places.listed[1], bytemuck::cast_slice(list.offsets));
        }
        let segments = &batch.token_segments;
        put(places.token_segments[0], &segments.keys);
        put(places.token_segments[1], &segments.offsets);
        put(places.token_segments[2], &segments.indices);
        let row_of_token = &mut words[places.row_of_token..][..needed.tokens];
        row_of_token.fill(u32::MAX);
        for (row, &token) in (0u32..).zip(&batch.rows) {
            row_of_token[token as usize] = row;
        }
        Ok(())
    }

    /// Starts the upload on `stream`; pinned memory must stay as it is until that is done.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn upload(&self, stream: &cudarc::driver::CudaStream) -> Result<()> {
        // SAFETY: both sides have the same number of words, and both live as long as `self`, which waits for
        // the device before it goes away (see `Drop` of the engine).
        unsafe {
            result::memcpy_htod_async(
                self.block.address,
                self.pinned.as_slice(),
                stream.cu_stream(),
            )
        }
        .map_err(driver("upload a batch"))
    }

    /// `[T]` item of each token.
    pub fn ids(&self) -> Slice<u32> {
        self.block.part(self.places.ids, self.capacity.tokens)
    }

    /// `[T]` row of the position table.
    pub fn positions(&self) -> Slice<u32> {
        self.block.part(self.places.positions, self.capacity.tokens)
    }

    /// `[B + 1]` where each sequence begins among the tokens.
    pub fn cu_seqlens(&self) -> Slice<u32> {
        self.block.part(self.places.cu_seqlens, self.capacity.sequences + 1)
    }

    /// `[B + 1]` where each sequence begins among the rows.
    pub fn cu_rows(&self) -> Slice<u32> {
        self.block.part(self.places.cu_rows, self.capacity.sequences + 1)
    }

    /// The rows that are read.
    pub fn rows(&self) -> Rows {
        Rows::Selected {
            tokens: self.block.part(self.places.rows, self.capacity.rows),
            rows: self.block.part(self.places.row_of_token, self.capacity.tokens),
        }
    }

    /// `[P]` target of each row: an item, or its place in the shortlist.
    pub fn targets(&self) -> Slice<u32> {
        self.block.part(self.places.targets, self.capacity.rows)
    }

    /// Tokens by item.
    pub fn token_segments(&self) -> Segments {
        let (places, most) = (self.places.token_segments, self.capacity.tokens);
        Segments {
            count: Count { size: Size::TokenSegments, most },
            keys: self.block.part(places[0], most),
            offsets: self.block.part(places[1], most + 1),
            indices: self.block.part(places[2], most),
        }
    }

    /// The shortlist.
    pub fn list(&self) -> List {
        let (places, most) = (self.places.listed, self.most_listed);
        List {
            count: Count { size: Size::Items, most },
            items: self.block.part(places[0], most),
            offsets: self.block.part(places[1], most).cast(),
        }
    }
}
