//! Whether a GPU can compute a run, and what is missing where it cannot.
//!
//! All decisions are functions of plain facts, so that each sentence can be tested without a GPU.

use crate::Error;
use crate::config::{Device, ModelConfig, Precision};
use std::fmt;

/// Widest `D` and `K` the kernels have room for on chip.
const MAX_WIDTH: usize = 1024;
const MAX_HEAD_WIDTH: usize = 128;
/// How the name of the tests' software GPU begins: thousands of times slower than the processor it runs on.
const SOFTWARE_GPU: &str = "b4r software GPU";
/// Oldest GPU with bf16 tensor cores and `cp.async`.
const OLDEST_GPU: (u32, u32) = (8, 0);

/// Why a GPU cannot compute a run, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is missing.
    pub problem: String,
    /// What the user can do.
    pub remedy: String,
}

impl Refusal {
    /// From anything printable.
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Refusal { problem: problem.into(), remedy: remedy.into() }
    }
}

impl From<Refusal> for Error {
    fn from(Refusal { problem, remedy }: Refusal) -> Self {
        Error::config("device", problem, remedy)
    }
}

/// Major and minor part of a CUDA version or compute capability.
pub type Version = (u32, u32);

/// What the driver says about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Machine {
    /// There is no driver library.
    NoDriver,
    /// The driver library is there, but does not start: its error.
    Broken(String),
    /// A driver that works.
    Driver {
        /// Newest CUDA version it knows.
        cuda: Version,
        /// Its GPUs.
        gpus: Vec<Gpu>,
    },
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability.
    pub capability: Version,
}

/// How the kernels in this program were built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Version of the toolkit; `None`: without nvcc.
    pub toolkit: Option<Version>,
    /// Compute capabilities, times ten, with machine code of their own.
    pub architectures: &'static [u32],
}

impl Built {
    /// This very program.
    pub const THIS: Built =
        Built { toolkit: super::kernels::TOOLKIT, architectures: super::kernels::ARCHITECTURES };
}

/// The GPU of this number, where it can load and run the kernels. Whether an image without machine code is
/// accepted only its loading can tell: see [`not_loaded`].
///
/// # Errors
/// What is missing first.
pub fn gpu<'a>(machine: &'a Machine, number: u32, built: &Built) -> Result<&'a Gpu, Refusal> {
    let (cuda, gpus) = match machine {
        Machine::NoDriver => {
            return Err(Refusal::new(
                "this machine has no NVIDIA driver: its library libcuda.so is not found",
                "install the driver, or put the folder of libcuda.so on LD_LIBRARY_PATH; or write device: cpu",
            ));
        }
        Machine::Broken(error) => {
            return Err(Refusal::new(
                format!("the NVIDIA driver does not start: {error}"),
                "see whether nvidia-smi works, and whether the container may use the GPU; or write device: cpu",
            ));
        }
        Machine::Driver { cuda, gpus } => (*cuda, gpus),
    };
    let gpu = gpus.get(number as usize).ok_or_else(|| no_such_gpu(number, gpus))?;
    if gpu.capability < OLDEST_GPU {
        return Err(Refusal::new(
            format!(
                "{} has compute capability {}; the kernels need {} or newer (Ampere: bf16 tensor cores)",
                gpu.name,
                dotted(gpu.capability),
                dotted(OLDEST_GPU)
            ),
            "take a newer GPU, or write device: cpu",
        ));
    }
    match built.toolkit {
        Some(toolkit) => driver_is_new_enough(cuda, gpu, toolkit, built).map(|()| gpu),
        None => Ok(gpu),
    }
}

fn no_such_gpu(number: u32, gpus: &[Gpu]) -> Refusal {
    if gpus.is_empty() {
        return Refusal::new(
            "the NVIDIA driver finds no GPU",
            "see what nvidia-smi lists, and CUDA_VISIBLE_DEVICES; or write device: cpu",
        );
    }
    let list: Vec<String> =
        gpus.iter().enumerate().map(|(i, gpu)| format!("{i} ({})", gpu.name)).collect();
    Refusal::new(
        format!("there is no GPU {number}; the driver lists {}", list.join(", ")),
        "write device: cuda:N with one of these numbers",
    )
}

/// Machine code runs with any driver of its toolkit's major version; PTX is translated only by one that knows
/// its minor version too.
fn driver_is_new_enough(
    cuda: Version,
    gpu: &Gpu,
    toolkit: Version,
    built: &Built,
) -> Result<(), Refusal> {
    let (major, minor) = gpu.capability;
    let own_code = built.architectures.iter().any(|n| n / 10 == major && n % 10 <= minor);
    let needed = if own_code { (toolkit.0, 0) } else { toolkit };
    if cuda >= needed {
        return Ok(());
    }
    let why = match own_code {
        true => String::new(),
        false => format!(
            ", and {} (compute capability {}) needs them translated by the driver",
            gpu.name,
            dotted(gpu.capability)
        ),
    };
    Err(Refusal::new(
        format!(
            "the NVIDIA driver knows CUDA up to {}, but the kernels were compiled with CUDA {}{why}",
            dotted(cuda),
            dotted(toolkit)
        ),
        format!(
            "install {} for CUDA {} or newer, or build b4r with nvcc of CUDA {} or older",
            driver_series(needed.0),
            dotted(needed),
            dotted(cuda)
        ),
    ))
}

/// The first driver series of a major version, as NVIDIA's compatibility table has it.
fn driver_series(major: u32) -> &'static str {
    match major {
        12 => "driver 525 or newer,",
        13 => "driver 580 or newer,",
        _ => "a driver",
    }
}

