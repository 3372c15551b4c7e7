//! Keys that say where and on what the run happens.

use super::{Key, Scope, Section};
use crate::config::Device;
use crate::config::parse::{
    Parsed, Problem, boolean, choice, integer, name_of, optional, path, put, text,
};
use crate::config::value::Value;

const DEVICES: &[(&str, Device)] = &[("auto", Device::Auto), ("cpu", Device::Cpu)];

/// Most threads; far beyond any machine, and few enough that their stacks fit the address space.
pub(in crate::config) const MAX_THREADS: u64 = 4096;

pub(super) const KEYS: &[Key] = &[
    Section::Run.key(
        "run_dir",
        "DIR",
        "Folder for everything the run writes (runs/<dataset>-<seed> otherwise)",
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
        "auto or cpu",
        |c| Some(name_of(c.run.device, DEVICES)),
        |c, v| put(&mut c.run.device, device(v)),
    ),
    Section::Run
        .key(
            "precision",
            "NAME",
            "f32",
            |_| Some("f32".into()),
            |_, v| {
                choice(v, &[("f32", ())]).map_err(|error| {
                    Problem::new(error.problem, "write f32, the precision of the CPU")
                })
            },
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
    match value {
        Value::Text(name) if name.trim().to_ascii_lowercase().starts_with("cuda") => Err(
            Problem::new("this build has no CUDA engine yet", "write device: cpu, or leave it out"),
        ),
        other => choice(other, DEVICES),
    }
}
