//! `run-planted LIBRARY KERNEL COUNT`: runs a kernel of planted/bugs.cu on a variant of the software GPU over COUNT
//! numbers 1, 2, 3, ... and prints what it wrote. A process of its own, because sanitizers end theirs.

#[path = "../tests/software_gpu/device.rs"]
mod device;

use device::{Buffers, Device};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, kernel, count] = arguments.as_slice() else {
        eprintln!("usage: run-planted LIBRARY KERNEL COUNT");
        return ExitCode::from(2);
    };
    let Ok(count) = count.parse::<usize>() else {
        eprintln!("COUNT is no number: {count}");
        return ExitCode::from(2);
    };
    softgpu::load_variant(Path::new(library));
    let device = Device::open();
    let input: Vec<f32> = (1..=count).map(|x| x as f32).collect();
    let on_device = device.stream.clone_htod(&input).expect("a copy to the device");
    let out = device.stream.alloc_zeros::<f32>(count).expect("memory");
    let buffers = Buffers {
        input: device.address(&on_device),
        output: device.address(&out),
        count: count as i32,
    };
    let blocks = (count.div_ceil(64) as u32, 1, 1);
    let launched = device.launch(kernel, blocks, 64, 512, buffers);
    if let Err(error) = launched.and_then(|()| device.stream.synchronize()) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    println!("{:?}", device.stream.clone_dtoh(&out).expect("a copy from the device"));
    ExitCode::SUCCESS
}
