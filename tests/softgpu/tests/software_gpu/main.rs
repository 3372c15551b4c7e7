//! The software GPU, through cudarc as b4r uses it.

mod device;
mod right_kernels;
