//! Builds `libcuda.so` from the kernels and the runtime, and a second one from the kernels with planted bugs.

// The package itself includes this module too, and builds the variants with sanitizers.
#[allow(dead_code)]
mod compile;
#[path = "../../../kernels/manifest.rs"]
mod manifest;

use compile::{Library, Sanitizer};
use std::env;
use std::fmt::Display;
use std::fs;
use std::io;
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
    let b4r = package
        .join("../../kernels")
        .canonicalize()
        .map_err(|error| format!("cannot find the folder kernels/ of b4r: {error}"))?;
    let planted = package.join("planted");
    println!("cargo:rerun-if-env-changed=CXX");
    for folder in [&b4r, &package.join("include"), &package.join("runtime"), &planted] {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    // Without a compiler the program can still be built and most tests run: those that load the library say why
    // they cannot.
    let problem = compile::compiler(&target).err();
    for (kernels, name) in [(&b4r, "KERNELS"), (&planted, "PLANTED")] {
        let hash = manifest::hash(kernels).map_err(|error| cannot_read(kernels, &error))?;
        let folder = out.join(name.to_lowercase());
        let into = folder.join(Sanitizer::None.name());
        if problem.is_none() {
            let library = Library {
                package: &package,
                kernels,
                include: &b4r,
                hash: &hash,
                sanitizer: Sanitizer::None,
                target: &target,
                cache: &out.join("objects"),
                into: &into,
            };
            library.build()?;
        }
        let manifest = folder.with_extension("manifest");
        fs::write(&manifest, image(kernels, &hash)?)
            .map_err(|error| format!("cannot write {}: {error}", manifest.display()))?;
        set(&format!("SOFTGPU_{name}"), &kernels.display());
        set(&format!("SOFTGPU_{name}_HASH"), &hash);
        set(&format!("SOFTGPU_{name}_LIBRARY"), &into.join("libcuda.so").display());
    }
    if let Some(problem) = &problem {
        println!("cargo:warning={problem}");
    }
    set("SOFTGPU_PROBLEM", &problem.unwrap_or_default());
    set("SOFTGPU_TARGET", &target);
    Ok(())
}

/// Gives the package a variable to read while it is compiled.
fn set(name: &str, value: &dyn Display) {
    println!("cargo:rustc-env={name}={value}");
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// What b4r embeds when it is built without nvcc, of all kernels below a folder.
fn image(kernels: &Path, hash: &str) -> Result<String, String> {
    let mut names = Vec::new();
    for source in compile::files(kernels, &["cu"])? {
        let text = fs::read_to_string(&source).map_err(|error| cannot_read(&source, &error))?;
        names.extend(manifest::kernel_names(&text));
    }
    Ok(manifest::manifest(hash, None, &names) + "\0")
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
