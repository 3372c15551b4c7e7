//! Embeds the CUDA kernels: compiled where nvcc is found, else only named. Needs no C++ compiler of its own.
//!
//! Each `kernels/*.cu` becomes one image: a fatbin (machine code for all architectures and PTX) followed by a
//! manifest, or the manifest alone. `OUT_DIR/kernels.rs` lists them for `src/cuda/kernels.rs`, and
//! `OUT_DIR/ptxas.txt` has the assembler's report on each kernel.
//!
//! `B4R_NVCC` names nvcc (`none`: build without), `B4R_CUDA_ARCHS` shortens the list of architectures.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

#[path = "kernels/manifest.rs"]
mod manifest;
#[path = "kernels/nvcc.rs"]
mod nvcc;

use nvcc::Nvcc;

/// One `.cu` file.
struct Source {
    name: String,
    path: PathBuf,
    bytes: u64,
    kernels: Vec<String>,
}

/// A fatbin and the assembler's report; both empty without nvcc.
type Compiled = (Vec<u8>, String);

fn main() {
    if let Err(problem) = embed() {
        eprintln!("the CUDA kernels cannot be compiled: {problem}");
        eprintln!(
            "remedy: mend that (nvcc wants a C++ compiler such as g++), or build without nvcc: B4R_NVCC=none"
        );
        std::process::exit(1);
    }
}

fn embed() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let root =
        Path::new(&env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?)
            .join("kernels");
    let nvcc = Nvcc::find()?;
    declare_inputs(nvcc.as_ref());
    let sources = sources(&root)?;
    let hash = manifest::hash(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let compiled = match &nvcc {
        Some(nvcc) => compile(nvcc, &sources, &cache(&out)?)?,
        None => sources.iter().map(|_| Compiled::default()).collect(),
    };
    let toolkit = nvcc.as_ref().map(|nvcc| nvcc.version);
    for (source, (fatbin, _)) in sources.iter().zip(&compiled) {
        let manifest = manifest::manifest(&hash, toolkit, &source.kernels);
        // A driver takes an image that is no fatbin for PTX, which ends with a zero byte.
        let image = [fatbin, manifest.as_bytes(), &[0]].concat();
        write(&out.join(format!("{}.image", source.name)), &image)?;
        write(&out.join(format!("{}.fatbin", source.name)), fatbin)?;
    }
    write(&out.join("kernels.rs"), list(&out, nvcc.as_ref(), &sources, &hash)?.as_bytes())?;
    report(&out, nvcc.as_ref(), &sources, &compiled)
}

/// Tells cargo what to watch. PATH counts only where it could change which nvcc is found.
fn declare_inputs(nvcc: Option<&Nvcc>) {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    let named = env::var_os("B4R_NVCC").is_some_and(|value| !value.is_empty());
    let searched = ["CUDA_HOME", "PATH"].into_iter().filter(|_| !named);
    for variable in
        ["B4R_NVCC", "B4R_CUDA_ARCHS"].into_iter().chain(nvcc::NVCC_VARIABLES).chain(searched)
    {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    // For the tests that look into what nvcc made.
    let path = nvcc.map_or(String::new(), |nvcc| nvcc.path.display().to_string());
    println!("cargo:rustc-env=B4R_BUILT_WITH_NVCC={path}");
    if nvcc.is_some() {
        println!("cargo:rerun-if-changed={path}");
    }
}

/// All `kernels/*.cu` by name.
fn sources(root: &Path) -> Result<Vec<Source>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", root.display());
    let mut sources = Vec::new();
    for entry in fs::read_dir(root).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "cu") {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            sources.push(Source {
                name,
                path,
                bytes: text.len() as u64,
                kernels: manifest::kernel_names(&text),
            });
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    unique_names(&sources)?;
    Ok(sources)
}

/// A kernel is looked up by its name alone.
fn unique_names(sources: &[Source]) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    for source in sources {
        for kernel in &source.kernels {
            if let Some(other) = seen.insert(kernel, &source.name) {
                return Err(format!("kernel {kernel} is in {other}.cu and in {}.cu", source.name));
            }
        }
    }
    Ok(())
}

