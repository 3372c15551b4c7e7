//! Finds nvcc and compiles kernel files with it; used by build.rs alone.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::manifest::hex;

/// Compute capabilities with machine code of their own, times ten. A GPU between two of them runs the code of
/// the lower one of its generation; any other translates the PTX when it loads it.
const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// What all machine code is assembled from, once for all architectures: the kernels use nothing newer, and so
/// every GPU runs the very PTX that tests and simulators can execute.
const VIRTUAL_ARCHITECTURE: u32 = 80;

/// Environment variables that nvcc reads itself.
pub const NVCC_VARIABLES: [&str; 3] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// Oldest toolkit that is known to have all that the kernels use.
const OLDEST: (u32, u32) = (12, 0);

/// An nvcc and what it is asked for.
pub struct Nvcc {
    /// Its real path: through a link it does not find its own headers.
    pub path: PathBuf,
    /// Version of the toolkit.
    pub version: (u32, u32),
    /// Compute capabilities to compile for, times ten.
    pub architectures: Vec<u32>,
}

impl Nvcc {
    /// The compiler that the environment names or holds; `None` where there is none, or `B4R_NVCC=none`.
    pub fn find() -> Result<Option<Nvcc>, String> {
        let Some(path) = locate()? else { return Ok(None) };
        let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        let output = run(Command::new(&path).arg("--version"))?;
        let version = version(&output)
            .ok_or_else(|| format!("{} --version has no release:\n{output}", path.display()))?;
        if version < OLDEST {
            return Err(format!(
                "{} is of CUDA {}.{}; the kernels need {}.{} or newer. Name a newer one in B4R_NVCC, or build without: \
                 B4R_NVCC=none",
                path.display(),
                version.0,
                version.1,
                OLDEST.0,
                OLDEST.1
            ));
        }
        let known = run(Command::new(&path).arg("--list-gpu-code"))?;
        let known: BTreeSet<u32> =
            known.lines().filter_map(|line| line.strip_prefix("sm_")?.parse().ok()).collect();
        let architectures = architectures(&known)?;
        Ok(Some(Nvcc { path, version, architectures }))
    }

    /// Flags, all but the names of input and output.
    pub fn flags(&self) -> Vec<String> {
        let real: String = self.architectures.iter().map(|n| format!("sm_{n},")).collect();
        let v = VIRTUAL_ARCHITECTURE;
        let mut flags = vec![
            "-std=c++17".to_string(),
            "-O3".to_string(),
            "-fatbin".to_string(),
            format!("-gencode=arch=compute_{v},code=[{real}compute_{v}]"),
            "-Xptxas=-v,--warn-on-spills".to_string(),
        ];
        // Drivers that load kernels of CUDA 13 can unpack it; older toolkits compress as their drivers expect.
        if self.version.0 >= 13 {
            flags.push("--compress-mode=size".to_string());
        }
        flags
    }

    /// Compiles `source` to a fatbin and returns it with the assembler's report, both from `cache` where the same
    /// sources went through the same compiler before.
    pub fn compile(&self, source: &Path, cache: &Path) -> Result<(Vec<u8>, String), String> {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let entry = cache.join(format!("{stem}-{}", self.key(source)?));
        let (fatbin, report) = (entry.with_extension("fatbin"), entry.with_extension("txt"));
        if let (Ok(image), Ok(text)) = (fs::read(&fatbin), fs::read_to_string(&report)) {
            return Ok((image, text));
        }
        // Written elsewhere and moved into place, the report first: an entry counts only with both.
        let folder = cache.join(format!(".{stem}-{}", std::process::id()));
        let failed = |error: std::io::Error| format!("{}: {error}", cache.display());
        fs::create_dir_all(&folder).map_err(failed)?;
        let output = folder.join("image.fatbin");
        let compiled =
            run(Command::new(&self.path).args(self.flags()).arg("-o").arg(&output).arg(source));
        let kept = compiled.and_then(|text| {
            let image = fs::read(&output).map_err(failed)?;
            fs::write(folder.join("report.txt"), &text).map_err(failed)?;
            fs::rename(folder.join("report.txt"), &report).map_err(failed)?;
            fs::rename(&output, &fatbin).map_err(failed)?;
            Ok((image, text))
        });
        fs::remove_dir_all(&folder).map_err(failed)?;
        kept
    }

