//! The compiled kernels, embedded by `build.rs`.

/// One kernel file.
pub struct Module {
    /// Its base name in `kernels/`.
    pub name: &'static str,
    /// What the driver loads: cubins and PTX where there was an nvcc, then a manifest that the software GPU
    /// reads.
    pub image: &'static [u8],
    /// Its entry points.
    pub kernels: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
