//! A context on the software GPU with the planted kernels loaded.

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, result, sys};
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// The argument of every kernel in bugs.cu.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Buffers {
    pub input: u64,
    pub output: u64,
    pub count: i32,
}

/// A device with one stream.
pub struct Device {
    pub stream: Arc<CudaStream>,
    module: sys::CUmodule,
}

impl Device {
    /// Opens the software GPU, which is loaded already.
    pub fn open() -> Self {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: nothing was allocated before.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        // SAFETY: a manifest that a zero byte ends.
        let module =
            unsafe { result::module::load_data(softgpu::planted_manifest().as_ptr().cast()) }
                .unwrap();
        Device { stream, module }
    }

    /// A kernel by name.
    pub fn function(&self, name: &str) -> Result<sys::CUfunction, DriverError> {
        // SAFETY: the module is loaded for the life of the process.
        unsafe { result::module::get_function(self.module, CString::new(name).unwrap()) }
    }

    /// Launches `name` with `threads` a block and `shared` bytes of dynamic shared memory.
    pub fn launch<A: Copy>(
        &self,
        name: &str,
        blocks: (u32, u32, u32),
        threads: u32,
        shared: u32,
        arguments: A,
    ) -> Result<(), DriverError> {
        let function = self.function(name)?;
        let mut parameters = [(&raw const arguments).cast_mut().cast::<c_void>()];
        // SAFETY: the arguments are those of the kernel; what it does to memory is what is tested.
        unsafe {
            let stream = self.stream.cu_stream();
            result::launch_kernel(
                function,
                blocks,
                (threads, 1, 1),
                shared,
                stream,
                &mut parameters,
            )
        }
    }

    /// The address of a slice.
    pub fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }
}
