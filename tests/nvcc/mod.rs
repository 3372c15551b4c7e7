//! What nvcc made of the kernels: the silicon's side of what the software GPU cannot see.
//!
//! Everything here reads the fatbins that build.rs left in `OUT_DIR`; without nvcc, or without the `cuobjdump`
//! and `nvdisasm` of its toolkit, the tests say that they skipped.

mod dump; // reading fatbins
mod manifest; // what is embedded beside the machine code
mod meant; // which kernels must have which instructions

use crate::model::every_kernel;
use crate::util::cuda::real_driver;
use b4r::cuda::kernels::{ARCHITECTURES, MODULES};
use dump::{Entry, Function, entries, functions};
use half::bf16;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;

/// Of a multiprocessor of any architecture: 32-bit registers, and the unit in which a thread gets them.
const REGISTERS: u32 = 65_536;
const REGISTER_UNIT: u32 = 8;

/// Threads and bytes of shared memory of a multiprocessor, by compute capability times ten.
fn multiprocessor(architecture: u32) -> (u32, u32) {
    match architecture {
        80 => (2048, 164 << 10),
        90 | 100 => (2048, 228 << 10),
        86 | 89 | 120 => (1536, 100 << 10),
        other => {
            panic!("nothing is known of the multiprocessors of sm_{other}: complete this table")
        }
    }
}

/// Fails with all complaints at once, each a line.
#[track_caller]
fn none(complaints: &[String], about: &str) {
    assert!(complaints.is_empty(), "{about}:\n{}", complaints.join("\n"));
}

fn at(function: &Function) -> String {
    format!("{} on sm_{}", function.kernel, function.architecture)
}

#[test]
fn every_kernel_is_there_for_every_architecture_and_as_ptx() {
    let (Some(functions), Some(entries)) = (functions(), entries()) else { return };
    let kernels: Vec<&str> = MODULES.iter().flat_map(|module| module.kernels).copied().collect();
    for kernel in &kernels {
        let mut found: Vec<u32> =
            functions.iter().filter(|f| f.kernel == *kernel).map(|f| f.architecture).collect();
        found.sort_unstable();
        assert_eq!(found, ARCHITECTURES, "{kernel}");
        assert_eq!(entries.iter().filter(|entry| entry.kernel == *kernel).count(), 1, "{kernel}");
    }
    assert_eq!(functions.len(), kernels.len() * ARCHITECTURES.len());
    assert_eq!(entries.len(), kernels.len());
}

#[test]
fn nothing_spills_or_lives_in_local_memory() {
    let Some(functions) = functions() else { return };
    let mut complaints = Vec::new();
    for function in functions {
        let count = |name: &str| function.count(|opcode| opcode.split('.').next() == Some(name));
        let (loads, stores) = (count("LDL"), count("STL"));
        if function.stack + function.local + loads + stores > 0 {
            let Function { stack, local, .. } = function;
            complaints.push(format!(
                "{}: {stack} bytes of stack, {local} of local memory, {loads} LDL, {stores} STL",
                at(function)
            ));
        }
    }
    none(&complaints, "local memory is global memory");
}

/// Bytes of shared memory of each block that the driver keeps for itself. From sm_90 on they are counted among the
/// kernel's own.
fn reserved(architecture: u32) -> u32 {
    if architecture < 90 { 1 << 10 } else { 0 }
}

/// Most bytes of dynamic shared memory that a launch of each kernel asks for: what the launch code asked the
/// software GPU for. `None`, with a line that says so, where a real GPU is in its place.
fn dynamic_shared() -> Option<&'static BTreeMap<String, u64>> {
    static DYNAMIC: OnceLock<BTreeMap<String, u64>> = OnceLock::new();
    if real_driver() {
        println!("skipped: only the software GPU tells what launches ask for");
        return None;
    }
    Some(DYNAMIC.get_or_init(|| {
        softgpu::load();
        softgpu::reset_launches();
        every_kernel::run_all::<f32>(1e-4);
        every_kernel::run_all::<bf16>(2e-2);
        softgpu::dynamic_shared()
    }))
}

/// The blocks that a kernel states leave each of them shared memory for what its launch asks for and for its own
/// variables. Where a multiprocessor has 100 KiB for all blocks there may be fewer, but one has to fit.
#[test]
fn the_shared_memory_of_launches_leaves_room_for_the_blocks_a_kernel_states() {
    let (Some(functions), Some(entries)) = (functions(), entries()) else { return };
    let Some(dynamic) = dynamic_shared() else { return };
    let mut complaints = Vec::new();
    for function in functions {
        let entry = entries.iter().find(|entry| entry.kernel == function.kernel);
        let (Some(entry), Some(&asked)) = (entry, dynamic.get(&function.kernel)) else {
            complaints.push(format!("{}: nobody launched it", at(function)));
            continue;
        };
        let (_, most) = multiprocessor(function.architecture);
        let blocks = if most == 100 << 10 { 1 } else { entry.blocks };
        let block = reserved(function.architecture) + function.shared + asked as u32;
        if blocks * block > most {
            complaints.push(format!(
                "{}: {blocks} blocks of {asked} bytes of dynamic and {} of static shared memory, of {most}",
                at(function),
                function.shared
            ));
        }
    }
    none(&complaints, "a multiprocessor holds fewer blocks than KERNEL says");
}