/// A folder that all profiles and feature sets of one target directory share: `target/kernels`.
fn cache(out: &Path) -> Result<PathBuf, String> {
    let folder = out.ancestors().nth(4).unwrap_or(out).join("kernels");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Compiles all files, as many at once as cargo allows, the longest first.
fn compile(nvcc: &Nvcc, sources: &[Source], cache: &Path) -> Result<Vec<Compiled>, String> {
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sources[i].bytes));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((i, nvcc.compile(&sources[i].path, cache)));
        }
        done
    };
    let mut done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers.min(sources.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker panicked")).collect()
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The Rust text that `src/cuda/kernels.rs` includes.
fn list(out: &Path, nvcc: Option<&Nvcc>, sources: &[Source], hash: &str) -> Result<String, String> {
    let mut text = format!(
        "/// SHA-256 of the kernel sources, in hex.\npub const HASH: &str = {hash:?};\n\
         /// Version of the CUDA toolkit that compiled the kernels; `None`: built without nvcc.\n\
         pub const TOOLKIT: Option<(u32, u32)> = {:?};\n\
         /// Compute capabilities, times ten, with machine code of their own.\n\
         pub const ARCHITECTURES: &[u32] = &{:?};\n\
         /// One for each file of kernels.\npub static MODULES: &[Module] = &[\n",
        nvcc.map(|nvcc| nvcc.version),
        nvcc.map_or(&[][..], |nvcc| &nvcc.architectures),
    );
    let mut images = String::new();
    for Source { name, kernels, .. } in sources {
        let image = out.join(format!("{name}.image"));
        let bytes =
            fs::metadata(&image).map_err(|error| format!("{}: {error}", image.display()))?.len();
        let variable = format!("IMAGE_{}", name.to_uppercase());
        let _ = writeln!(
            images,
            "static {variable}: Aligned<{bytes}> = Aligned(*include_bytes!({image:?}));"
        );
        // The zero byte at the end stays behind the slice.
        let _ = writeln!(
            text,
            "    Module {{ name: {name:?}, image: {variable}.0.split_at({bytes} - 1).0, kernels: &{kernels:?} }},"
        );
    }
    text += "];\n";
    if !sources.is_empty() {
        text += "/// Drivers read images in words.\n#[repr(C, align(64))]\nstruct Aligned<const BYTES: usize>([u8; BYTES]);\n";
    }
    Ok(text + &images)
}

/// One kernel on one architecture, as the assembler reports it.
struct Usage<'a> {
    kernel: &'a str,
    architecture: &'a str,
    registers: u32,
    /// Bytes of static shared memory.
    shared: u32,
    spilled: u32,
}

/// Reads `ptxas -v`: a kernel's lines follow the one that names it.
fn usage(report: &str) -> Vec<Usage<'_>> {
    let number_before = |line: &str, unit: &str| -> Option<u32> {
        line.split(unit).next()?.split_whitespace().next_back()?.parse().ok()
    };
    let mut all: Vec<Usage> = Vec::new();
    for line in report.lines() {
        if let Some((_, named)) = line.split_once("Compiling entry function '") {
            let mut parts = named.split('\'');
            let (kernel, architecture) = (parts.next().unwrap_or(""), parts.nth(1).unwrap_or(""));
            all.push(Usage { kernel, architecture, registers: 0, shared: 0, spilled: 0 });
        } else if let Some(last) = all.last_mut() {
            if line.contains("bytes spill stores") {
                last.spilled += number_before(line, " bytes spill stores").unwrap_or(0);
            } else if line.contains(" registers") {
                last.registers = number_before(line, " registers").unwrap_or(0);
                last.shared = number_before(line, " bytes smem").unwrap_or(0);
            }
        }
    }
    all
}

/// Writes the whole report to a file and tells in one line what matters, with one more for each spill.
fn report(
    out: &Path,
    nvcc: Option<&Nvcc>,
    sources: &[Source],
    compiled: &[Compiled],
) -> Result<(), String> {
    let mut text = String::new();
    let mut all: Vec<Usage> = Vec::new();
    let mut kernels = 0;
    for (source, (_, report)) in sources.iter().zip(compiled) {
        let _ = writeln!(text, "== {}.cu\n{report}", source.name);
        let usages = usage(report);
        check_names(source, &usages, nvcc)?;
        kernels += source.kernels.len();
        all.extend(usages);
    }
    let spilling: Vec<&Usage> = all.iter().filter(|usage| usage.spilled > 0).collect();
    for usage in &spilling {
        println!(
            "cargo:warning=kernel {} spills {} bytes of registers on {}",
            usage.kernel, usage.spilled, usage.architecture
        );
    }
    let registers = all.iter().max_by_key(|usage| usage.registers);
    let shared = all.iter().max_by_key(|usage| usage.shared);
    if let (Some(nvcc), Some(registers), Some(shared)) = (nvcc, registers, shared) {
        println!(
            "cargo:warning={kernels} kernels compiled with CUDA {}.{} for sm_{:?}: at most {} registers ({}, {}), \
             {} bytes of static shared memory ({}, {}), {} spills; {}",
            nvcc.version.0,
            nvcc.version.1,
            nvcc.architectures,
            registers.registers,
            registers.kernel,
            registers.architecture,
            shared.shared,
            shared.kernel,
            shared.architecture,
            if spilling.is_empty() { "no".to_string() } else { spilling.len().to_string() },
            out.join("ptxas.txt").display()
        );
    }
    write(&out.join("ptxas.txt"), text.as_bytes())
}

/// The names in the source are those in the machine code.
fn check_names(source: &Source, usages: &[Usage], nvcc: Option<&Nvcc>) -> Result<(), String> {
    if nvcc.is_none() {
        return Ok(());
    }
    let mut named: Vec<&str> = source.kernels.iter().map(String::as_str).collect();
    let mut compiled: Vec<&str> = usages.iter().map(|usage| usage.kernel).collect();
    named.sort_unstable();
    compiled.sort_unstable();
    compiled.dedup();
    if named == compiled {
        return Ok(());
    }
    Err(format!(
        "{}.cu names {named:?} in KERNEL(...), but nvcc found {compiled:?}; spell each name out there",
        source.name
    ))
}

fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    // Unchanged files keep their time, so that nothing is compiled again for them.
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    fs::write(path, content).map_err(|error| format!("{}: {error}", path.display()))
}
