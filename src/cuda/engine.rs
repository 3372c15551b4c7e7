//! Whole batches on a GPU.
//!
//! A training step: the batch is packed into pinned memory and uploaded by a stream of its own while the step
//! before is at work; then one captured graph runs the forward pass, the item softmax, the backward pass, the
//! gradient norm and AdamW. Two slots take turns, each with a graph of its own. Nothing waits for the device
//! but the reading of outcomes, every few steps, and the reuse of a slot.

mod loss;
mod plan;
mod sampled;
mod training;

pub(super) use plan::Plan;

use super::adamw::{AdamW, OUTCOMES, Outcome};
use super::batch::{Capacity, Tables};
use super::device::{Device, driver};
use super::item_loss;
use super::memory::Storage;
use super::ranking::{OutputTable, Ranking};
use super::step::StepBlock;
use super::top_k::MOST_BEST;
use super::weights::{Slots, Weights};
use super::workspace::Workspace;
use crate::batch::Batch;
use crate::config::{Learner, ModelConfig, TrainConfig};
use crate::cpu::top_k::Entry;
use crate::model::engine::{Engine, MOST_PENDING, State, Step, StepOutcome, top_k_by_score};
use crate::model::init::initial_parameters;
use crate::model::params::ParameterTable;
use crate::{Error, Result, philox};
use cudarc::driver::sys;
use sampled::{Sampled, Sampling};
use std::borrow::Cow;
use training::{Pending, Training};

/// Steps that run kernel by kernel before the first is captured: every kernel has then been loaded.
const EAGER_STEPS: u64 = 1;

/// Rows of a batch, for choosing how many parts the output table's gradient is summed in.
const USUAL_ROWS: usize = 2048;

/// The model on a GPU, activations and matrices stored as `S`.
pub struct CudaEngine<S> {
    pub(super) model: ModelConfig,
    pub(super) table: ParameterTable,
    pub(super) items: usize,
    constants: AdamW,
    /// Where the loss looks at a sample of the items.
    sampling: Option<Sampling>,
    pub(super) weights: Weights<S>,
    training: Option<Training>,
    pub(super) ranking: Option<Ranking>,
    /// Of the weights as they are; `None` until somebody asks for scores.
    pub(super) output: Option<OutputTable>,
    /// Splits of the item softmax: those of the first capacity for good, since the order of sums depends on them.
    splits: Option<usize>,
    /// Outcomes that were read before anyone asked.
    ready: Vec<StepOutcome>,
    /// Whether steps are captured and replayed.
    graphs: bool,
    pub(super) device: Device,
}

impl<S: Storage> CudaEngine<S> {
    /// A model with freshly drawn weights on `device`, the same as on the CPU.
    ///
    /// # Errors
    /// [`Error::Memory`] when weights, moments and gradients do not fit; [`Error::Device`].
    pub fn new(
        device: Device,
        model: &ModelConfig,
        train: &TrainConfig,
        items: usize,
    ) -> Result<Self> {
        let table = ParameterTable::new(model, items);
        let weights = Weights::new(&device, &table, slots(&device, model, train, items))?;
        weights.load(&device, &initial_parameters(&table, model.initializer_range, train.seed))?;
        Ok(CudaEngine::with_weights(device, model, train, items, table, weights))
    }

    /// An engine of `weights`, which must be those of `table`; where they are for ranking only, so is the engine.
    pub(super) fn with_weights(
        device: Device,
        model: &ModelConfig,
        train: &TrainConfig,
        items: usize,
        table: ParameterTable,
        weights: Weights<S>,
    ) -> Self {
        CudaEngine {
            model: model.clone(),
            items,
            constants: AdamW {
                betas: (train.beta1, train.beta2),
                epsilon: train.epsilon,
                weight_decay: train.weight_decay,
                coupled: train.learner == Learner::Adam,
                clip_norm: train.clip_norm,
            },
            sampling: Sampling::new(train, items),
            weights,
            table,
            training: None,
            ranking: None,
            output: None,
            splits: None,
            ready: Vec::new(),
            graphs: true,
            device,
        }
    }

