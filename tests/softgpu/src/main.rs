//! Prints the folder of the software GPU's `libcuda.so`, for `LD_LIBRARY_PATH`.

fn main() {
    match softgpu::library().parent() {
        Some(folder) => println!("{}", folder.display()),
        None => println!("{}", softgpu::library().display()),
    }
}
