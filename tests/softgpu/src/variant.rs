//! The library compiled with a sanitizer.

use crate::compile::{Library, Sanitizer, compiler};
use std::path::{Path, PathBuf};

/// Which kernels a library has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// b4r's.
    B4r,
    /// Those of this package's own tests, most with a bug.
    Planted,
}

/// A library of the software GPU and what a process that loads it needs.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The library, for [`crate::load_variant`] or for SOFTGPU_LIBRARY.
    pub library: PathBuf,
    /// The sanitizer's own library, for LD_PRELOAD.
    pub runtime: PathBuf,
}

/// Builds a library with a sanitizer; none where the C++ compiler does not come with that sanitizer as a shared
/// library.
///
/// # Errors
/// A sentence, when the compiler is missing or refuses a file.
pub fn variant(kernels: Kernels, sanitizer: Sanitizer) -> Result<Option<Variant>, String> {
    let Some(runtime) = sanitizer_runtime(sanitizer)? else { return Ok(None) };
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("OUT_DIR"));
    let b4r = Path::new(env!("SOFTGPU_KERNELS"));
    let (kernels, name, hash) = match kernels {
        Kernels::B4r => (b4r, "kernels", env!("SOFTGPU_KERNELS_HASH")),
        Kernels::Planted => {
            (Path::new(env!("SOFTGPU_PLANTED")), "planted", env!("SOFTGPU_PLANTED_HASH"))
        }
    };
    let library = Library {
        package,
        kernels,
        include: b4r,
        hash,
        sanitizer,
        target: env!("SOFTGPU_TARGET"),
        cache: &out.join("objects"),
        into: &out.join(name).join(sanitizer.name()),
    }
    .build()?;
    Ok(Some(Variant { library, runtime }))
}

fn sanitizer_runtime(sanitizer: Sanitizer) -> Result<Option<PathBuf>, String> {
    let name = match sanitizer {
        Sanitizer::None => return Ok(None),
        Sanitizer::Address => "libasan.so",
        Sanitizer::Thread => "libtsan.so",
    };
    let output = compiler(env!("SOFTGPU_TARGET"))?
        .command()
        .arg(format!("-print-file-name={name}"))
        .output()
        .map_err(|error| format!("the C++ compiler: {error}"))?;
    // A compiler that has it answers with its path, another with the name alone.
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    Ok((path.is_absolute() && path.exists()).then_some(path))
}
