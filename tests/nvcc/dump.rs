//! Fatbins as `cuobjdump` shows them.

use b4r::cuda::kernels::{MODULES, TOOLKIT};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A kernel on one architecture.
#[derive(Default)]
pub struct Function {
    pub kernel: String,
    /// Compute capability, times ten.
    pub architecture: u32,
    pub registers: u32,
    /// Bytes of stack of a thread.
    pub stack: u32,
    /// Bytes of static shared memory of a block, what the architecture reserves included.
    pub shared: u32,
    /// Bytes of local memory of a thread.
    pub local: u32,
    /// How often each instruction stands in the code, by its full name (`LDG.E.128`).
    pub opcodes: BTreeMap<String, u32>,
}

impl Function {
    /// Number of instructions that `wanted` holds of.
    pub fn count(&self, wanted: impl Fn(&str) -> bool) -> u32 {
        self.opcodes.iter().filter(|(opcode, _)| wanted(opcode)).map(|(_, count)| count).sum()
    }
}

/// A kernel in PTX.
pub struct Entry {
    pub kernel: String,
    /// Threads a block.
    pub threads: u32,
    /// Blocks that a multiprocessor is to hold.
    pub blocks: u32,
    /// Names of the instructions that occur, with all their suffixes.
    pub instructions: BTreeSet<String>,
}

/// All kernels on all architectures; `None`, with a line that says so, where they cannot be had.
pub fn functions() -> Option<&'static [Function]> {
    static FUNCTIONS: OnceLock<Vec<Function>> = OnceLock::new();
    let tool = tool()?;
    Some(FUNCTIONS.get_or_init(|| {
        // Disassembling is most of the work of these tests.
        std::thread::scope(|scope| {
            let dumps: Vec<_> = MODULES
                .iter()
                .map(|module| scope.spawn(|| functions_of(&tool, &fatbin(module.name))))
                .collect();
            dumps.into_iter().flat_map(|dump| dump.join().expect("a dump")).collect()
        })
    }))
}

/// All kernels in PTX, in the same way.
pub fn entries() -> Option<&'static [Entry]> {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    let tool = tool()?;
    Some(ENTRIES.get_or_init(|| {
        MODULES.iter().flat_map(|module| entries_of(&tool, &fatbin(module.name))).collect()
    }))
}

fn fatbin(module: &str) -> PathBuf {
    Path::new(env!("OUT_DIR")).join(format!("{module}.fatbin"))
}

/// `cuobjdump` of the toolkit that compiled the kernels.
fn tool() -> Option<PathBuf> {
    let nvcc = env!("B4R_BUILT_WITH_NVCC");
    if TOOLKIT.is_none() {
        println!("skipped: built without nvcc; name one in B4R_NVCC");
        return None;
    }
    let tool = Path::new(nvcc).with_file_name("cuobjdump");
    let whole = tool.is_file() && tool.with_file_name("nvdisasm").is_file();
    if !whole {
        println!("skipped: no cuobjdump and nvdisasm beside {nvcc}");
    }
    whole.then_some(tool)
}

