//! `softgpu` prints the folder of the software GPU's `libcuda.so`, for LD_LIBRARY_PATH. `softgpu address` and
//! `softgpu thread` build it with that sanitizer and print two lines: the library, for SOFTGPU_LIBRARY, and the
//! sanitizer's own library, for LD_PRELOAD.

use softgpu::compile::Sanitizer;
use softgpu::{Kernels, variant};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let sanitizer = match arguments.as_slice() {
        [] => {
            let library = softgpu::library();
            println!("{}", library.parent().unwrap_or(library).display());
            return ExitCode::SUCCESS;
        }
        ["address"] => Sanitizer::Address,
        ["thread"] => Sanitizer::Thread,
        _ => {
            eprintln!("usage: softgpu [address | thread]");
            return ExitCode::from(2);
        }
    };
    match variant(Kernels::B4r, sanitizer) {
        Ok(Some(variant)) => {
            println!("{}\n{}", variant.library.display(), variant.runtime.display());
            ExitCode::SUCCESS
        }
        Ok(None) => {
            eprintln!("the C++ compiler has no {} sanitizer", sanitizer.name());
            ExitCode::FAILURE
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
