//! What the driver's calls refuse, count and report.

use crate::device::{Buffers, Device};
use crate::planted;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};

/// Copies 64 numbers.
fn launch_copy(device: &Device, buffers: Buffers) -> Result<(), DriverError> {
    device.launch("copy_input", (1, 1, 1), 64, 0, buffers)
}

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().expect("an error").0
}

#[test]
fn the_device_says_what_it_is() {
    let device = planted();
    let context = device.stream.context();
    assert_eq!(context.name().unwrap(), "b4r software GPU");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    let shared = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(context.attribute(shared).unwrap(), 99 * 1024);
    let processors = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    assert_eq!(context.attribute(processors).unwrap(), 4);
    let mut version = 0;
    // SAFETY: the pointer is to a variable of this function.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().unwrap();
    assert_eq!(version, 13_000);
    assert_eq!(code(CudaContext::new(1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
}

#[test]
fn images_of_other_kernels_are_refused() {
    let _device = planted();
    let load = |image: &[u8]| {
        // SAFETY: every image ends with a zero byte.
        unsafe { result::module::load_data(image.as_ptr().cast()) }
    };
    let right = softgpu::planted_manifest();
    let mut fatbin = vec![0u8; 16 + 40];
    fatbin[..4].copy_from_slice(&0xBA55_ED50_u32.to_le_bytes());
    fatbin[4..6].copy_from_slice(&1u16.to_le_bytes());
    fatbin[6..8].copy_from_slice(&16u16.to_le_bytes());
    fatbin[8..16].copy_from_slice(&40u64.to_le_bytes());
    load(&[&fatbin, right].concat()).unwrap();
    assert_eq!(code(load(softgpu::manifest())), CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert!(softgpu::last_fault().contains("made from other kernels"), "{}", softgpu::last_fault());
    assert_eq!(code(load(b"no manifest at all\0")), CUresult::CUDA_ERROR_INVALID_IMAGE);
    let fewer = String::from_utf8_lossy(right).replace(" copy_input", "");
    let module = load(fewer.as_bytes()).unwrap();
    // SAFETY: the module was just loaded.
    let function = unsafe { result::module::get_function(module, c"copy_input".into()) };
    assert_eq!(code(function), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn memory_ends_where_the_limit_says() {
    let device = planted();
    let free = device.stream.context().mem_get_info().unwrap().0;
    let limit = softgpu::limit_memory(1000);
    let first = device.stream.alloc_zeros::<u8>(600).unwrap();
    assert_eq!(code(device.stream.alloc_zeros::<u8>(500)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert!(
        softgpu::last_fault().contains("500 bytes wanted, 400 free"),
        "{}",
        softgpu::last_fault()
    );
    assert_eq!(device.stream.context().mem_get_info().unwrap().0, 400);
    drop(first);
    device.stream.alloc_zeros::<u8>(1000).unwrap();
    drop(limit);
    device.stream.alloc_zeros::<u8>(5000).unwrap();
    assert_eq!(
        code(device.stream.alloc_zeros::<u8>(free + (1 << 40))),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY
    );
}

#[test]
fn copies_beyond_an_allocation_are_refused() {
    let device = planted();
    let memory = device.stream.alloc_zeros::<u8>(64).unwrap();
    let address = device.address(&memory);
    let stream = device.stream.cu_stream();
    let copy = |at, bytes: &[u8]| {
        // SAFETY: refused before anything is written; the host's side is as long as it says.
        unsafe { result::memcpy_htod_async(at, bytes, stream) }
            .and_then(|()| device.stream.synchronize())
    };
    copy(address + 60, &[1; 4]).unwrap();
    assert_eq!(code(copy(address + 61, &[1; 4])), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(softgpu::last_fault().contains("4 bytes at"), "{}", softgpu::last_fault());
    // SAFETY: as above.
    unsafe { result::memset_d8_async(address, 7, 65, stream) }.unwrap();
    let fill = device.stream.synchronize();
    assert_eq!(code(fill), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(device.stream.clone_dtoh(&memory).unwrap()[58..], [0, 0, 1, 1, 1, 1]);
}

#[test]
fn copies_and_fills_are_captured_and_what_waits_is_forbidden() {
    let device = planted();
    let stream = &device.stream;
    let mut from = stream.alloc_zeros::<f32>(64).unwrap();
    let mut to = stream.alloc_zeros::<f32>(64).unwrap();
    let copied = stream.alloc_zeros::<f32>(64).unwrap();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;

    stream.begin_capture(mode).unwrap();
    stream.memset_zeros(&mut to).unwrap();
    let buffers = Buffers { input: device.address(&from), output: device.address(&to), count: 32 };
    launch_copy(&device, buffers).unwrap();
    let (source, target) = (device.address(&to), device.address(&copied));
    // SAFETY: both have 64 numbers.
    unsafe { result::memcpy_dtod_async(target, source, 256, stream.cu_stream()) }.unwrap();
    let graph = stream.end_capture(flags).unwrap().unwrap();
    graph.upload().unwrap();
    stream.memcpy_htod(&[5.0; 64], &mut from).unwrap();
    stream.memcpy_htod(&[9.0; 64], &mut to).unwrap();
    graph.launch().unwrap();
    let result = stream.clone_dtoh(&copied).unwrap();
    assert_eq!((&result[..32], &result[32..]), ([5.0; 32].as_slice(), [0.0; 32].as_slice()));

    stream.begin_capture(mode).unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(
        code(launch_copy(&device, buffers)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );
    assert_eq!(code(stream.end_capture(flags)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    launch_copy(&device, buffers).unwrap();
}

#[test]
fn a_second_stream_joins_a_capture_and_has_to_be_joined() {
    let device = planted();
    let (first, second) = (&device.stream, device.stream.context().new_stream().unwrap());
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let mut memory = first.alloc_zeros::<u8>(16).unwrap();
    for joined in [true, false] {
        first.begin_capture(mode).unwrap();
        second.wait(&first.record_event(None).unwrap()).unwrap();
        second.memset_zeros(&mut memory).unwrap();
        if joined {
            first.wait(&second.record_event(None).unwrap()).unwrap();
            assert!(first.end_capture(flags).unwrap().is_some());
        } else {
            assert_eq!(
                code(first.end_capture(flags)),
                CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
            );
        }
    }
}

#[test]
fn launches_are_counted_by_thread_and_name() {
    let device = planted();
    let memory = device.stream.alloc_zeros::<f32>(64).unwrap();
    let address = device.address(&memory);
    let buffers = Buffers { input: address, output: address, count: 64 };
    softgpu::reset_launches();
    launch_copy(&device, buffers).unwrap();
    launch_copy(&device, buffers).unwrap();
    device.launch("reverse_warp", (1, 1, 1), 64, 0, buffers).unwrap();
    assert_eq!(softgpu::launches(), 3);
    assert_eq!(softgpu::launch_counts()["copy_input"], 2);
    assert_eq!(std::thread::spawn(softgpu::launches).join().unwrap(), 0);
}

#[test]
fn shared_memory_beyond_48_kib_has_to_be_asked_for() {
    let device = planted();
    let memory = device.stream.alloc_zeros::<f32>(64).unwrap();
    let address = device.address(&memory);
    let buffers = Buffers { input: address, output: address, count: 64 };
    let launch = || device.launch("copy_input", (1, 1, 1), 64, 64 << 10, buffers);
    assert_eq!(code(launch()), CUresult::CUDA_ERROR_INVALID_VALUE);
    let function = device.function("copy_input").unwrap();
    let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: a function of a loaded module.
    let ask = |bytes| unsafe { result::function::set_function_attribute(function, most, bytes) };
    assert_eq!(code(ask((99 << 10) + 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
    ask(99 << 10).unwrap();
    launch().unwrap();
}
