//! Keys that say where and on what the run happens.

use super::{Key, Scope, Section};
use crate::config::parse::{Parsed, Problem, boolean, choice, integer, optional, path, put, text};
use crate::config::value::Value;
use crate::config::{Device, Precision};

const PRECISIONS: &[(&str, Precision)] = &[("f32", Precision::F32), ("bf16", Precision::Bf16)];

/// Most threads; far beyond any machine, and few enough that their stacks fit the address space.
pub(in crate::config) const MAX_THREADS: u64 = 4096;

pub(super) const KEYS: &[Key] = &[
    Section::Run.key(
        "run_dir",
        "DIR",
        "Folder for everything the run writes (runs/<dataset>-seed<seed> otherwise)",
        |c| Some(c.run.run_dir.clone().into()),
        |c, v| put(&mut c.run.run_dir, optional(v, path)),
    ),
    Section::Run.key(
        "resume",
        "",
        "Continue the run in run_dir, with its own configuration, from its last checkpoint",
        |_| None,
        |c, v| put(&mut c.run.resume, boolean(v)),
    ),
    Section::Run.key(
        "overwrite",
        "",
        "Start afresh in a run_dir that holds a run already",
        |_| None,
        |c, v| put(&mut c.run.overwrite, boolean(v)),
    ),
    Section::Run.key(
        "threads",
        "N",
        "Threads to compute with; 0 takes every core; the result does not depend on it",
        |c| Some(c.run.threads.into()),
        |c, v| put(&mut c.run.threads, integer(v, 0, MAX_THREADS).map(|n| n as usize)),
    ),
    Section::Run.key(
        "device",
        "NAME",
        "auto (a GPU where one can compute this, else the CPU), cpu, cuda or cuda:N",
        |c| Some(c.run.device.to_string().into()),
        |c, v| put(&mut c.run.device, device(v)),
    ),
    // RecBole's two keys for the same; what they come to is decided when all keys are known.
    Section::Run
        .key(
            "use_gpu",
            "BOOL",
            "RecBole's spelling of device",
            |_| None,
            |_, v| optional(v, boolean).map(|_| ()),
        )
        .hidden(),
    Section::Run
        .key("gpu_id", "N", "RecBole's spelling of device", |_| None, |_, v| gpu_id(v).map(|_| ()))
        .hidden(),
    Section::Run
        .key(
            "precision",
            "NAME",
            "f32 or bf16 (GPU only; bf16 there and f32 on the CPU otherwise)",
            |c| Some(c.run.precision.map(Precision::name).into()),
            |c, v| put(&mut c.run.precision, optional(v, |v| choice(v, PRECISIONS))),
        )
        .scope(Scope::Result),
    Section::Run
        .key(
            "log_wandb",
            "",
            "Log to Weights & Biases through the wandb of python3 (or of the Python in B4R_PYTHON)",
            |c| Some(c.run.log_wandb.into()),
            |c, v| put(&mut c.run.log_wandb, boolean(v)),
        )
        .scope(Scope::Run),
    Section::Run
        .key(
            "wandb_project",
            "NAME",
            "Project of Weights & Biases to log to",
            |c| Some(Value::Text(c.run.wandb_project.clone())),
            |c, v| put(&mut c.run.wandb_project, text(v)),
        )
        .scope(Scope::Run),
    Section::Run.key(
        "show_progress",
        "",
        "Progress bars; only on a terminal otherwise",
        |c| Some(c.run.progress.into()),
        |c, v| put(&mut c.run.progress, optional(v, boolean)),
    ),
];

fn device(value: &Value) -> Parsed<Device> {
    let remedy = "write auto, cpu, cuda or cuda:1 (the number of the GPU)";
    let problem = || Problem::new(format!("`{}` is no device", value.brief()), remedy);
    let Value::Text(name) = value else { return Err(problem()) };
    let name = name.trim().to_ascii_lowercase();
    let (kind, number) = name.split_once(':').unwrap_or((&name, "0"));
    let number = number.parse().map_err(|_| problem());
    match kind {
        "auto" => Ok(Device::Auto(number?)),
        "cuda" => Ok(Device::Cuda(number?)),
        "cpu" if name == "cpu" => Ok(Device::Cpu),
        _ => Err(problem()),
    }
}

/// RecBole's `gpu_id`: the GPUs a process may see, of which one process uses the first. An empty text, or a
/// negative number, hides all of them.
pub(in crate::config) fn gpu_id(value: &Value) -> Parsed<Device> {
    let text = value.to_string();
    let text = text.trim_matches(['"', '[', ']', ' ']);
    let first = text.split(',').next().unwrap_or_default().trim();
    match first.parse::<i64>() {
        _ if first.is_empty() => Ok(Device::Cpu),
        _ if value.is_null() => Ok(Device::default()),
        Ok(number) if number < 0 => Ok(Device::Cpu),
        Ok(number) if number <= i64::from(u32::MAX) => Ok(Device::Auto(number as u32)),
        _ => Err(Problem::new(
            format!("`{}` is no number of a GPU", value.brief()),
            "write device: cuda:1 (the number of the GPU), or leave it out",
        )),
    }
}
