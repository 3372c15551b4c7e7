//! Kernels without bugs give the right numbers, by launch and by graph.

use crate::planted;
use cudarc::driver::sys;

#[derive(Clone, Copy)]
#[repr(C)]
struct VectorSum {
    a: u64,
    b: u64,
    sum: u64,
    count: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct BlockSum {
    input: u64,
    sums: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Gemm {
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub m: i32,
    pub n: i32,
    pub k: i32,
}

/// Dynamic shared memory of the matrix product with b as [N x K] and as [K x N].
pub const GEMM_NT_SHARED: u32 = 2 * 2 * (64 * 40 + 64 * 40);
const GEMM_NN_SHARED: u32 = 2 * 2 * (64 * 40 + 32 * 72);

/// Small whole numbers, exact in bf16 and in sums: results do not depend on the order of addition.
pub fn small_numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as f32 % 9.0 - 4.0
        })
        .collect()
}

/// Bits of bf16 numbers that are exact.
pub fn bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|x| (x.to_bits() >> 16) as u16).collect()
}

/// a[m x k] times b, which is [n x k].
pub fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    for row in 0..m {
        for column in 0..n {
            c[row * n + column] = (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum();
        }
    }
    c
}

#[test]
fn vectors_are_added_and_the_tail_is_left_alone() {
    let device = planted();
    let (a, b) = (small_numbers(1000, 1), small_numbers(1000, 2));
    let (on_a, on_b) =
        (device.stream.clone_htod(&a).unwrap(), device.stream.clone_htod(&b).unwrap());
    let sum = device.stream.alloc_zeros::<f32>(1000).unwrap();
    let arguments = VectorSum {
        a: device.address(&on_a),
        b: device.address(&on_b),
        sum: device.address(&sum),
        count: 1000,
    };
    device.launch("vector_sum", (4, 1, 1), 256, 0, arguments).unwrap();
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(device.stream.clone_dtoh(&sum).unwrap(), expected);
}

#[test]
fn blocks_add_up_through_shuffles_and_shared_memory() {
    let device = planted();
    let input = small_numbers(256 * 7, 3);
    let on_device = device.stream.clone_htod(&input).unwrap();
    let sums = device.stream.alloc_zeros::<f32>(7).unwrap();
    let arguments = BlockSum { input: device.address(&on_device), sums: device.address(&sums) };
    device.launch("block_sum", (7, 1, 1), 256, 0, arguments).unwrap();
    let expected: Vec<f32> = input.chunks(256).map(|block| block.iter().sum()).collect();
    assert_eq!(device.stream.clone_dtoh(&sums).unwrap(), expected);
}

#[test]
fn matrices_are_multiplied_by_tensor_cores() {
    let device = planted();
    let (m, n, k) = (128, 192, 160);
    let (a, b) = (small_numbers(m * k, 4), small_numbers(n * k, 5));
    let transposed: Vec<f32> = (0..k * n).map(|i| b[i % n * k + i / n]).collect();
    let on_a = device.stream.clone_htod(&bf16(&a)).unwrap();
    for (name, b_as_stored, shared) in
        [("gemm_nt", &b, GEMM_NT_SHARED), ("gemm_nn", &transposed, GEMM_NN_SHARED)]
    {
        let on_b = device.stream.clone_htod(&bf16(b_as_stored)).unwrap();
        let c = device.stream.alloc_zeros::<f32>(m * n).unwrap();
        let arguments = Gemm {
            a: device.address(&on_a),
            b: device.address(&on_b),
            c: device.address(&c),
            m: m as i32,
            n: n as i32,
            k: k as i32,
        };
        device.launch(name, (n as u32 / 64, m as u32 / 64, 1), 128, shared, arguments).unwrap();
        assert_eq!(device.stream.clone_dtoh(&c).unwrap(), product(&a, &b, m, n, k), "{name}");
    }
}

#[test]
fn a_replayed_graph_equals_eager_launches() {
    let device = planted();
    let stream = &device.stream;
    let input = small_numbers(256 * 4, 6);
    let mut on_device = stream.alloc_zeros::<f32>(input.len()).unwrap();
    let doubled = stream.alloc_zeros::<f32>(input.len()).unwrap();
    let sums = stream.alloc_zeros::<f32>(4).unwrap();
    let add = VectorSum {
        a: device.address(&on_device),
        b: device.address(&on_device),
        sum: device.address(&doubled),
        count: input.len() as u32,
    };
    let sum = BlockSum { input: device.address(&doubled), sums: device.address(&sums) };
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    {
        // The driver copies arguments at the call: these are gone when the graph runs.
        let (add, sum) = (Box::new(add), Box::new(sum));
        device.launch("vector_sum", (4, 1, 1), 256, 0, *add).unwrap();
        device.launch("block_sum", (4, 1, 1), 256, 0, *sum).unwrap();
    }
    let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&sums).unwrap(), [0.0; 4], "captured work must not run");
    softgpu::reset_launches();
    for factor in [1.0, 3.0] {
        let scaled: Vec<f32> = input.iter().map(|x| x * factor).collect();
        stream.memcpy_htod(&scaled, &mut on_device).unwrap();
        graph.launch().unwrap();
        let expected: Vec<f32> =
            scaled.chunks(256).map(|block| 2.0 * block.iter().sum::<f32>()).collect();
        assert_eq!(stream.clone_dtoh(&sums).unwrap(), expected);
    }
    assert_eq!(softgpu::launches(), 4);
    assert_eq!(softgpu::launch_counts()["block_sum"], 2);
}
