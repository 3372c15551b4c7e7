//! Each class of bug, planted in a kernel, is seen: in this process, without sanitizers.

use crate::device::{Buffers, Device};
use crate::planted;
use crate::right_kernels::{GEMM_NT_SHARED, Gemm, bf16, product, small_numbers};
use cudarc::driver::{CudaSlice, DriverError, sys::CUresult};

/// Runs a kernel of bugs.cu over `count` numbers in blocks of 64 and gives what it wrote, from 1, 2, 3, ...
fn run(name: &str, count: usize, shared: u32) -> Result<Vec<f32>, DriverError> {
    let device = planted();
    let input: Vec<f32> = (1..=count).map(|x| x as f32).collect();
    let on_device = device.stream.clone_htod(&input).unwrap();
    let out = device.stream.alloc_zeros::<f32>(count).unwrap();
    let buffers = Buffers {
        input: device.address(&on_device),
        output: device.address(&out),
        count: count as i32,
    };
    device.launch(name, (count.div_ceil(64) as u32, 1, 1), 64, shared, buffers)?;
    device.stream.synchronize()?;
    Ok(device.stream.clone_dtoh(&out).unwrap())
}

/// Memory that nobody has written.
fn fresh(device: &Device, count: usize) -> CudaSlice<f32> {
    // SAFETY: that it is uninitialised is what tests want.
    unsafe { device.stream.alloc::<f32>(count) }.unwrap()
}

/// Asserts that the launch fails with `code` and that the fault names the kernel and says all of `words`.
fn assert_fault(name: &str, count: usize, shared: u32, code: CUresult, words: &[&str]) {
    let error = run(name, count, shared).expect_err(name);
    let fault = softgpu::last_fault();
    assert_eq!(error.0, code, "{fault}");
    assert!(fault.starts_with(&format!("kernel {name}")), "{fault}");
    for word in words {
        assert!(fault.contains(word), "{fault:?} does not say {word:?}");
    }
    assert_eq!(error.to_string().matches(&fault).count(), 1, "the driver's error says it: {error}");
}

/// Line of planted/bugs.cu on which `text` stands, as faults write it.
fn line_of(text: &str) -> String {
    let source = include_str!("../../planted/bugs.cu");
    let at = source.lines().position(|line| line.contains(text)).expect(text);
    format!("bugs.cu:{}", at + 1)
}

use CUresult::{
    CUDA_ERROR_ILLEGAL_ADDRESS as ILLEGAL_ADDRESS, CUDA_ERROR_INVALID_VALUE as INVALID_VALUE,
    CUDA_ERROR_LAUNCH_FAILED as LAUNCH_FAILED, CUDA_ERROR_MISALIGNED_ADDRESS as MISALIGNED_ADDRESS,
};

#[test]
fn writing_past_the_end_of_global_memory() {
    assert_fault(
        "write_past_end",
        64 * 16 - 1,
        0,
        ILLEGAL_ADDRESS,
        &["wrote beside an allocation of 4092 bytes"],
    );
    assert_fault(
        "write_one_past_end",
        101,
        0,
        ILLEGAL_ADDRESS,
        &["wrote beside an allocation of 404 bytes"],
    );
    assert_fault(
        "write_one_past_end",
        100,
        0,
        ILLEGAL_ADDRESS,
        &[
            "block (1, 0, 0), thread (36, 0, 0)",
            "0 bytes past the end of an allocation of 400 bytes",
        ],
    );
}

#[test]
fn reading_before_the_start_of_global_memory() {
    assert_fault(
        "read_before_start",
        64,
        0,
        ILLEGAL_ADDRESS,
        &["illegal address", "bytes before an allocation"],
    );
}

#[test]
fn reading_memory_that_was_freed() {
    let device = planted();
    let out = device.stream.alloc_zeros::<f32>(64).unwrap();
    let freed = fresh(&device, 64);
    let buffers =
        Buffers { input: device.address(&freed), output: device.address(&out), count: 64 };
    drop(freed);
    device.launch("copy_input", (1, 1, 1), 64, 0, buffers).unwrap();
    let error = device.stream.synchronize().unwrap_err();
    assert_eq!(error.0, ILLEGAL_ADDRESS);
    assert!(softgpu::last_fault().contains("illegal address"), "{}", softgpu::last_fault());
}

