//! What a run computes on, and which sentence names what is missing. All from plain facts: no GPU is asked.

use crate::cli::{Sandbox, assert_fails, stderr};
use b4r::Error;
use b4r::config::{Device, ModelConfig, Objective, Precision};
use b4r::cuda::choice::{Built, Choice, Gpu, Machine, Refusal, choose, fits, gpu, not_loaded};

const CUDA_13: Built = Built { toolkit: Some((13, 5)), architectures: &[80, 86, 89, 90, 100, 120] };
const WITHOUT_NVCC: Built = Built { toolkit: None, architectures: &[] };

/// A machine with GPUs of these compute capabilities.
fn machine(cuda: (u32, u32), capabilities: &[(u32, u32)]) -> Machine {
    let gpu = |&capability| Gpu { name: format!("GPU {capability:?}"), capability };
    Machine::Driver { cuda, gpus: capabilities.iter().map(gpu).collect() }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, parts: &[&str]) {
    let Refusal { problem, remedy } = result.expect_err("this should have been refused");
    let text = format!("{problem}\n{remedy}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn what_a_machine_lacks_is_named() {
    refused(
        gpu(&Machine::NoDriver, 0, &CUDA_13),
        &["no NVIDIA driver", "libcuda.so", "device: cpu"],
    );
    let broken = Machine::Broken("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH".to_string());
    refused(gpu(&broken, 0, &CUDA_13), &["does not start", "DRIVER_MISMATCH", "nvidia-smi"]);
    let none = machine((13, 0), &[]);
    refused(gpu(&none, 0, &CUDA_13), &["finds no GPU", "CUDA_VISIBLE_DEVICES"]);
    let one = machine((13, 0), &[(9, 0)]);
    refused(gpu(&one, 1, &CUDA_13), &["no GPU 1", "0 (GPU (9, 0))", "cuda:N"]);
    let old = machine((13, 0), &[(7, 5)]);
    refused(gpu(&old, 0, &CUDA_13), &["GPU (7, 5)", "7.5", "8.0", "device: cpu"]);
}

#[test]
fn every_gpu_since_ampere_will_do() {
    for capability in [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1)] {
        let machine = machine((13, 0), &[(7, 0), capability]);
        assert_eq!(gpu(&machine, 1, &CUDA_13).map(|gpu| gpu.capability), Ok(capability));
        assert!(gpu(&machine, 1, &WITHOUT_NVCC).is_ok(), "whether an image loads is not known yet");
    }
}

#[test]
fn a_driver_older_than_the_kernels_is_named_with_both_versions() {
    let old = machine((12, 8), &[(9, 0)]);
    refused(
        gpu(&old, 0, &CUDA_13),
        &["up to 12.8", "CUDA 13.5", "driver 580", "CUDA 12.8 or older"],
    );
    assert!(gpu(&machine((13, 0), &[(9, 0)]), 0, &CUDA_13).is_ok(), "same major version");
    assert!(gpu(&old, 0, &WITHOUT_NVCC).is_ok());
    let older = Built { toolkit: Some((12, 4)), architectures: &[80, 90] };
    assert!(gpu(&old, 0, &older).is_ok());
    refused(
        gpu(&machine((11, 8), &[(9, 0)]), 0, &older),
        &["up to 11.8", "CUDA 12.4", "driver 525"],
    );
}

/// Only a driver as new as the toolkit can translate its PTX.
#[test]
fn a_gpu_without_machine_code_of_its_own_needs_a_driver_that_translates() {
    for capability in [(11, 0), (13, 0)] {
        refused(
            gpu(&machine((13, 4), &[capability]), 0, &CUDA_13),
            &["up to 13.4", "CUDA 13.5", "translated", "CUDA 13.5 or newer"],
        );
        assert!(gpu(&machine((13, 5), &[capability]), 0, &CUDA_13).is_ok());
    }
}

#[test]
fn an_image_that_does_not_load_has_one_of_two_causes() {
    let refusal = not_loaded("attention", "INVALID_IMAGE", &WITHOUT_NVCC);
    refused::<()>(Err(refusal), &["built without nvcc", "B4R_NVCC", "docs/gpu.md"]);
    let refusal = not_loaded("attention", "NO_BINARY_FOR_GPU", &CUDA_13);
    refused::<()>(Err(refusal), &["attention", "NO_BINARY_FOR_GPU", "13.5", "sm_[80, 86"]);
}

/// `D`, `H` and `F`.
fn model(hidden_size: usize, n_heads: usize, inner_size: usize) -> ModelConfig {
    ModelConfig { hidden_size, n_heads, inner_size, ..ModelConfig::default() }
}

