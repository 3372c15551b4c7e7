//! Finding, loading and asking the library.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The library with b4r's kernels: the one that SOFTGPU_LIBRARY names, else the one that the build script made.
///
/// # Panics
/// When there was no C++ compiler to make it with.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let named = std::env::var_os("SOFTGPU_LIBRARY").filter(|path| !path.is_empty());
        named.map_or_else(|| built(env!("SOFTGPU_KERNELS_LIBRARY")).into(), PathBuf::from)
    })
}

/// A library of the build script, if it could make any.
fn built(path: &'static str) -> &'static Path {
    let problem = env!("SOFTGPU_PROBLEM");
    assert!(problem.is_empty(), "{problem}");
    Path::new(path)
}

/// The image of all of b4r's kernels that the library of [`library`] accepts: a manifest without a fatbin.
pub fn manifest() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/kernels.manifest"))
}

/// The image for the library of [`load_planted`].
pub fn planted_manifest() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/planted.manifest"))
}

/// Loads the software GPU with b4r's kernels into this process, once: cudarc then finds it as the driver.
///
/// # Panics
/// When the library cannot be loaded, or when cudarc, or [`load_planted`], loaded another driver before.
pub fn load() {
    load_from(library());
}

/// Loads the software GPU with the kernels of this package's own tests instead.
///
/// # Panics
/// As [`load`].
pub fn load_planted() {
    load_from(built(env!("SOFTGPU_PLANTED_LIBRARY")));
}

/// Loads a variant, which [`crate::variant`] has built.
///
/// # Panics
/// As [`load`].
pub fn load_variant(path: &Path) {
    load_from(path);
}

/// What the library exports beside the driver's entry points.
struct Exports {
    handle: usize,
}

static EXPORTS: OnceLock<(Exports, PathBuf)> = OnceLock::new();

fn load_from(path: &Path) {
    let (_, loaded) = EXPORTS.get_or_init(|| (open(path), path.to_path_buf()));
    assert_eq!(loaded, path, "one process has one software GPU");
}

fn open(path: &Path) -> Exports {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path has no zero byte");
    // SAFETY: the library's initialisers only fill its own table of kernels.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: after a failed dlopen, dlerror gives a string that lives until the next call of this thread.
        let reason = unsafe { CStr::from_ptr(libc::dlerror()) };
        panic!("cannot load {}: {}", path.display(), reason.to_string_lossy());
    }
    // SAFETY: the names are C strings; the handle found by the name the driver goes by is closed again.
    let driver = unsafe { libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW) };
    assert_eq!(driver, handle, "another libcuda.so was loaded before the software GPU");
    Exports { handle: handle as usize }
}

/// The address of a function that the loaded library exports.
fn export(name: &CStr) -> *mut c_void {
    let (exports, path) = EXPORTS.get().expect("softgpu::load comes first");
    // SAFETY: the handle is open for the life of the process.
    let address = unsafe { libc::dlsym(exports.handle as *mut c_void, name.as_ptr()) };
    assert!(!address.is_null(), "{} lacks {}", path.display(), name.to_string_lossy());
    address
}

fn text(name: &CStr) -> String {
    // SAFETY: the library declares it so; the string it returns belongs to this thread until its next call.
    unsafe {
        let function: extern "C" fn() -> *const c_char = std::mem::transmute(export(name));
        CStr::from_ptr(function()).to_string_lossy().into_owned()
    }
}

/// Number of kernel launches that this thread executed since [`reset_launches`], replays of graphs included.
pub fn launches() -> u64 {
    // SAFETY: the library declares it so.
    unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn() -> u64>(export(c"softgpu_launches"))()
    }
}

/// The same by name of kernel.
pub fn launch_counts() -> BTreeMap<String, u64> {
    launched(1)
}

/// Most bytes of dynamic shared memory that one of these launches asked for, by name of kernel.
pub fn dynamic_shared() -> BTreeMap<String, u64> {
    launched(2)
}

/// A column of what was launched, of which the first is the kernel.
fn launched(column: usize) -> BTreeMap<String, u64> {
    text(c"softgpu_launched")
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter_map(|words| Some((words[0].to_owned(), words.get(column)?.parse().ok()?)))
        .collect()
}

/// Sets the counts of this thread to 0.
pub fn reset_launches() {
    // SAFETY: the library declares it so.
    unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn()>(export(c"softgpu_reset_launches"))()
    }
}

/// The sentence of this thread's last error; empty when there was none.
pub fn last_fault() -> String {
    text(c"softgpu_last_fault")
}

/// Sets the order in which the launches of this thread from now on run threads and blocks.
pub fn set_seed(seed: u64) {
    // SAFETY: the library declares it so.
    unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn(u64)>(export(c"softgpu_set_seed"))(seed)
    }
}

/// While it lives, allocations of this thread beyond a limit fail.
#[must_use = "the limit ends when this is dropped"]
pub struct MemoryLimit {
    of_this_thread: PhantomData<*const ()>,
}

/// Lets this thread allocate at most `bytes` more of device memory than it has now; beyond that it gets
/// CUDA_ERROR_OUT_OF_MEMORY. Other threads are not affected.
pub fn limit_memory(bytes: usize) -> MemoryLimit {
    set_limit(bytes);
    MemoryLimit { of_this_thread: PhantomData }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        set_limit(usize::MAX);
    }
}

fn set_limit(bytes: usize) {
    // SAFETY: the library declares it so.
    unsafe {
        std::mem::transmute::<*mut c_void, extern "C" fn(usize)>(export(c"softgpu_limit_memory"))(
            bytes,
        )
    }
}
