//! Planted bugs under AddressSanitizer and ThreadSanitizer, each in a process of its own.

use softgpu::compile::Sanitizer;
use softgpu::{Kernels, Variant};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Built once; none, with a line on stderr, where the compiler lacks the sanitizer.
fn variant(sanitizer: Sanitizer) -> Option<Variant> {
    static ADDRESS: OnceLock<Option<Variant>> = OnceLock::new();
    static THREAD: OnceLock<Option<Variant>> = OnceLock::new();
    let built = if sanitizer == Sanitizer::Address { &ADDRESS } else { &THREAD };
    let variant = built.get_or_init(|| softgpu::variant(Kernels::Planted, sanitizer).unwrap());
    if variant.is_none() {
        eprintln!("skipped: the C++ compiler has no {} sanitizer", sanitizer.name());
    }
    variant.clone()
}

/// Runs a planted kernel on the variant.
fn run(sanitizer: Sanitizer, kernel: &str, count: usize) -> Option<Output> {
    let Variant { library, runtime } = variant(sanitizer)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-planted"));
    command
        .arg(library)
        .args([kernel, &count.to_string()])
        .env("LD_PRELOAD", runtime)
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1")
        .env("SOFTGPU_SEED", "1");
    // ThreadSanitizer does not bear every random layout of the address space.
    // SAFETY: one system call; where it is not allowed the layout stays random.
    unsafe {
        command.pre_exec(|| {
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            Ok(())
        })
    };
    Some(command.output().unwrap())
}

fn assert_clean(sanitizer: Sanitizer, kernel: &str, count: usize) {
    let Some(output) = run(sanitizer, kernel, count) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{kernel}: {}\n{stderr}", output.status);
}

/// Asserts that the report names the sanitizer's finding and the line of bugs.cu that has `code`.
fn assert_found(sanitizer: Sanitizer, kernel: &str, count: usize, finding: &str, code: &str) {
    let Some(output) = run(sanitizer, kernel, count) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{kernel} passed under {sanitizer:?}:\n{stderr}");
    let source = include_str!("../../planted/bugs.cu");
    let line = 1 + source.lines().position(|line| line.contains(code)).expect(code);
    for words in [finding, &format!("bugs.cu:{line}")] {
        assert!(
            stderr.contains(words),
            "{kernel} under {sanitizer:?} does not say {words:?}:\n{stderr}"
        );
    }
}

#[test]
fn address_sanitizer_passes_right_kernels() {
    for kernel in ["copy_input", "reverse_block", "reverse_warp", "last_block_sum"] {
        assert_clean(Sanitizer::Address, kernel, 256);
    }
}

#[test]
fn address_sanitizer_finds_every_access_out_of_bounds() {
    let found = |kernel, count, finding: &str, code| {
        assert_found(Sanitizer::Address, kernel, count, finding, code);
    };
    found("write_past_end", 100, "heap-buffer-overflow", "args.out[global_index()] = 1.0f; }");
    let one = "<= args.count) args.out[global_index()] = 1.0f";
    found("write_one_past_end", 101, "heap-buffer-overflow", one);
    let before = "args.in[global_index() - 4096]";
    found("read_before_start", 4, "AddressSanitizer", before);
    let first = "first[threadIdx.x + args.count] = args.in[threadIdx.x % args.count]";
    found("write_static_shared_past_end", 1, "use-after-poison", first);
}

#[test]
fn thread_sanitizer_passes_right_kernels() {
    for kernel in ["copy_input", "reverse_block", "reverse_warp", "last_block_sum"] {
        assert_clean(Sanitizer::Thread, kernel, 256);
    }
}

#[test]
fn thread_sanitizer_finds_every_missing_order() {
    let race = |kernel, code| {
        assert_found(Sanitizer::Thread, kernel, 256, "ThreadSanitizer: data race", code)
    };
    race("reverse_block_without_barrier", "numbers.at[63 - threadIdx.x]");
    race("reverse_warp_without_barrier", "numbers.at[threadIdx.x ^ 31]");
    race("race_between_blocks", "args.out[0] = args.in[blockIdx.x]");
    race("last_block_sum_without_fence", "sum += args.out[1 + block]");
}
