//! Work is done as late as the rules allow, so that what was not waited for is seen.

use crate::device::{Buffers, Device};
use crate::planted;
use cudarc::driver::{CudaSlice, sys::CUresult};

/// 64 numbers on the device.
fn numbers(device: &Device, value: f32) -> CudaSlice<f32> {
    let numbers = device.stream.clone_htod(&[value; 64]).unwrap();
    device.stream.synchronize().unwrap();
    numbers
}

#[test]
fn a_pinned_buffer_that_is_reused_too_early_sends_the_new_content() {
    let device = planted();
    let mut on_device = numbers(&device, 0.0);
    // SAFETY: written before it is read.
    let mut pinned = unsafe { device.stream.context().alloc_pinned::<f32>(64) }.unwrap();
    // Through this pointer, because cudarc's own access to the buffer waits.
    let pointer = pinned.as_mut_ptr().unwrap();
    // SAFETY: the buffer has 64 numbers and lives to the end of this function.
    let fill = |value: f32| unsafe { std::slice::from_raw_parts_mut(pointer, 64) }.fill(value);
    for (waits, expected) in [(true, 1.0), (false, 2.0)] {
        fill(1.0);
        device.stream.memcpy_htod(&pinned, &mut on_device).unwrap();
        if waits {
            device.stream.synchronize().unwrap();
        }
        fill(2.0);
        assert_eq!(device.stream.clone_dtoh(&on_device).unwrap(), [expected; 64]);
    }
}

#[test]
fn memory_that_is_not_pinned_is_taken_at_the_call() {
    let device = planted();
    let mut on_device = numbers(&device, 0.0);
    let mut source = vec![1.0f32; 64];
    device.stream.memcpy_htod(&source, &mut on_device).unwrap();
    source.fill(2.0);
    assert_eq!(device.stream.clone_dtoh(&on_device).unwrap(), [1.0; 64]);
}

/// Copies a to b on one stream and b to c on another, with and without an event between them; gives c.
fn hand_over(first: &Device, second: &Device, waits: bool, seed: u64) -> Vec<f32> {
    let (a, b, c) = (numbers(first, 1.0), numbers(first, 2.0), numbers(first, 3.0));
    let [a, b, c_address] = [&a, &b, &c].map(|slice| first.address(slice));
    softgpu::set_seed(seed);
    let a_to_b = Buffers { input: a, output: b, count: 64 };
    first.launch("copy_input", (1, 1, 1), 64, 0, a_to_b).unwrap();
    if waits {
        second.stream.wait(&first.stream.record_event(None).unwrap()).unwrap();
    }
    let b_to_c = Buffers { input: b, output: c_address, count: 64 };
    second.launch("copy_input", (1, 1, 1), 64, 0, b_to_c).unwrap();
    second.stream.synchronize().unwrap();
    first.stream.clone_dtoh(&c).unwrap()
}

#[test]
fn streams_that_do_not_wait_for_one_another_run_in_any_order() {
    let (first, second) = (planted(), planted());
    let right = |waits| {
        (0..20).filter(|&seed| hand_over(&first, &second, waits, seed) == [1.0; 64]).count()
    };
    assert_eq!(right(true), 20);
    let by_luck = right(false);
    assert!((1..20).contains(&by_luck), "{by_luck} of 20 orders gave the right numbers");
}

#[test]
fn a_fault_comes_back_when_the_host_waits_and_only_once() {
    let device = planted();
    let memory = numbers(&device, 1.0);
    let address = device.address(&memory);
    let buffers = Buffers { input: address, output: address, count: 64 };
    device.launch("null_pointer", (1, 1, 1), 64, 0, buffers).unwrap();
    let error = device.stream.synchronize().unwrap_err();
    assert_eq!(error.0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    device.stream.synchronize().unwrap();
    assert_eq!(device.stream.clone_dtoh(&memory).unwrap(), [1.0; 64]);
}
