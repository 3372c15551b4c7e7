//! The kernels as build.rs embedded them.

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Name of the file without `.cu`.
    pub name: &'static str,
    /// What the driver loads: a fatbin followed by the manifest, or, built without nvcc, the manifest alone.
    pub image: &'static [u8],
    /// Names of its kernels, in the order of the source.
    pub kernels: &'static [&'static str],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