/// Hands every line of the tool's output to `read`.
fn dump(tool: &Path, option: &str, fatbin: &Path, mut read: impl FnMut(&str)) {
    let folder = tool.parent().expect("a file has a folder");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(folder.to_path_buf()).chain(env::split_paths(&path));
    let mut child = Command::new(tool)
        .arg(option)
        .arg(fatbin)
        .env("PATH", env::join_paths(path).expect("a search path"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("cuobjdump starts");
    for line in BufReader::new(child.stdout.take().expect("its output")).lines() {
        read(&line.expect("text"));
    }
    assert!(
        child.wait().expect("cuobjdump ends").success(),
        "cuobjdump {option} {}",
        fatbin.display()
    );
}

fn functions_of(tool: &Path, fatbin: &Path) -> Vec<Function> {
    let mut found = resources(tool, fatbin);
    let (mut architecture, mut kernel) = (0, String::new());
    let mut code: BTreeMap<(u32, String), BTreeMap<String, u32>> = BTreeMap::new();
    dump(tool, "-sass", fatbin, |line| {
        let line = line.trim_start();
        if let Some(number) = line.strip_prefix("code for sm_") {
            architecture = number.trim().parse().expect("an architecture");
        } else if let Some(name) = line.strip_prefix("Function : ") {
            kernel = name.trim().to_string();
        } else if let Some(opcode) = opcode(line) {
            let opcodes = code.entry((architecture, kernel.clone())).or_default();
            *opcodes.entry(opcode.to_string()).or_default() += 1;
        }
    });
    for function in &mut found {
        let key = (function.architecture, function.kernel.clone());
        function.opcodes = code.remove(&key).unwrap_or_default();
        assert!(!function.opcodes.is_empty(), "no code of {} on sm_{}", key.1, key.0);
    }
    found
}

/// `/*0250*/  @!P0 LDG.E.128 R4, [R2.64] ;  /* 0x... */` is `LDG.E.128`; lines without an address are not code.
fn opcode(line: &str) -> Option<&str> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let mut words = rest.split_whitespace();
    let first = words.next().filter(|_| !address.contains(' '))?;
    let opcode = if first.starts_with('@') { words.next()? } else { first };
    opcode.starts_with(|c: char| c.is_ascii_uppercase()).then(|| opcode.trim_end_matches(';'))
}

fn resources(tool: &Path, fatbin: &Path) -> Vec<Function> {
    let (mut architecture, mut kernel) = (0, String::new());
    let mut found = Vec::new();
    dump(tool, "--dump-resource-usage", fatbin, |line| {
        let line = line.trim();
        if let Some(number) = line.strip_prefix("arch = sm_") {
            architecture = number.parse().expect("an architecture");
        } else if let Some(name) = line.strip_prefix("Function ") {
            kernel = name.trim_end_matches(':').to_string();
        } else if line.starts_with("REG:") {
            let value = |name: &str| {
                let field = line.split_whitespace().find_map(|field| field.strip_prefix(name));
                field
                    .and_then(|number| number.parse().ok())
                    .unwrap_or_else(|| panic!("no {name} in {line}"))
            };
            found.push(Function {
                kernel: kernel.clone(),
                architecture,
                registers: value("REG:"),
                stack: value("STACK:"),
                shared: value("SHARED:"),
                local: value("LOCAL:"),
                opcodes: BTreeMap::new(),
            });
        }
    });
    found
}

fn entries_of(tool: &Path, fatbin: &Path) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    dump(tool, "-ptx", fatbin, |line| {
        let line = line.trim();
        if let Some((_, name)) = line.split_once(".entry ") {
            let kernel = name.trim_end_matches('(').to_string();
            found.push(Entry { kernel, threads: 0, blocks: 0, instructions: BTreeSet::new() });
        }
        let Some(entry) = found.last_mut() else { return };
        let number =
            |text: &str| text.split(',').next().and_then(|number| number.trim().parse().ok());
        if let Some(threads) = line.strip_prefix(".maxntid ") {
            entry.threads = number(threads).expect("threads");
        } else if let Some(blocks) = line.strip_prefix(".minnctapersm ") {
            entry.blocks = number(blocks).expect("blocks");
        } else if let Some(instruction) = instruction(line) {
            entry.instructions.insert(instruction.to_string());
        }
    });
    for entry in &found {
        let whole = entry.threads > 0 && entry.blocks > 0 && !entry.instructions.is_empty();
        assert!(whole, "{} in {} is not understood", entry.kernel, fatbin.display());
    }
    found
}

/// `@%p1 ld.global.v4.u32 {...};` is `ld.global.v4.u32`; directives and labels are none.
fn instruction(line: &str) -> Option<&str> {
    let mut words = line.trim_start_matches('{').split_whitespace();
    let first = words.next()?;
    let name = if first.starts_with('@') { words.next()? } else { first };
    (line.ends_with(';') && name.starts_with(|c: char| c.is_ascii_lowercase()))
        .then(|| name.trim_end_matches(';'))
}

#[test]
fn lines_are_read_as_what_they_are() {
    assert_eq!(
        opcode("/*00c0*/                   LDGSTS.E.BYPASS.128 [R9], [R2.64] ;   /* 0x0 */"),
        Some("LDGSTS.E.BYPASS.128")
    );
    assert_eq!(opcode("/*0250*/              @!P0 LDG.E.128 R4, [R2.64] ;"), Some("LDG.E.128"));
    assert_eq!(opcode("/*0260*/                   EXIT ;"), Some("EXIT"));
    assert_eq!(opcode("/* 0x000fe400078e00ff */"), None);
    assert_eq!(opcode(".headerflags @\"EF_CUDA_SM80\""), None);
    assert_eq!(
        instruction("@%p1 ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];"),
        Some("ld.global.v4.u32")
    );
    assert_eq!(instruction("ret;"), Some("ret"));
    assert_eq!(instruction("{ cvt.rn.bf16x2.f32 %r3, %f1, %f2;"), Some("cvt.rn.bf16x2.f32"));
    assert_eq!(instruction(".reg .pred %p<10>;"), None);
    assert_eq!(instruction("$L__BB0_2:"), None);
}
