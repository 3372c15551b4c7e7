//! Builds `libcuda.so` from the kernels and the runtime, and a second one from the kernels with planted bugs.

mod compile;
#[path = "../../../kernels/manifest.rs"]
mod manifest;

use compile::{Library, Sanitizer};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?;
    let kernels = package
        .join("../../kernels")
        .canonicalize()
        .map_err(|error| format!("cannot find the folder kernels/ of b4r: {error}"))?;
    println!("cargo:rerun-if-env-changed=CXX");
    for folder in
        [&kernels, &package.join("include"), &package.join("runtime"), &package.join("planted")]
    {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    let planted = package.join("planted");
    let library = |kernels_of: &Path, name: &str| {
        let hash = manifest::hash(kernels_of)
            .map_err(|error| format!("{}: {error}", kernels_of.display()))?;
        let path = Library {
            package: &package,
            kernels: kernels_of,
            include: &kernels,
            hash: &hash,
            sanitizer: Sanitizer::None,
            target: &target,
            cache: &out.join("objects"),
            into: &out.join(name).join(Sanitizer::None.name()),
        }
        .build()?;
        let key = name.to_uppercase();
        println!("cargo:rustc-env=SOFTGPU_{key}_LIBRARY={}", path.display());
        println!("cargo:rustc-env=SOFTGPU_{key}_HASH={hash}");
        fs::write(out.join(format!("{name}.manifest")), image(kernels_of, &hash)?)
            .map_err(|error| format!("{name}.manifest: {error}"))?;
        Ok::<(), String>(())
    };
    library(&kernels, "kernels")?;
    library(&planted, "planted")?;
    println!("cargo:rustc-env=SOFTGPU_TARGET={target}");
    println!("cargo:rustc-env=SOFTGPU_KERNELS={}", kernels.display());
    Ok(())
}

/// What b4r embeds when it is built without nvcc, of all kernels below a folder.
fn image(kernels: &Path, hash: &str) -> Result<String, String> {
    let mut names = Vec::new();
    for source in compile::files(kernels, &["cu"])? {
        let text = fs::read_to_string(&source)
            .map_err(|error| format!("{}: {error}", source.display()))?;
        names.extend(manifest::kernel_names(&text));
    }
    Ok(manifest::manifest(hash, None, &names) + "\0")
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
