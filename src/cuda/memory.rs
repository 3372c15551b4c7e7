//! Memory of the device: named buffers that are allocated once.

use super::device::{Device, failed};
use crate::{Error, Result};
use bytemuck::Pod;
use cudarc::driver::CudaSlice;
use std::marker::PhantomData;

/// What activations and the weights of matrices are stored as.
pub trait Storage: Pod + PartialEq + std::fmt::Debug + 'static {
    /// Ending of the names of kernels for it.
    const NAME: &'static str;
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    /// Exact.
    fn to_f32(self) -> f32;
}

impl Storage for f32 {
    const NAME: &'static str = "f32";
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Storage for half::bf16 {
    const NAME: &'static str = "bf16";
    fn from_f32(x: f32) -> Self {
        half::bf16::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        half::bf16::to_f32(self)
    }
}

/// Address and number of elements of device memory that some [`Memory`] owns. Empty where there is nothing.
#[derive(Debug)]
pub struct Slice<T> {
    /// Device address of the first element.
    pub address: u64,
    /// Number of elements.
    pub len: usize,
    element: PhantomData<T>,
}

impl<T> Clone for Slice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<T> {}

impl<T> Default for Slice<T> {
    fn default() -> Self {
        Slice { address: 0, len: 0, element: PhantomData }
    }
}

impl<T> Slice<T> {
    /// `len` elements from `start` on.
    ///
    /// # Panics
    /// When they are not all within.
    pub fn part(self, start: usize, len: usize) -> Self {
        assert!(start <= self.len && len <= self.len - start, "a part beyond its slice");
        let address = self.address + (start * size_of::<T>()) as u64;
        Slice { address, len, element: PhantomData }
    }

    /// The same bytes as elements of another type.
    pub fn cast<U>(self) -> Slice<U> {
        let len = self.len * size_of::<T>() / size_of::<U>();
        Slice { address: self.address, len, element: PhantomData }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Owner of device memory; what it lent is gone when it is dropped.
#[derive(Default)]
pub struct Memory {
    owned: Vec<CudaSlice<u8>>,
    bytes: u64,
}

impl Memory {
    /// Bytes allocated so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `len` elements whose values are undefined; at least aligned to 256 bytes.
    ///
    /// # Errors
    /// [`Error::Memory`] that names `what`.
    pub fn take<T: Pod>(&mut self, device: &Device, what: &str, len: usize) -> Result<Slice<T>> {
        if len == 0 {
            return Ok(Slice::default());
        }
        let needed = len as u128 * size_of::<T>() as u128;
        let refused = || Error::Memory {
            what: format!("{what} on {}", device.name()),
            needed,
            available: device.free_bytes(),
            remedy: "use a smaller batch, hidden_size or max_len, or --device cpu".to_string(),
        };
        let bytes = usize::try_from(needed).map_err(|_| refused())?;
        let (owned, address) = device.allocate(bytes).map_err(|_| refused())?;
        self.owned.push(owned);
        self.bytes += bytes as u64;
        Ok(Slice { address, len, element: PhantomData })
    }

    /// The same, all bytes 0.
    ///
    /// # Errors
    /// Those of [`Self::take`], and [`Error::Device`].
    pub fn take_zeroed<T: Pod>(
        &mut self,
        device: &Device,
        what: &str,
        len: usize,
    ) -> Result<Slice<T>> {
        let slice = self.take(device, what, len)?;
        device.clear(slice)?;
        Ok(slice)
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// Those of [`Self::take`], and [`Error::Device`].
    pub fn take_copy<T: Pod>(
        &mut self,
        device: &Device,
        what: &str,
        values: &[T],
    ) -> Result<Slice<T>> {
        let slice = self.take(device, what, values.len())?;
        device.upload(slice, values)?;
        Ok(slice)
    }
}

/// Checks that a buffer has the length that an operation's sizes ask for.
///
/// # Errors
/// [`Error::Device`] that names the operation, the buffer and both lengths.
pub fn check<T>(operation: &str, buffer: &str, slice: Slice<T>, expected: usize) -> Result<()> {
    if slice.len == expected {
        return Ok(());
    }
    Err(failed(
        format!("{operation}: {buffer}"),
        format!("has {} elements where {expected} belong", slice.len),
    ))
}