#[test]
fn sizes_that_the_kernels_have() {
    for (width, heads, inner) in
        [(16, 1, 16), (16, 2, 48), (64, 2, 256), (272, 34, 16), (1024, 8, 4096)]
    {
        assert_eq!(fits(&model(width, heads, inner)), Ok(()), "{width} {heads} {inner}");
    }
    refused(
        fits(&model(72, 9, 256)),
        &["hidden_size", "multiple of 16", "it is 72", "hidden_size: 80"],
    );
    refused(fits(&model(1040, 13, 256)), &["up to 1024", "it is 1040", "hidden_size: 1024"]);
    refused(
        fits(&model(64, 16, 256)),
        &["multiple of 8", "64 / 16 is 4", "n_heads: 1 or 2 or 4 or 8"],
    );
    refused(
        fits(&model(144, 1, 256)),
        &["up to 128", "144 / 1 is 144", "n_heads: 2 or 3 or 6 or 9 or 18"],
    );
    let causal = ModelConfig { objective: Objective::Causal, ..model(64, 2, 256) };
    assert_eq!(fits(&causal), Ok(()));
    refused(fits(&model(64, 2, 100)), &["inner_size", "it is 100", "inner_size: 112"]);
}

fn no_gpu(_: u32) -> Result<((), String), Refusal> {
    Err(Refusal::new("there is none", "buy one"))
}

fn has_gpu(number: u32) -> Result<((), String), Refusal> {
    Ok(((), format!("GPU {number}")))
}

#[track_caller]
fn chosen(device: Device, precision: Option<Precision>, gpu: bool) -> Choice {
    let result =
        if gpu { choose(device, precision, has_gpu) } else { choose(device, precision, no_gpu) };
    let (choice, opened) = result.unwrap();
    assert_eq!(opened.is_some(), matches!(choice.device, Device::Cuda(_)));
    choice
}

#[test]
fn auto_takes_a_gpu_where_it_can_and_says_what_it_took() {
    let text = |device, precision, gpu| chosen(device, precision, gpu).to_string();
    let f32 = Some(Precision::F32);
    assert_eq!(text(Device::Auto(0), None, true), "device cuda (GPU 0), bf16");
    assert_eq!(text(Device::Auto(2), f32, true), "device cuda:2 (GPU 2), f32");
    assert_eq!(text(Device::Cuda(1), None, true), "device cuda:1 (GPU 1), bf16");
    assert_eq!(text(Device::Auto(0), None, false), "device cpu, f32: there is none");
    assert_eq!(text(Device::Cpu, None, true), "device cpu, f32");
    let software = |_| Ok(((), "b4r software GPU".to_string()));
    let (choice, _) = choose(Device::Auto(0), None, software).unwrap();
    assert_eq!(
        choice.to_string(),
        "device cpu, f32: the only GPU is the software GPU of the tests"
    );
    assert_eq!(choose(Device::Cuda(0), None, software).unwrap().0.device, Device::Cuda(0));
}

#[test]
fn what_was_asked_for_and_cannot_be_had_is_an_error() {
    let bf16 = Some(Precision::Bf16);
    for (device, precision, key, parts) in [
        (Device::Cuda(0), None, "device", &["there is none", "buy one"][..]),
        (Device::Auto(0), bf16, "precision", &["bf16 needs a GPU", "there is none", "f32"]),
        (Device::Cpu, bf16, "precision", &["bf16 needs a GPU", "f32"]),
    ] {
        let error = choose(device, precision, no_gpu).unwrap_err();
        assert!(matches!(&error, Error::Config { key: named, .. } if named == key), "{error}");
        assert_eq!(error.exit_code(), 2);
        for part in parts {
            assert!(error.to_string().contains(part), "`{part}` is missing in: {error}");
        }
    }
}

/// The program itself, on whatever machine this is.
#[test]
fn the_program_says_what_it_computes_on() {
    let sandbox = Sandbox::new();
    let run_dir = sandbox.path("run");
    let output = sandbox.finish(&run_dir, &["--max_steps=2", "--device=cpu"]);
    assert!(stderr(&output).contains("device cpu, f32\n"), "{}", stderr(&output));
    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run_dir.join("results.json")).unwrap()).unwrap();
    assert_eq!((&results["device"], &results["precision"]), (&"cpu".into(), &"f32".into()));
    let config = std::fs::read_to_string(run_dir.join("config.yaml")).unwrap();
    assert!(
        config.contains("\ndevice: cpu\n") && config.contains("\nprecision: f32\n"),
        "{config}"
    );
    // Another device may continue it, in the same numbers only.
    let output =
        sandbox.run(&run_dir, &["--resume", "--max_steps=4", "--device=auto", "--precision=bf16"]);
    assert_fails(
        &output,
        if stderr(&output).contains("device cuda") { 1 } else { 2 },
        &["precision"],
    );
    sandbox.finish(&run_dir, &["--resume", "--max_steps=4", "--device=auto"]);

    let cuda = sandbox.run(&sandbox.path("cuda"), &["--max_steps=2", "--device=cuda"]);
    if cuda.status.success() {
        println!("skipped: this machine computes on a GPU, so nothing is missing");
        return;
    }
    assert_fails(&cuda, 2, &["device: ", "remedy: "]);
    assert!(!sandbox.path("cuda").exists(), "a refusal writes nothing");
}
