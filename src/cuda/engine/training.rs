//! What only training needs on the device: two slots for batches, and what steps leave to be read.

use crate::Result;
use crate::batch::Batch;
use crate::cuda::adamw::{OUTCOMES, Outcome};
use crate::cuda::batch::{BatchSlot, Tables, require_targets};
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
        tables: Tables,
        chunks: usize,
        submitted: u64,
    ) -> Result<Self> {
        let capacity = workspace.capacity;
        let mut memory = Memory::default();
        let slot = || -> Result<TrainingSlot> {
            let event = || device.context().new_event(None).map_err(driver("make an event"));
            Ok(TrainingSlot {
                batch: BatchSlot::new(device, capacity, tables)?,
                uploaded: event()?,
                computed: event()?,
                graph: None,
            })
        };
        Ok(Training {
            workspace,
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

    /// Packs and uploads a batch while the step before may still be at work. Returns its slot.
    pub fn upload(&mut self, device: &Device, batch: &Batch, step: StepBlock) -> Result<usize> {
        require_targets(batch)?;
        let index = (self.submitted % 2) as usize;
        let slot = &mut self.slots[index];
        // The pinned memory may be written once the upload two steps ago is over, the device's block once
        // that step is. An event that was never recorded counts as over.
        slot.uploaded.synchronize().map_err(driver("wait for an upload"))?;
        slot.batch.fill(batch, step)?;
        self.uploads.wait(&slot.computed).map_err(driver("order an upload"))?;
        slot.batch.upload(&self.uploads)?;
        slot.uploaded.record(&self.uploads).map_err(driver("order an upload"))?;
        device.stream().wait(&slot.uploaded).map_err(driver("order a step"))?;
        Ok(index)
    }
}