    /// Launches kernel by kernel from now on, or captures and replays whole steps. The results are the same.
    pub fn use_graphs(&mut self, graphs: bool) {
        self.graphs = graphs;
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How much memory of the device is taken, and for what.
    pub fn memory(&self) -> String {
        let weights = self.weights.bytes();
        let training = self.training.as_ref().map_or(0, Training::bytes);
        let ranking = self.ranking.as_ref().map_or(0, Ranking::bytes);
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        format!(
            "memory of {}: {} MiB for weights, moments and gradients, {} for training batches, {} for ranking; \
             {} MiB are left",
            self.device.name(),
            mebibytes(weights),
            mebibytes(training),
            mebibytes(ranking),
            mebibytes(self.device.free_bytes())
        )
    }

    /// Allocates what training steps of up to `capacity` need, unless there is as much already. The last bits of
    /// results depend on the capacity that is reserved first, so that should follow from the configuration alone.
    ///
    /// # Errors
    /// [`Error::Memory`] that names the buffer; [`Error::Device`].
    pub fn reserve_training(&mut self, capacity: Capacity) -> Result<()> {
        let mut capacity = Capacity { rows: capacity.rows.min(capacity.tokens), ..capacity };
        let submitted = match &self.training {
            Some(training) if training.workspace.capacity.holds(&capacity) => return Ok(()),
            Some(training) => {
                capacity = capacity.union(training.workspace.capacity);
                training.submitted
            }
            None => 0,
        };
        self.read_outcomes()?;
        self.device.synchronize()?;
        self.training = None;
        let (device, rows) = (&self.device, capacity.rows);
        let looked_at = self.sampling.map_or(self.items, |sampling| sampling.most_items(rows));
        let splits = *self
            .splits
            .get_or_insert_with(|| item_loss::splits(rows, looked_at, device.multiprocessors()));
        let workspace = Workspace::training::<S>(device, &self.model, capacity, splits)?;
        let width = self.model.hidden_size;
        let sampled =
            |sampling| Sampled::new(device, sampling, rows, USUAL_ROWS, width, size_of::<S>());
        let sampled = self.sampling.map(sampled).transpose()?;
        let chunks = self.weights.arenas.chunks.len;
        let training = Training::new(device, workspace, sampled, self.tables(), chunks, submitted)?;
        self.training = Some(training);
        Ok(())
    }

    /// What batches may point into.
    pub(super) fn tables(&self) -> Tables {
        Tables { items: self.items, positions: self.model.max_len }
    }

    /// Mean loss and the gradients of all weights, laid out like the host's arena; weights are left as they
    /// are. Dropout is on where `dropout` gives its seed and step, which are the sample's too if the loss draws one.
    ///
    /// # Errors
    /// [`Error::Memory`]; [`Error::Device`].
    pub fn loss_and_gradient(
        &mut self,
        batch: &Batch,
        dropout: Option<(u64, u64)>,
    ) -> Result<(f64, Vec<f32>)> {
        self.reserve_training(Capacity::of(batch))?;
        let (seed, number) = dropout.unwrap_or((0, 0));
        let step =
            StepBlock { number: number as u32, key: philox::key(seed), ..StepBlock::default() };
        let Some(training) = &mut self.training else { unreachable!("reserved above") };
        training.fill(0, batch, (seed, number), step)?;
        training.slots[0].batch.upload(self.device.stream())?;
        let plan = Plan {
            model: &self.model,
            table: &self.table,
            items: self.items,
            weights: &self.weights,
            device: &self.device,
            dropout: dropout.is_some(),
        };
        plan.gradients(training, 0)?;
        let losses = self.device.download(training.workspace.scratch.losses)?;
        let losses = &losses[..batch.row_count()];
        let loss = losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len() as f64;
        Ok((loss, self.weights.download(&self.device, self.weights.arenas.gradient)?))
    }

    /// Waits for all steps handed in and puts their outcomes into `ready`.
    fn read_outcomes(&mut self) -> Result<()> {
        let Some(training) = &mut self.training else { return Ok(()) };
        if training.pending.is_empty() {
            return Ok(());
        }
        let ring = self.device.download(training.outcomes)?;
        while let Some(step) = training.pending.pop_front() {
            let outcome = ring[step.number as usize % OUTCOMES];
            if outcome.skipped != 0 {
                training.pending.clear();
                return Err(self.non_finite(step, outcome)?);
            }
            self.ready.push(StepOutcome {
                rows: step.rows,
                loss: f64::from(outcome.loss),
                gradient_norm: f64::from(outcome.gradient_norm),
            });
        }
        Ok(())
    }

    /// Error for the first step that was skipped, naming a tensor at fault: the gradient at hand is that of
    /// the latest step, which had the same weights.
    fn non_finite(&self, step: Pending, outcome: Outcome) -> Result<Error> {
        let gradient = self.weights.download(&self.device, self.weights.arenas.gradient)?;
        let at_fault = gradient.iter().position(|x| !x.is_finite());
        let tensor = match at_fault {
            _ if !outcome.loss.is_finite() => "loss".to_string(),
            Some(index) => format!("gradient of {}", self.table.tensor_at(index).name),
            None => "gradient norm".to_string(),
        };
        Ok(Error::NonFinite { step: step.number, tensor, learning_rate: step.learning_rate })
    }
}

/// Parts that sums over tokens are split in: enough blocks for every multiprocessor, where one matrix alone
/// does not have them. At least two, so that no order of parts goes untested.
fn slots(device: &Device, model: &ModelConfig, train: &TrainConfig, items: usize) -> Slots {
    let wanted = 2 * device.multiprocessors();
    // The tiles of linear.cu.
    let tile = if model.hidden_size.min(model.inner_size) >= 128 { 128 } else { 64 };
    let tiles = 2 * model.hidden_size.div_ceil(tile) * model.inner_size.div_ceil(tile);
    Slots {
        matrices: (wanted / tiles as u32).clamp(2, 32),
        norms: wanted.max(2),
        tables: match Sampling::new(train, items) {
            None => item_loss::table_slots(
                USUAL_ROWS,
                model.hidden_size,
                items,
                device.multiprocessors(),
            ),
            // The list's gradients have parts of their own.
            Some(_) => 1,
        },
    }
}

impl<S: Storage> Engine for CudaEngine<S> {
    fn table(&self) -> &ParameterTable {
        &self.table
    }

