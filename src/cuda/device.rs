//! One GPU: its context, its stream, the loaded kernels, and the one place where kernels are launched.

use super::choice::{self, Built};
use super::kernels::{MODULES, Module};
use super::memory::Slice;
use crate::{Error, Result};
use bytemuck::{NoUninit, Pod};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DriverError, result, sys,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// A failure that is not about memory.
pub(super) fn failed(action: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Device { action: action.into(), problem: problem.into() }
}

/// Turns a driver's error into ours; for `map_err`.
pub(super) fn driver(action: &str) -> impl FnOnce(DriverError) -> Error + '_ {
    move |error| failed(action, error.to_string())
}

/// How a kernel is spread over the device.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block, the number that its `KERNEL` declares.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared: u32,
}

impl Grid {
    /// `blocks` blocks in a row without dynamic shared memory.
    pub fn new(blocks: usize, threads: u32) -> Self {
        Grid { blocks: [blocks as u32, 1, 1], threads, shared: 0 }
    }
}

/// A kernel file in the driver's hands.
struct LoadedModule(sys::CUmodule);

impl LoadedModule {
    /// Needs a current context.
    fn new(module: &Module) -> Result<Self> {
        // SAFETY: the image is a fatbin, which knows its length, or text that a zero byte ends, and static.
        unsafe { result::module::load_data(module.image.as_ptr().cast()) }
            .map(LoadedModule)
            .map_err(|error| choice::not_loaded(module.name, error, &Built::THIS).into())
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        // SAFETY: loaded by `new` and not unloaded before. A failure leaves nothing to be done.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

/// A GPU with the kernels of this program.
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// One for each of [`MODULES`].
    modules: Vec<LoadedModule>,
    /// Those launched so far, with the bytes of dynamic shared memory that each may have.
    functions: RefCell<HashMap<String, (sys::CUfunction, u32)>>,
    /// Launches with the events around them, while somebody wants their times.
    timeline: RefCell<Option<Vec<(String, CudaEvent, CudaEvent)>>>,
    name: String,
    multiprocessors: u32,
    shared_limit: u32,
}

impl Device {
    /// Device `ordinal` with all kernels loaded.
    ///
    /// # Errors
    /// [`Error::Device`], and [`Error::Config`] where the driver does not take the kernels.
    pub fn open(ordinal: usize) -> Result<Self> {
        // SAFETY: only asks the loader whether the driver's library can be opened.
        if !unsafe { sys::is_culib_present() } {
            return Err(failed("open the GPU", "the CUDA driver (libcuda.so) is not installed"));
        }
        let context = CudaContext::new(ordinal).map_err(driver("open the GPU"))?;
        // SAFETY: nothing has been allocated yet, and one stream orders all work on what will be; the second
        // stream, which uploads, is ordered by events of our own. Graph capture needs tracking to be off.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(driver("open a stream"))?;
        let modules = MODULES.iter().map(LoadedModule::new).collect::<Result<Vec<_>>>()?;
        let attribute = |attribute| context.attribute(attribute).map_err(driver("ask the GPU"));
        use sys::CUdevice_attribute as Attribute;
        let multiprocessors =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as u32;
        let shared_limit =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32;
        let name = context.name().map_err(driver("ask the GPU for its name"))?;
        Ok(Device {
            context,
            stream,
            modules,
            functions: RefCell::default(),
            timeline: RefCell::default(),
            name,
            multiprocessors,
            shared_limit,
        })
    }

    /// What the driver calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of multiprocessors; how far sums over tokens are split depends on it.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Most dynamic shared memory that a block may have, in bytes.
    pub fn shared_limit(&self) -> u32 {
        self.shared_limit
    }

    /// Bytes that can still be allocated; 0 where the driver does not say.
    pub fn free_bytes(&self) -> u64 {
        self.context.mem_get_info().map_or(0, |(free, _)| free as u64)
    }

    /// The stream that all kernels run on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Waits for all work that was handed in.
    ///
    /// # Errors
    /// [`Error::Device`] where a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(driver("wait for the GPU"))
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<(CudaSlice<u8>, u64)> {
        // SAFETY: the bytes are read only after a kernel or a copy has written them.
        let owned = unsafe { self.stream.alloc::<u8>(bytes) }.map_err(driver("allocate"))?;
        let (address, _) = owned.device_ptr(&self.stream);
        Ok((owned, address))
    }

    /// Sets every byte to 0.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn clear<T: Pod>(&self, slice: Slice<T>) -> Result<()> {
        let bytes = slice.len * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: a slice lies within memory that its owner keeps; the stream orders the write.
        unsafe { result::memset_d8_async(slice.address, 0, bytes, self.stream.cu_stream()) }
            .map_err(driver("clear device memory"))
    }