    /// Names what a compilation depends on: compiler, flags, environment, the file and all that it includes.
    fn key(&self, source: &Path) -> Result<String, String> {
        let mut files = BTreeSet::new();
        included(source, &mut files)?;
        let mut sha = Sha256::new();
        let variables = NVCC_VARIABLES.map(env::var_os);
        sha.update(format!("{:?} {:?} {:?} {variables:?}", self.path, self.version, self.flags()));
        for file in files {
            let content =
                fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            sha.update(format!("\n{} {}\n", file.display(), content.len()));
            sha.update(content);
        }
        Ok(hex(&sha.finalize())[..32].to_string())
    }
}

/// The first nvcc of: `B4R_NVCC` (a file, a toolkit's folder, or `none`), `CUDA_HOME`, `PATH`, `/usr/local/cuda`.
fn locate() -> Result<Option<PathBuf>, String> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(named) = set("B4R_NVCC") {
        let path = PathBuf::from(&named);
        let candidates = [path.clone(), path.join("bin/nvcc")];
        return match candidates.into_iter().find(|path| path.is_file()) {
            _ if named == "none" => Ok(None),
            Some(path) => Ok(Some(path)),
            None => Err(format!(
                "B4R_NVCC={}: no such file; name nvcc itself, or write none to build without",
                path.display()
            )),
        };
    }
    let home = set("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = set("PATH").unwrap_or_default();
    let candidates = home
        .into_iter()
        .chain(env::split_paths(&path).map(|folder| folder.join("nvcc")))
        .chain([PathBuf::from("/usr/local/cuda/bin/nvcc")]);
    Ok(candidates.into_iter().find(|path| path.is_file()))
}

/// Major and minor version in `nvcc --version`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("release ")?;
    let (major, minor) = rest.split(',').next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.trim().parse().ok()?))
}

/// What to compile for: `B4R_CUDA_ARCHS` (such as `80,90`), else all of ours that the toolkit knows.
fn architectures(known: &BTreeSet<u32>) -> Result<Vec<u32>, String> {
    let wanted = env::var("B4R_CUDA_ARCHS").unwrap_or_default();
    if wanted.trim().is_empty() {
        return Ok(ARCHITECTURES.into_iter().filter(|number| known.contains(number)).collect());
    }
    let parse = |part: &str| {
        let number = part.trim().trim_start_matches("sm_").parse().ok();
        number.filter(|n| known.contains(n) && *n >= VIRTUAL_ARCHITECTURE).ok_or_else(|| {
            format!(
                "B4R_CUDA_ARCHS={wanted}: `{part}` is none of those this nvcc has from {VIRTUAL_ARCHITECTURE} on: {known:?}"
            )
        })
    };
    let numbers: Result<BTreeSet<u32>, String> = wanted.split(',').map(parse).collect();
    Ok(numbers?.into_iter().collect())
}

/// Adds `file` and, recursively, what it includes in quotes and what exists; the toolkit's own headers count as
/// part of the compiler.
fn included(file: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    if !files.insert(file.to_path_buf()) {
        return Ok(());
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let quoted = |line: &str| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
        let name = rest.trim_start().strip_prefix('"')?.split('"').next()?.to_string();
        file.parent()?.join(name).canonicalize().ok()
    };
    text.lines().filter_map(quoted).try_for_each(|path| included(&path, files))
}

/// Runs to the end and returns what was printed, on both channels; failing is an error with that text.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{command:?}: {}\n{text}", output.status)),
    }
}
