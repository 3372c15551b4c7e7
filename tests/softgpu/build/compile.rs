//! Compiles kernels and runtime into a `libcuda.so`. Used by the build script and by tests that build a variant.

use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What the compiler adds to the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitizer {
    /// Checks of alignment, array bounds, shifts and integer overflow only.
    None,
    /// AddressSanitizer.
    Address,
    /// ThreadSanitizer.
    Thread,
}

impl Sanitizer {
    /// The name that `-fsanitize` takes.
    pub fn name(self) -> &'static str {
        match self {
            Sanitizer::None => "none",
            Sanitizer::Address => "address",
            Sanitizer::Thread => "thread",
        }
    }
}

/// A library to build.
pub struct Library<'a> {
    /// Folder of this package.
    pub package: &'a Path,
    /// Folder whose `*.cu`, at any depth, are the kernels.
    pub kernels: &'a Path,
    /// Folder whose headers they may include as well, like `kernels/`.
    pub include: &'a Path,
    /// Hash of the kernels that an image has to name to be loaded.
    pub hash: &'a str,
    /// What the compiler adds.
    pub sanitizer: Sanitizer,
    /// Target triple.
    pub target: &'a str,
    /// Folder for objects, by the hash of what they are made from.
    pub cache: &'a Path,
    /// Folder that the library is written to.
    pub into: &'a Path,
}

/// One object to compile.
struct Unit {
    source: PathBuf,
    flags: Vec<OsString>,
}

const CHECKS: &str = "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero,\
                      float-cast-overflow,unreachable,return";

impl Library<'_> {
    /// Builds the library, as far as it is not built yet; returns its path.
    ///
    /// # Errors
    /// A sentence, when there is no C++ compiler or when it refuses a file (then with what it said).
    pub fn build(&self) -> Result<PathBuf, String> {
        let compiler = compiler(self.target)?;
        for folder in [self.cache, self.into] {
            fs::create_dir_all(folder).map_err(|error| cannot("create", folder, &error))?;
        }
        let units = self.units()?;
        let objects = compile_all(&compiler, &units, self.cache)?;
        self.link(&compiler, &objects)
    }

    fn units(&self) -> Result<Vec<Unit>, String> {
        let include = self.package.join("include");
        let mut units = Vec::new();
        for source in files(self.kernels, &["cu"])? {
            units.push(Unit { source: self.wrapper(&source)?, flags: self.kernel_flags(&include) });
        }
        let mut sources = files(&self.package.join("runtime"), &["cpp"])?;
        sources.push(self.hash_file()?);
        for source in sources {
            units.push(Unit { source, flags: self.runtime_flags(&include) });
        }
        Ok(units)
    }

    /// A file that includes a kernel file within an unnamed namespace: two kernel files may then use one name for
    /// two things, as they may under nvcc.
    fn wrapper(&self, source: &Path) -> Result<PathBuf, String> {
        let text = format!(
            "#include \"softgpu.h\"\nnamespace {{\n#include \"{}\"\n}}\n",
            source.display()
        );
        let relative = source.strip_prefix(self.kernels).unwrap_or(source);
        let name = format!("{}.cpp", relative.to_string_lossy().replace(['/', '\\'], "-"));
        self.generated(&name, &text)
    }

    fn hash_file(&self) -> Result<PathBuf, String> {
        let text = format!(
            "namespace softgpu {{\nextern const char* const KERNELS_HASH;\n\
             const char* const KERNELS_HASH = \"{}\";\n}}\n",
            self.hash
        );
        self.generated("hash.cpp", &text)
    }

    fn generated(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.into.join(name);
        fs::write(&path, text).map_err(|error| cannot("write", &path, &error))?;
        Ok(path)
    }

    fn common_flags(&self, include: &Path) -> Vec<OsString> {
        let mut flags: Vec<OsString> =
            ["-std=c++17", "-O2", "-g1", "-fPIC", "-pthread", "-fvisibility=hidden"]
                .map(OsString::from)
                .into();
        flags.extend(["-I".into(), include.into()]);
        match self.sanitizer {
            Sanitizer::None => {}
            Sanitizer::Address => {
                flags.extend(["-DSOFTGPU_SANITIZED".into(), "-DSOFTGPU_ADDRESS".into()])
            }
            Sanitizer::Thread => {
                flags.extend(["-DSOFTGPU_SANITIZED".into(), "-DSOFTGPU_THREAD".into()])
            }
        }
        flags
    }

    fn kernel_flags(&self, include: &Path) -> Vec<OsString> {
        let mut flags = self.common_flags(include);
        flags.extend(["-I".into(), self.include.into()]);
        // A GPU has no rule about the type through which memory is read, no exceptions, and no contraction that
        // the C++ compiler would choose.
        flags.extend(
            [
                "-fno-strict-aliasing",
                "-fno-exceptions",
                "-ffp-contract=off",
                "-Wno-unknown-pragmas",
                CHECKS,
            ]
            .map(OsString::from),
        );
        if self.sanitizer != Sanitizer::None {
            flags.push(format!("-fsanitize={}", self.sanitizer.name()).into());
        }
        flags
    }

    fn runtime_flags(&self, include: &Path) -> Vec<OsString> {
        let mut flags = self.common_flags(include);
        flags.extend(["-Wall", "-Wextra", "-ffp-contract=off"].map(OsString::from));
        flags.extend(["-I".into(), self.package.join("runtime").into()]);
        flags
    }

    fn link(&self, compiler: &Compiler, objects: &[PathBuf]) -> Result<PathBuf, String> {
        let library = self.into.join("libcuda.so");
        let fresh = self.into.join(format!("libcuda.so.{}", std::process::id()));
        let mut command = compiler.command();
        command
            .args(["-shared", "-pthread", "-Wl,-soname,libcuda.so", "-Wl,-Bsymbolic", "-o"])
            .arg(&fresh);
        if self.sanitizer != Sanitizer::None {
            command.arg(format!("-fsanitize={}", self.sanitizer.name()));
        }
        run(command.args(objects), "linking libcuda.so")?;
        // Replaced at once: another process may have the old one open.
        fs::rename(&fresh, &library).map_err(|error| cannot("write", &library, &error))?;
        Ok(library)
    }
}