/// A kernel states its threads and how many of its blocks a multiprocessor is to hold; registers, threads and
/// static shared memory must leave room for them.
#[test]
fn the_blocks_that_a_kernel_states_fit_a_multiprocessor() {
    let (Some(functions), Some(entries)) = (functions(), entries()) else { return };
    let mut complaints = Vec::new();
    for function in functions {
        let Some(entry) = entries.iter().find(|entry| entry.kernel == function.kernel) else {
            continue;
        };
        let Entry { threads, blocks, .. } = *entry;
        let (most_threads, most_shared) = multiprocessor(function.architecture);
        // ptxas lowers the promise where an architecture has fewer threads than the kernel asks for.
        let blocks = blocks.min(most_threads / threads);
        let registers = blocks * threads * function.registers.next_multiple_of(REGISTER_UNIT);
        let shared = blocks * function.shared;
        if registers > REGISTERS || shared > most_shared || function.shared > 48 << 10 {
            complaints.push(format!(
                "{}: {blocks} blocks of {threads} threads need {registers} registers and {shared} bytes of \
                 static shared memory",
                at(function)
            ));
        }
    }
    none(&complaints, "a multiprocessor holds fewer blocks than KERNEL says");
}

#[test]
fn kernels_use_the_instructions_they_are_written_for() {
    let Some(functions) = functions() else { return };
    let mut complaints = Vec::new();
    for function in functions {
        let rows: Vec<_> = meant::MEANT.iter().filter(|row| row.covers(&function.kernel)).collect();
        if rows.is_empty() {
            complaints.push(format!("{}: no row of tests/nvcc/meant.rs covers it", at(function)));
        }
        for &(name, is_it) in rows.iter().flat_map(|row| row.instructions) {
            if function.count(is_it) == 0 {
                complaints.push(format!("{}: no {name}", at(function)));
            }
        }
    }
    none(&complaints, "instructions are missing");
}

/// Floating-point atomics add in the order of chance.
#[test]
fn nothing_depends_on_the_order_of_atomics() {
    let Some(functions) = functions() else { return };
    let is_atomic = |opcode: &str| {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        (name.starts_with("ATOM") || name.starts_with("RED"))
            && parts.any(|part| {
                part.starts_with('F') && part[1..].starts_with(|c: char| c.is_ascii_digit())
                    || part.starts_with("BF16")
            })
    };
    let found = functions.iter().filter(|function| function.count(is_atomic) > 0);
    none(&found.map(at).collect::<Vec<_>>(), "floating-point atomics");
}

/// What kernels must not need: slow helpers, and what only newer or fewer machines have. Simulators of PTX stop at
/// the same set.
#[test]
fn ptx_stays_within_the_ampere_set() {
    let Some(entries) = entries() else { return };
    let refused = |instruction: &str| {
        let wide_division =
            ["div.u64", "div.s64", "rem.u64", "rem.s64", "mul.hi.u64", "mul.hi.s64"];
        let newer = [
            "wgmma",
            "mbarrier",
            "stmatrix",
            "redux",
            "match.",
            "cp.async.bulk",
            "tcgen05",
            "setmaxnreg",
        ];
        let local = ["ld.local", "st.local"];
        let listed = wide_division.iter().chain(&newer).chain(&local);
        listed.copied().any(|start| instruction.starts_with(start))
            || instruction.ends_with(".f64")
            || instruction.contains(".v8.")
            || ((instruction.starts_with("atom") || instruction.starts_with("red."))
                && [".f16", ".bf16", ".f32", ".v2", ".v4"]
                    .iter()
                    .any(|kind| instruction.contains(kind)))
    };
    let mut complaints = Vec::new();
    for entry in entries {
        let found: Vec<&str> =
            entry.instructions.iter().map(String::as_str).filter(|name| refused(name)).collect();
        if !found.is_empty() {
            complaints.push(format!("{}: {}", entry.kernel, found.join(", ")));
        }
    }
    none(&complaints, "instructions that kernels have to do without");
}

/// For whoever tunes kernels: `cargo test --test b4r -- nvcc::table --nocapture`.
#[test]
fn table_of_registers() {
    let (Some(functions), Some(entries)) = (functions(), entries()) else { return };
    let mut table = String::from(
        "kernel, threads x blocks: registers and static shared memory by architecture\n",
    );
    for Entry { kernel, threads, blocks, .. } in entries {
        let _ = write!(table, "{kernel:40} {threads:4} x {blocks}:");
        for function in functions.iter().filter(|function| function.kernel == *kernel) {
            let _ = write!(
                table,
                "  sm_{} {:3} {:5}",
                function.architecture, function.registers, function.shared
            );
        }
        table.push('\n');
    }
    println!("{table}");
    assert!(functions.iter().all(|function| function.registers > 0), "registers are not read");
}
