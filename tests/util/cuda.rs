//! The CUDA engine under test: on a real GPU where there is a driver, else on the software GPU.

use super::fixture::{Case, Results};
use b4r::cuda::device::Device;
use b4r::cuda::memory::{Memory, Slice, Storage};
use b4r::cuda::operands::{
    Count, Launcher, Linear, LinearPartials, Norm, NormPartials, NormSaved, Partials,
};
use b4r::cuda::step::{Size, StepBlock};
use bytemuck::Pod;
use std::cell::RefCell;
use std::process::Command;
use std::sync::OnceLock;

/// A device with buffers that live as long as it.
pub struct Gpu {
    memory: RefCell<Memory>,
    device: Device,
    step: Slice<StepBlock>,
}

/// Whether the machine has a driver of its own.
pub fn real_driver() -> bool {
    static REAL: OnceLock<bool> = OnceLock::new();
    // SAFETY: only asks the loader whether a driver can be opened. Nobody loads the software GPU before.
    *REAL.get_or_init(|| unsafe { cudarc::driver::sys::is_culib_present() })
}

/// Lets a program find the software GPU where there is no driver.
pub fn lend_driver(command: &mut Command) {
    if !real_driver() {
        command.env("LD_LIBRARY_PATH", softgpu::library().parent().expect("a folder"));
    }
}

/// A device of one's own: a real GPU's where there is a driver, else the software GPU's.
pub fn device() -> Device {
    if !real_driver() {
        softgpu::load();
    }
    Device::open(0).unwrap()
}

/// Number of parts that tests have weight gradients made in.
const SLOTS: u32 = 3;

/// Rows that buffers have beyond those of the batch. They hold NaN, which kernels neither read nor write.
pub const SPARE: usize = 70;

impl Gpu {
    /// With `step` in its step block.
    pub fn new(step: StepBlock) -> Self {
        let device = device();
        let mut memory = Memory::default();
        let step = memory.take_copy(&device, "step block", &[step]).unwrap();
        Gpu { memory: RefCell::new(memory), device, step }
    }

    /// What operations take.
    pub fn launcher(&self) -> Launcher<'_> {
        Launcher { device: &self.device, step: self.step }
    }

    /// A copy of `values` on the device.
    pub fn copy<T: Pod>(&self, values: &[T]) -> Slice<T> {
        self.memory.borrow_mut().take_copy(&self.device, "test input", values).unwrap()
    }

    /// The same, rounded to a storage type.
    pub fn store<S: Storage>(&self, values: &[f32]) -> Slice<S> {
        let stored: Vec<S> = values.iter().map(|&x| S::from_f32(x)).collect();
        self.copy(&stored)
    }

    /// Writes `values` over a buffer.
    pub fn write<T: Pod>(&self, slice: Slice<T>, values: &[T]) {
        self.device.upload(slice, values).unwrap();
    }

    /// A buffer to be written, with undefined values.
    pub fn buffer<T: Pod>(&self, len: usize) -> Slice<T> {
        self.memory.borrow_mut().take(&self.device, "test output", len).unwrap()
    }

    /// Rows of `width` elements, and spare ones.
    pub fn store_rows<S: Storage>(&self, values: &[f32], width: usize) -> Slice<S> {
        self.store(&[values, &vec![f32::NAN; SPARE * width]].concat())
    }

    /// Room for `rows` rows of `width` elements, and spare ones.
    pub fn rows<S: Storage>(&self, rows: usize, width: usize) -> Slice<S> {
        self.store(&vec![f32::NAN; (rows + SPARE) * width])
    }

    /// The rows that were written.
    ///
    /// # Panics
    /// Where a spare one was written, too.
    pub fn load_rows<S: Storage>(&self, slice: Slice<S>, width: usize) -> Vec<f32> {
        let mut values = self.load(slice);
        let spare = values.split_off(values.len() - SPARE * width);
        let written = spare.iter().position(|x| !x.is_nan()).map(|at| at / width);
        assert_eq!(written, None, "a row beyond the batch was written");
        values
    }

    /// The linear map `name` of a case.
    pub fn linear<S: Storage, P>(&self, case: &Case<P>, name: &str) -> Linear<S> {
        Linear {
            weight: self.store(&case.input(&format!("{name}_weight"))),
            bias: self.copy(&case.input(&format!("{name}_bias"))),
        }
    }

    /// The layer norm of a case.
    pub fn norm<P>(&self, case: &Case<P>, epsilon: f64) -> Norm {
        Norm {
            weight: self.copy(&case.input("norm_weight")),
            bias: self.copy(&case.input("norm_bias")),
            epsilon: epsilon as f32,
        }
    }

    /// Room for what a norm of `rows` rows keeps.
    pub fn norm_saved<S: Storage>(&self, rows: usize, width: usize) -> NormSaved<S> {
        NormSaved { normalized: self.rows(rows, width), rstd: self.rows(rows, 1) }
    }

    /// Adds the gradients of the linear map `name`.
    pub fn linear_gradients(
        &self,
        results: Results,
        name: &str,
        partials: LinearPartials,
    ) -> Results {
        results
            .grad(&format!("{name}_weight"), self.sum(partials.weight))
            .grad(&format!("{name}_bias"), self.sum(partials.bias))
    }

    /// Adds the gradients of the layer norm.
    pub fn norm_gradients(&self, results: Results, partials: NormPartials) -> Results {
        results
            .grad("norm_weight", self.sum(partials.weight))
            .grad("norm_bias", self.sum(partials.bias))
    }

    /// What a buffer holds.
    pub fn read<T: Pod>(&self, slice: Slice<T>) -> Vec<T> {
        self.device.download(slice).unwrap()
    }

    /// The same, widened.
    pub fn load<S: Storage>(&self, slice: Slice<S>) -> Vec<f32> {
        self.read(slice).into_iter().map(S::to_f32).collect()
    }

    /// Room for a tensor's gradient in parts.
    pub fn partials(&self, len: usize) -> Partials {
        let stride = len.next_multiple_of(4);
        let all = self.copy(&vec![f32::NAN; stride * SLOTS as usize]);
        Partials { first: all.part(0, len), stride, slots: SLOTS }
    }

    /// Room for the gradients of a linear map.
    pub fn linear_partials(&self, outputs: usize, inputs: usize) -> LinearPartials {
        LinearPartials { weight: self.partials(outputs * inputs), bias: self.partials(outputs) }
    }

    /// Room for the gradients of a layer norm.
    pub fn norm_partials(&self, width: usize) -> NormPartials {
        NormPartials { weight: self.partials(width), bias: self.partials(width) }
    }

    /// The parts added up.
    pub fn sum(&self, partials: Partials) -> Vec<f32> {
        self.sum_of(partials, partials.first.len)
    }

    /// The first `len` elements of the parts added up.
    ///
    /// # Panics
    /// Where elements after them were written, too.
    pub fn sum_of(&self, partials: Partials, len: usize) -> Vec<f32> {
        let mut sum = vec![0.0; len];
        for slot in 0..u64::from(partials.slots) {
            let mut part = partials.first;
            part.address += slot * partials.stride as u64 * 4;
            let mut values = self.read(part);
            let rest = values.split_off(len);
            assert!(rest.iter().all(|x| x.is_nan()), "written beyond the first {len} elements");
            sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
        }
        sum
    }
}

/// `most` rows counted by `size`.
pub fn count(size: Size, most: usize) -> Count {
    Count { size, most }
}