/// The C++ compiler: its path and the arguments that the target wants.
pub struct Compiler {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Compiler {
    /// A call of it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}

/// Finds the C++ compiler for a target triple: CXX, or what the `cc` crate takes.
///
/// # Errors
/// A sentence with the remedy, when there is none.
pub fn compiler(target: &str) -> Result<Compiler, String> {
    let tool = cc::Build::new()
        .cpp(true)
        .cargo_metadata(false)
        .cargo_warnings(false)
        .no_default_flags(true)
        .warnings(false)
        .target(target)
        .host(target)
        .opt_level(2)
        .try_get_compiler()
        .map_err(|error| no_compiler(&error.to_string()))?;
    let compiler = Compiler { path: tool.path().to_path_buf(), arguments: tool.args().to_vec() };
    match compiler.command().arg("--version").output() {
        Ok(output) if output.status.success() => Ok(compiler),
        Ok(output) => Err(no_compiler(&String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(no_compiler(&format!("{}: {error}", compiler.path.display()))),
    }
}

fn no_compiler(reason: &str) -> String {
    format!(
        "the software GPU, which runs the CUDA kernels in tests, needs a C++ compiler and found none ({}). \
         Install g++ or clang++, or name one in CXX.",
        reason.trim().replace('\n', " ")
    )
}

/// Compiles what the cache does not hold yet, several at a time; returns the objects in order.
fn compile_all(compiler: &Compiler, units: &[Unit], cache: &Path) -> Result<Vec<PathBuf>, String> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<PathBuf, String>>>> =
        Mutex::new(units.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..jobs() {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(unit) = units.get(at) else { break };
                    let result = compile(compiler, unit, cache);
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[at] =
                        Some(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results
        .into_iter()
        .map(|result| result.unwrap_or_else(|| Err("a compile job ended early".into())))
        .collect()
}

/// As many jobs as cargo allows, or two.
fn jobs() -> usize {
    std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(2).max(1)
}

/// An object is named by the hash of compiler, flags and preprocessed source: whatever header changes, exactly
/// what it changes is compiled again.
fn compile(compiler: &Compiler, unit: &Unit, cache: &Path) -> Result<PathBuf, String> {
    let what = format!("compiling {}", unit.source.display());
    // The preprocessor writes down where it ran.
    let call = || {
        let mut command = compiler.command();
        command.current_dir(cache).args(&unit.flags);
        command
    };
    let preprocessed = run(call().arg("-E").arg(&unit.source), &what)?;
    let mut hash = Sha256::new();
    hash.update(compiler.path.as_os_str().as_encoded_bytes());
    for flag in &unit.flags {
        hash.update(flag.as_encoded_bytes());
        hash.update([0]);
    }
    hash.update(&preprocessed);
    let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let object = cache.join(format!("{name}.o"));
    if object.exists() {
        return Ok(object);
    }
    let fresh = cache.join(format!("{name}.{}.o", std::process::id()));
    run(call().arg("-c").arg(&unit.source).arg("-o").arg(&fresh), &what)?;
    fs::rename(&fresh, &object).map_err(|error| cannot("write", &object, &error))?;
    Ok(object)
}

fn run(command: &mut Command, what: &str) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|error| format!("{what}: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{what} failed:\n{stderr}"));
    }
    if !stderr.trim().is_empty() {
        eprintln!("{what}:\n{stderr}");
    }
    Ok(output.stdout)
}

/// All files below a folder with one of the extensions, sorted.
///
/// # Errors
/// A sentence, when a folder cannot be read.
pub fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| cannot("read", &folder, &error))? {
            let path = entry.map_err(|error| cannot("read", &folder, &error))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}
