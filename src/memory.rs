//! How much memory the machine can give, and how much this process has used.

use crate::{Error, Result};

/// Bytes this process can still allocate without swapping: free memory or the control group's rest,
/// whichever is less.
pub fn available() -> u64 {
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
