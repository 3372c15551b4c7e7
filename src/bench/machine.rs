//! What a measurement was made on and with.

use crate::memory;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::process::Command;

/// The machine, as far as the system tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Widest vector instructions that the engine uses here.
    pub vectors: &'static str,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Operating system and its version.
    pub system: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let mut system = sysinfo::System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_memory();
        }
        Machine {
            processor: processor().unwrap_or_else(|| std::env::consts::ARCH.to_string()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            vectors: vectors(),
            memory_bytes: system.map_or(0, |system| system.total_memory()),
            system: sysinfo::System::long_os_version()
                .unwrap_or_else(|_| std::env::consts::OS.to_string()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cores, vectors, memory_bytes, system } = self;
        write!(f, "{processor}, {cores} cores, {vectors}, {} GiB, {system}", memory_bytes >> 30)
    }
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    if cfg!(feature = "x86-v4") && std::is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        "AVX2"
    } else {
        "SSE2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    std::env::consts::ARCH
}

/// Commit of the source that this program was built from, `-dirty` where it has changes now; `None` where the
/// source or git is no longer there.
pub fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let source = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git").arg("-C").arg(source).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    // A parent folder's repository is not this program's.
    git(&["ls-files", "--error-unmatch", "src/bench/machine.rs"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// Largest resident set of this process so far, in bytes, without what the process that started it had: Linux
/// hands that on in `getrusage`.
pub fn peak_resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map_or_else(memory::peak_resident, |kibibytes| kibibytes * 1024)
}