#[test]
fn writing_past_the_end_of_shared_memory() {
    let words = ["wrote beyond the end of the shared variable numbers"];
    assert_fault("write_static_shared_past_end", 3, 0, ILLEGAL_ADDRESS, &words);
    let words = ["wrote beyond the end of the dynamic shared memory (260 bytes)"];
    assert_fault("write_dynamic_shared_past_end", 5, 260, ILLEGAL_ADDRESS, &words);
    let words = ["block (0, 0, 0), thread", "illegal address"];
    assert_fault("write_dynamic_shared_past_end", 1, 256, ILLEGAL_ADDRESS, &words);
}

#[test]
fn indexing_past_the_end_of_an_array() {
    let line = line_of("sums[i] += args.in[i]");
    assert_fault(
        "index_local_array_past_end",
        5,
        0,
        LAUNCH_FAILED,
        &["out of the bounds of an array", &line],
    );
}

#[test]
fn copying_asynchronously_from_past_the_end() {
    let line = line_of("if (threadIdx.x < 16) copy_async_16");
    let words = ["copy_async_16", &line, "reads 16 bytes at", "of an allocation of 248 bytes"];
    assert_fault("copy_async_past_end", 62, 0, ILLEGAL_ADDRESS, &words);
}

/// Number of seeds, of 20, with which the kernel does not give what its right twin gives.
fn wrong_of_20(kernel: &str, right: &str) -> usize {
    (0..20)
        .filter(|&seed| {
            let expected = run(right, 256, 0).unwrap();
            softgpu::set_seed(seed);
            run(kernel, 256, 0).unwrap() != expected
        })
        .count()
}

#[test]
fn a_missing_barrier_gives_wrong_numbers_in_every_order() {
    assert_eq!(wrong_of_20("reverse_block_without_barrier", "reverse_block"), 20);
    assert_eq!(wrong_of_20("reverse_warp_without_barrier", "reverse_warp"), 20);
}

/// How many of 20 seeds give a wrong product.
fn wrong_products(name: &str) -> usize {
    let device = planted();
    let (m, n, k) = (64, 64, 256);
    let (a, b) = (small_numbers(m * k, 7), small_numbers(n * k, 8));
    let (on_a, on_b) = (
        device.stream.clone_htod(&bf16(&a)).unwrap(),
        device.stream.clone_htod(&bf16(&b)).unwrap(),
    );
    let c = device.stream.alloc_zeros::<f32>(m * n).unwrap();
    let arguments = Gemm {
        a: device.address(&on_a),
        b: device.address(&on_b),
        c: device.address(&c),
        m: m as i32,
        n: n as i32,
        k: k as i32,
    };
    let expected = product(&a, &b, m, n, k);
    (0..20)
        .filter(|&seed| {
            softgpu::set_seed(seed);
            device.launch(name, (1, 1, 1), 128, GEMM_NT_SHARED, arguments).unwrap();
            device.stream.clone_dtoh(&c).unwrap() != expected
        })
        .count()
}

#[test]
fn a_missing_wait_or_barrier_in_a_double_buffered_product() {
    assert_eq!(wrong_products("gemm_nt"), 0);
    assert_eq!(wrong_products("gemm_without_wait"), 20);
    assert_eq!(wrong_products("gemm_without_barrier_after_wait"), 20);
    assert!(wrong_products("gemm_without_barrier_before_copy") >= 10);
}

#[test]
fn barriers_that_not_all_threads_reach() {
    let words = ["divergence", "threads 0-31 wait in __syncthreads", "threads 32-63 returned"];
    assert_fault("barrier_in_branch", 64, 0, LAUNCH_FAILED, &words);
    let words = [
        "divergent barrier",
        "threads 0-31 wait in __syncthreads",
        "threads 32-63 wait in __syncthreads",
    ];
    assert_fault("two_barriers_in_branches", 64, 0, LAUNCH_FAILED, &words);
}

