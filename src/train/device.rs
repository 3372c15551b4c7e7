//! What a run computes on, and the engine made for it.

use super::prepare::Prepared;
use crate::Result;
use crate::config::{Config, Precision};
use crate::cpu::CpuEngine;
use crate::cuda::choice::{self, Choice};
use crate::cuda::device::Device;
use crate::cuda::engine::CudaEngine;
use crate::cuda::machine;
use crate::model::engine::Engine;

/// Decides what computes, and opens it where it is a GPU.
///
/// # Errors
/// Those of [`choice::choose`].
pub fn choose(config: &Config) -> Result<(Choice, Option<Device>)> {
    let open = |number| machine::open(number, &config.model);
    choice::choose(config.run.device, config.run.precision, open)
}

/// The engine for what [`choose`] gave, with freshly drawn weights.
///
/// # Errors
/// [`crate::Error::Memory`] and [`crate::Error::Device`].
pub fn engine(
    config: &Config,
    prepared: &Prepared,
    precision: Precision,
    gpu: Option<Device>,
) -> Result<Box<dyn Engine>> {
    let (model, train, items) = (&config.model, &config.train, prepared.dataset.item_count());
    Ok(match (gpu, precision) {
        (None, _) => Box::new(CpuEngine::new(model, train, items, config.run.threads)?),
        (Some(gpu), Precision::F32) => Box::new(CudaEngine::<f32>::new(gpu, model, train, items)?),
        (Some(gpu), Precision::Bf16) => {
            Box::new(CudaEngine::<half::bf16>::new(gpu, model, train, items)?)
        }
    })
}
