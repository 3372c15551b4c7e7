//! How much memory the machine can give, and how much this process has used.

use crate::{Error, Result};

/// Bytes this process can still allocate without swapping: free memory, or what the control group or
/// `ulimit -v` leaves, whichever is least.
pub fn available() -> u64 {
    free().min(address_space())
}

/// Bytes of address space that the process may still take.
fn address_space() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live, writable rlimit for the whole call.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } != 0;
    if failed || limit.rlim_cur == libc::RLIM_INFINITY {
        return u64::MAX;
    }
    // Where the system does not tell what is taken, the whole limit stands.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let taken = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kibibytes = taken.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let rest = limit.rlim_cur.saturating_sub(kibibytes.unwrap_or(0).saturating_mul(1024));
    // Allocators and threads reserve more than they use.
    rest - rest / 8
}

fn free() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else { return u64::MAX };
    system.refresh_memory();
    let free = system.available_memory();
    match system.cgroup_limits() {
        Some(limits) if limits.free_memory > 0 => free.min(limits.free_memory),
        _ => free,
    }
}

/// Largest resident set this process has had so far, in bytes.
pub fn peak_resident() -> u64 {
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a live, writable rusage for the whole call.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } != 0;
    if failed {
        return 0;
    }
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    usage.ru_maxrss as u64 * unit
}

/// Refuses `needed` bytes for `what` when the machine cannot give them.
pub fn require(what: &str, needed: u128, remedy: &str) -> Result<()> {
    let available = available();
    if needed > u128::from(available) {
        return Err(Error::Memory {
            what: what.to_string(),
            needed,
            available,
            remedy: remedy.to_string(),
        });
    }
    Ok(())
}