#[test]
fn shuffles_that_not_all_lanes_reach() {
    let line = line_of("x += __shfl_xor_sync");
    let words =
        ["divergence", "threads 0-15 wait in __shfl_xor_sync", &line, "threads 16-31 returned"];
    assert_fault("shuffle_in_branch", 64, 0, LAUNCH_FAILED, &words);
    let words = ["reads lane 20, which is not in the mask"];
    assert_fault("shuffle_from_outside_mask", 64, 0, LAUNCH_FAILED, &words);
}

#[test]
fn uninitialised_memory_reads_as_nan() {
    let device = planted();
    let fresh = fresh(&device, 64);
    let out = device.stream.alloc_zeros::<f32>(64).unwrap();
    let buffers =
        Buffers { input: device.address(&fresh), output: device.address(&out), count: 64 };
    for kernel in ["copy_input", "read_fresh_shared"] {
        device.launch(kernel, (1, 1, 1), 64, 0, buffers).unwrap();
        assert!(device.stream.clone_dtoh(&out).unwrap().iter().all(|x| x.is_nan()), "{kernel}");
    }
}

#[test]
fn misaligned_accesses() {
    let words = ["is no multiple of 16", "kernel.cuh:"];
    assert_fault("misaligned_pack", 64, 0, MISALIGNED_ADDRESS, &words);
    for (kernel, function) in
        [("misaligned_copy_async", "copy_async_16"), ("misaligned_ldmatrix", "ldmatrix_x4")]
    {
        assert_fault(kernel, 64, 0, MISALIGNED_ADDRESS, &[function, "is no multiple of 16"]);
    }
}

#[test]
fn instructions_for_shared_memory_on_global_memory() {
    let words = ["ldmatrix_x4", "is not in the shared memory of the block"];
    assert_fault("ldmatrix_from_global_memory", 64, 0, ILLEGAL_ADDRESS, &words);
}

#[test]
fn arithmetic_without_a_result() {
    assert_fault("divide_by_zero", 64, 0, LAUNCH_FAILED, &["integer division by zero"]);
    let line = line_of("static_cast<float>(rows * 70000)");
    assert_fault("index_overflow", 64, 0, LAUNCH_FAILED, &["overflow of a signed product", &line]);
}

#[test]
fn null_pointers_traps_and_endless_recursion() {
    assert_fault("null_pointer", 64, 0, ILLEGAL_ADDRESS, &["illegal address"]);
    assert_fault("stack_overflow", 64, 0, LAUNCH_FAILED, &["bytes of stack"]);
    let words = ["block (1, 0, 0), thread (36, 0, 0)", "__trap()"];
    assert_fault("trap_past_end", 100, 0, LAUNCH_FAILED, &words);
}

#[test]
fn wrong_launches() {
    let device = planted();
    let out = device.stream.alloc_zeros::<f32>(64).unwrap();
    let buffers = Buffers { input: device.address(&out), output: device.address(&out), count: 64 };
    let refused = |blocks, threads, shared, words: &str| {
        let error = device.launch("copy_input", blocks, threads, shared, buffers).unwrap_err();
        assert_eq!(error.0, INVALID_VALUE);
        let fault = softgpu::last_fault();
        assert!(fault.contains("kernel copy_input") && fault.contains(words), "{fault}");
    };
    refused((1, 1, 1), 65, 0, "65 threads a block; the kernel declares 64");
    refused((1, 1, 1), 0, 0, "no threads");
    refused((0, 1, 1), 64, 0, "no blocks");
    refused((1, 65536, 1), 64, 0, "more blocks than");
    refused((1, 1, 1), 64, 48 * 1024 + 1, "49153 bytes of dynamic shared memory");
    let words = ["more than 49152 bytes of static shared memory"];
    assert_fault("much_static_shared", 64, 0, LAUNCH_FAILED, &words);
}