    /// Copies `values` into a slice of the same length, and waits.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn upload<T: Pod>(&self, slice: Slice<T>, values: &[T]) -> Result<()> {
        super::memory::check("upload", "device memory", slice, values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: both sides have the same number of elements; the copy is over before `values` can go away.
        unsafe { result::memcpy_htod_async(slice.address, values, self.stream.cu_stream()) }
            .map_err(driver("copy to the GPU"))?;
        self.synchronize()
    }

    /// The values of a slice, once all work before is done.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn download<T: Pod>(&self, slice: Slice<T>) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); slice.len];
        if values.is_empty() {
            return Ok(values);
        }
        // SAFETY: both sides have the same number of elements; the copy is over before `values` is read.
        unsafe { result::memcpy_dtoh_async(&mut values, slice.address, self.stream.cu_stream()) }
            .map_err(driver("copy from the GPU"))?;
        self.synchronize()?;
        Ok(values)
    }

    /// Puts events around every launch from now on; not to be captured.
    pub fn time_launches(&self) {
        *self.timeline.borrow_mut() = Some(Vec::new());
    }

    /// Kernels and seconds of all launches since [`Self::time_launches`], in order; ends the timing.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn launch_times(&self) -> Result<Vec<(String, f64)>> {
        let launches = self.timeline.borrow_mut().take().unwrap_or_default();
        let time = |(kernel, start, end): (String, CudaEvent, CudaEvent)| {
            let milliseconds = start.elapsed_ms(&end).map_err(driver("time a kernel"))?;
            Ok((kernel, f64::from(milliseconds) / 1e3))
        };
        launches.into_iter().map(time).collect()
    }

    /// A moment on the stream, where launches are timed.
    fn moment(&self) -> Result<Option<CudaEvent>> {
        if self.timeline.borrow().is_none() {
            return Ok(None);
        }
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = self.context.new_event(flags).map_err(driver("make an event"))?;
        event.record(&self.stream).map_err(driver("time a kernel"))?;
        Ok(Some(event))
    }

    /// Puts one kernel on the stream. A grid without blocks is nothing to do.
    ///
    /// # Errors
    /// [`Error::Device`] that names the kernel.
    ///
    /// # Safety
    /// `arguments` is the struct that the kernel takes, and every address in it is good for all that the
    /// kernel reads or writes there, until the stream has got past it.
    pub unsafe fn launch<A: NoUninit>(
        &self,
        kernel: &str,
        grid: Grid,
        arguments: &A,
    ) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let function = self.function(kernel, grid.shared)?;
        let [x, y, z] = grid.blocks;
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        let start = self.moment()?;
        // SAFETY: by contract of this function; the driver copies the arguments before it returns.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (grid.threads, 1, 1),
                grid.shared,
                self.stream.cu_stream(),
                &mut parameters,
            )
        }
        .map_err(|error| failed(format!("launch {kernel}"), format!("{error} ({grid:?})")))?;
        if let (Some(start), Some(end)) = (start, self.moment()?)
            && let Some(timeline) = self.timeline.borrow_mut().as_mut()
        {
            timeline.push((kernel.to_string(), start, end));
        }
        Ok(())
    }

    fn function(&self, kernel: &str, shared: u32) -> Result<sys::CUfunction> {
        if shared > self.shared_limit {
            let problem = format!(
                "it needs {shared} bytes of shared memory a block, the GPU has {}",
                self.shared_limit
            );
            return Err(failed(format!("launch {kernel}"), problem));
        }
        if let Some(&(function, allowed)) = self.functions.borrow().get(kernel)
            && shared <= allowed
        {
            return Ok(function);
        }
        let module = MODULES
            .iter()
            .position(|module| module.kernels.contains(&kernel))
            .ok_or_else(|| failed(format!("launch {kernel}"), "there is no such kernel"))?;
        let name =
            CString::new(kernel).map_err(|error| failed("find a kernel", error.to_string()))?;
        // SAFETY: the module is loaded as long as this device lives.
        let function = unsafe { result::module::get_function(self.modules[module].0, name) }
            .map_err(|error| failed(format!("find {kernel}"), error.to_string()))?;
        allow_shared(function, shared)
            .map_err(|error| failed(format!("prepare {kernel}"), error.to_string()))?;
        self.functions.borrow_mut().insert(kernel.to_string(), (function, shared));
        Ok(function)
    }
}

/// Lets launches of a kernel have this much dynamic shared memory, which without asking is 48 KiB with its own
/// variables.
fn allow_shared(function: sys::CUfunction, shared: u32) -> std::result::Result<(), DriverError> {
    if shared == 0 {
        return Ok(());
    }
    let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: a function of a module that is loaded.
    unsafe { result::function::set_function_attribute(function, most, shared as i32) }
}