    fn train_step(&mut self, batch: &Batch, step: &Step) -> Result<()> {
        self.output = None;
        let needed = Capacity::of(batch);
        if !self
            .training
            .as_ref()
            .is_some_and(|training| training.workspace.capacity.holds(&needed))
        {
            // Room for batches that are a little larger, so that this does not happen again and again.
            let more = |size: usize| size + size.div_ceil(8);
            self.reserve_training(Capacity {
                tokens: more(needed.tokens),
                sequences: more(needed.sequences),
                rows: more(needed.rows),
            })?;
        }
        let Some(training) = &mut self.training else { unreachable!("reserved above") };
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(step.number as f64))) as f32;
        let block = StepBlock {
            number: step.number as u32,
            key: philox::key(step.seed),
            learning_rate: step.learning_rate,
            mean_correction: correction(self.constants.betas.0),
            square_correction: correction(self.constants.betas.1),
            ..StepBlock::default()
        };
        let slot = training.upload(&self.device, batch, (step.seed, step.number), block)?;
        let plan = Plan {
            model: &self.model,
            table: &self.table,
            items: self.items,
            weights: &self.weights,
            device: &self.device,
            dropout: true,
        };
        let stream = self.device.stream();
        if self.graphs && training.submitted >= EAGER_STEPS {
            if training.slots[slot].graph.is_none() {
                use sys::CUstreamCaptureMode_enum as Mode;
                let mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
                stream.begin_capture(mode).map_err(driver("capture a step"))?;
                let captured = plan.step(training, slot, self.constants);
                use sys::CUgraphInstantiate_flags_enum as Flags;
                let flags = Flags::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
                let graph = stream.end_capture(flags).map_err(driver("capture a step"));
                captured?;
                training.slots[slot].graph = graph?;
            }
            if let Some(graph) = &training.slots[slot].graph {
                graph.launch().map_err(driver("replay a step"))?;
            }
        } else {
            plan.step(training, slot, self.constants)?;
        }
        let computed = &training.slots[slot].computed;
        computed.record(stream).map_err(driver("order a step"))?;
        training.submitted += 1;
        training.pending.push_back(Pending {
            number: step.number,
            learning_rate: step.learning_rate,
            rows: batch.row_count(),
        });
        Ok(())
    }

    fn outcomes(&mut self, wait: bool) -> Result<Vec<StepOutcome>> {
        let pending = self.training.as_ref().map_or(0, |training| training.pending.len());
        if wait || pending >= MOST_PENDING {
            self.read_outcomes()?;
        }
        Ok(std::mem::take(&mut self.ready))
    }

    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        self.ranks(batch, seen)
    }

    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>> {
        self.listed_scores(batch, items)
    }

    fn top_k(&mut self, batch: &Batch, seen: &[&[u32]], k: usize) -> Result<Vec<Vec<u32>>> {
        match k {
            1..=MOST_BEST => {
                let items = |row: Vec<Entry>| row.into_iter().map(|entry| entry.item).collect();
                Ok(self.best_items(batch, seen, None, k)?.into_iter().map(items).collect())
            }
            _ => top_k_by_score(self, batch, seen, k),
        }
    }

    fn state(&self) -> Result<Cow<'_, State>> {
        self.weights.state(&self.device).map(Cow::Owned)
    }

    fn parameters(&self) -> Result<Cow<'_, [f32]>> {
        let parameters = self.weights.download(&self.device, self.weights.arenas.parameters)?;
        Ok(Cow::Owned(parameters))
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.output = None;
        self.weights.load_state(&self.device, state)
    }

    fn load_parameters(&mut self, parameters: &[f32]) -> Result<()> {
        self.output = None;
        self.weights.load(&self.device, parameters)
    }
}

impl<S> Drop for CudaEngine<S> {
    fn drop(&mut self) {
        // Buffers and pinned memory must outlive the work on them. Nobody is left to be told of a failure.
        let _ = self.device.synchronize();
        if let Some(training) = &self.training {
            let _ = training.uploads.synchronize();
        }
    }
}