fn dotted((major, minor): Version) -> String {
    format!("{major}.{minor}")
}

/// What it means that the driver did not take `module` and said `error`.
pub fn not_loaded(module: &str, error: impl fmt::Display, built: &Built) -> Refusal {
    match built.toolkit {
        None => Refusal::new(
            "this program has no compiled CUDA kernels: it was built without nvcc",
            "install the CUDA toolkit (or its pip packages), name nvcc in B4R_NVCC and build again: docs/gpu.md; \
             or write device: cpu",
        ),
        Some(toolkit) => Refusal::new(
            format!(
                "the driver does not load the kernels of {module}, compiled with CUDA {} for sm_{:?}: {error}",
                dotted(toolkit),
                built.architectures
            ),
            "install a newer driver, or build b4r with the toolkit of the driver's version; or write device: cpu",
        ),
    }
}

/// Whether the kernels have the sizes and options of `model`.
///
/// # Errors
/// The first that does not fit.
pub fn fits(model: &ModelConfig) -> Result<(), Refusal> {
    let width = model.hidden_size;
    if !width.is_multiple_of(16) || width > MAX_WIDTH {
        return Err(Refusal::new(
            format!(
                "the CUDA kernels need hidden_size to be a multiple of 16 up to {MAX_WIDTH}; it is {width}"
            ),
            format!("write hidden_size: {}; or device: cpu", nearest(width, 16, MAX_WIDTH)),
        ));
    }
    let head = width / model.n_heads.max(1);
    if !head.is_multiple_of(8) || head > MAX_HEAD_WIDTH {
        return Err(Refusal::new(
            format!(
                "the CUDA kernels need hidden_size / n_heads to be a multiple of 8 up to {MAX_HEAD_WIDTH}; \
                 {width} / {} is {head}",
                model.n_heads
            ),
            format!("write n_heads: {}; or device: cpu", fitting_heads(width)),
        ));
    }
    let inner = model.inner_size;
    if !inner.is_multiple_of(16) {
        return Err(Refusal::new(
            format!("the CUDA kernels need inner_size to be a multiple of 16; it is {inner}"),
            format!("write inner_size: {}; or device: cpu", nearest(inner, 16, usize::MAX)),
        ));
    }
    Ok(())
}

/// The multiple of `step` next above `size`, or `most`.
fn nearest(size: usize, step: usize, most: usize) -> usize {
    size.checked_next_multiple_of(step).unwrap_or(most).min(most)
}

/// Numbers of heads that leave a head width the kernels have.
fn fitting_heads(width: usize) -> String {
    let fits = |heads: &usize| {
        width.is_multiple_of(*heads)
            && (width / heads).is_multiple_of(8)
            && width / heads <= MAX_HEAD_WIDTH
    };
    let heads: Vec<String> = (1..=width / 8).filter(fits).map(|heads| heads.to_string()).collect();
    heads.join(" or ")
}

/// What a run computes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// [`Device::Cpu`] or [`Device::Cuda`].
    pub device: Device,
    /// Name of the GPU.
    pub gpu: Option<String>,
    /// In what numbers.
    pub precision: Precision,
    /// Why the processor computes although `auto` would rather have a GPU.
    pub reason: Option<String>,
}

/// `device cuda (NVIDIA L4), bf16`, or `device cpu, f32: this machine has ...`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.device)?;
        if let Some(gpu) = &self.gpu {
            write!(f, " ({gpu})")?;
        }
        write!(f, ", {}", self.precision.name())?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// Decides what computes. `open` tries the GPU of a number and returns it with its name; it is not called for
/// [`Device::Cpu`].
///
/// # Errors
/// [`Error::Config`]: the GPU that was asked for cannot compute this, or bf16 was asked for and none can.
pub fn choose<G>(
    asked: Device,
    precision: Option<Precision>,
    open: impl FnOnce(u32) -> Result<(G, String), Refusal>,
) -> crate::Result<(Choice, Option<G>)> {
    let on_cpu = |reason: Option<Refusal>| match (precision, reason) {
        (Some(Precision::Bf16), Some(Refusal { problem, remedy })) => Err(Error::config(
            "precision",
            format!("bf16 needs a GPU, and none can compute this: {problem}"),
            format!("{remedy}; with that, precision: f32"),
        )),
        (Some(Precision::Bf16), None) => Err(Error::config(
            "precision",
            "bf16 needs a GPU; the CPU computes in f32",
            "write precision: f32, or leave it out; or write device: cuda",
        )),
        (_, reason) => {
            let reason = reason.map(|refusal| refusal.problem);
            let choice =
                Choice { device: Device::Cpu, gpu: None, precision: Precision::F32, reason };
            Ok((choice, None))
        }
    };
    let number = match asked {
        Device::Cpu => return on_cpu(None),
        Device::Auto(number) | Device::Cuda(number) => number,
    };
    match open(number) {
        Ok((_, name)) if matches!(asked, Device::Auto(_)) && name.starts_with(SOFTWARE_GPU) => {
            on_cpu(Some(Refusal::new(
                "the only GPU is the software GPU of the tests",
                "write device: cuda to have it nevertheless",
            )))
        }
        Ok((gpu, name)) => {
            let precision = precision.unwrap_or(Precision::Bf16);
            let device = Device::Cuda(number);
            Ok((Choice { device, gpu: Some(name), precision, reason: None }, Some(gpu)))
        }
        Err(refusal) if matches!(asked, Device::Auto(_)) => on_cpu(Some(refusal)),
        Err(refusal) => Err(refusal.into()),
    }
}
