//! What only training needs on the device: two slots for batches, and what steps leave to be read.

use super::sampled::Sampled;
use crate::Result;
use crate::batch::Batch;
use crate::cuda::adamw::{OUTCOMES, Outcome};
use crate::cuda::batch::{BatchSlot, Tables, require_target_segments, require_targets};
use crate::cuda::device::{Device, driver};
use crate::cuda::memory::{Memory, Slice};
use crate::cuda::step::StepBlock;
use crate::cuda::workspace::Workspace;
use cudarc::driver::{CudaEvent, CudaGraph, CudaStream};
use std::collections::VecDeque;
use std::sync::Arc;

/// What only training needs.
pub(super) struct Training {
    pub workspace: Workspace,
    /// Where the loss looks at a sample of the items.
    pub sampled: Option<Sampled>,
    tables: Tables,
    pub slots: [TrainingSlot; 2],
    /// Uploads batches.
    pub uploads: Arc<CudaStream>,
    pub squares: Slice<f32>,
    pub halted: Slice<u32>,
    pub outcomes: Slice<Outcome>,
    pub submitted: u64,
    pub pending: VecDeque<Pending>,
    _memory: Memory,
}

pub(super) struct TrainingSlot {
    pub batch: BatchSlot,
    pub uploaded: CudaEvent,
    pub computed: CudaEvent,
    pub graph: Option<CudaGraph>,
}

/// A step whose outcome has not been read.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub number: u64,
    pub learning_rate: f32,
    pub rows: usize,
}

impl Training {
    pub fn new(
        device: &Device,
        workspace: Workspace,
        sampled: Option<Sampled>,
        tables: Tables,
        chunks: usize,
        submitted: u64,
    ) -> Result<Self> {
        let capacity = workspace.capacity;
        let most_listed = sampled.as_ref().map_or(0, |sampled| sampled.most);
        let mut memory = Memory::default();
        let slot = || -> Result<TrainingSlot> {
            let event = || device.context().new_event(None).map_err(driver("make an event"));
            Ok(TrainingSlot {
                batch: BatchSlot::new(device, capacity, tables, most_listed)?,
                uploaded: event()?,
                computed: event()?,
                graph: None,
            })
        };
        Ok(Training {
            workspace,
            sampled,
            tables,
            slots: [slot()?, slot()?],
            uploads: device.context().new_stream().map_err(driver("open a stream"))?,
            squares: memory.take(device, "squares of gradients", chunks)?,
            halted: memory.take_zeroed(device, "flag of a halted run", 1)?,
            outcomes: memory.take_zeroed(device, "outcomes of steps", OUTCOMES)?,
            submitted,
            pending: VecDeque::new(),
            _memory: memory,
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        let slots: u64 = self.slots.iter().map(|slot| slot.batch.bytes()).sum();
        self.workspace.bytes() + self.sampled.as_ref().map_or(0, Sampled::bytes) + slots
    }

    /// Packs a batch into the pinned memory of slot `index`, with the list that its loss looks at, drawn at `address`,
    /// seed and step.
    pub fn fill(
        &mut self,
        index: usize,
        batch: &Batch,
        address: (u64, u64),
        step: StepBlock,
    ) -> Result<()> {
        let slot = &mut self.slots[index].batch;
        match &mut self.sampled {
            None => {
                require_targets(batch)?;
                slot.fill(batch, None, step)
            }
            Some(sampled) => {
                require_target_segments(batch, &self.tables)?;
                slot.fill(batch, Some(sampled.draw(batch, address)), step)
            }
        }
    }

    /// Packs and uploads a batch while the step before may still be at work. Returns its slot.
    pub fn upload(
        &mut self,
        device: &Device,
        batch: &Batch,
        address: (u64, u64),
        step: StepBlock,
    ) -> Result<usize> {
        let index = (self.submitted % 2) as usize;
        // The pinned memory may be written once the upload two steps ago is over, the device's block once
        // that step is. An event that was never recorded counts as over.
        self.slots[index].uploaded.synchronize().map_err(driver("wait for an upload"))?;
        self.fill(index, batch, address, step)?;
        let slot = &self.slots[index];
        self.uploads.wait(&slot.computed).map_err(driver("order an upload"))?;
        slot.batch.upload(&self.uploads)?;
        slot.uploaded.record(&self.uploads).map_err(driver("order an upload"))?;
        device.stream().wait(&slot.uploaded).map_err(driver("order a step"))?;
        Ok(index)
    }
}
