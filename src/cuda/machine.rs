//! Asks the driver what [`super::choice`] decides by, and opens the GPU that was chosen.

use super::choice::{self, Built, Gpu, Machine, Refusal};
use super::device::Device;
use crate::Error;
use crate::config::ModelConfig;
use cudarc::driver::{DriverError, result, sys};

/// What the driver says about this machine.
pub fn look() -> Machine {
    // SAFETY: only asks the loader whether the driver's library can be opened.
    if !unsafe { sys::is_culib_present() } {
        return Machine::NoDriver;
    }
    match ask() {
        Ok(machine) => machine,
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            Machine::Driver { cuda: (0, 0), gpus: Vec::new() }
        }
        Err(error) => Machine::Broken(error.to_string()),
    }
}

fn ask() -> Result<Machine, DriverError> {
    result::init()?;
    let mut cuda = 0;
    // SAFETY: `cuda` is a live, writable int for the whole call.
    unsafe { sys::cuDriverGetVersion(&mut cuda) }.result()?;
    let gpus = (0..result::device::get_count()?).map(gpu).collect::<Result<_, _>>()?;
    // 13050 is 13.5.
    Ok(Machine::Driver { cuda: (cuda as u32 / 1000, cuda as u32 % 1000 / 10), gpus })
}

fn gpu(number: i32) -> Result<Gpu, DriverError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let device = result::device::get(number)?;
    // SAFETY: the driver has just given this device.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Gpu { name: result::device::get_name(device)?, capability: (major as u32, minor as u32) })
}

/// The GPU of this number with all kernels loaded, and its name, where it can compute `model`.
///
/// # Errors
/// What is missing first.
pub fn open(number: u32, model: &ModelConfig) -> Result<(Device, String), Refusal> {
    choice::fits(model)?;
    choice::gpu(&look(), number, &Built::THIS)?;
    let device = Device::open(number as usize).map_err(|error| match error {
        Error::Config { problem, remedy, .. } => Refusal { problem, remedy },
        other => Refusal::new(
            other.to_string(),
            "see whether nvidia-smi lists the GPU and other programs leave it memory; or write device: cpu",
        ),
    })?;
    let name = device.name().to_string();
    Ok((device, name))
}
