//! The software GPU, through cudarc as b4r uses it.

mod bugs;
mod device;
mod driver;
mod right_kernels;
mod sanitizers;
mod streams;

/// The software GPU with the planted kernels.
fn planted() -> device::Device {
    softgpu::load_planted();
    device::Device::open()
}
