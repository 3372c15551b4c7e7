//! All integration tests, in one binary so that they link once.

mod all_data; // training on everything, for deployment
mod baseline; // popularity and Markov against their definition
mod batch; // windows, masks, packing, segments, prefetch
mod bench; // b4r-bench: tiny measurements, their reports
mod bench_runs; // b4r-bench runs: table, chart, JSON, CSV
mod check; // all kernels against the references, in a table: first contact with a GPU
mod cli; // the programs as a user runs them: flags, bad input, exit codes, kill and resume
mod config; // YAML, flags, suggestions
mod data; // acquiring, parsing, filtering, splitting
mod device; // what computes, and what is said where a GPU cannot
mod eval; // metrics against an independent implementation
mod init_from; // beginning with the weights of an earlier run
mod model; // whole model against PyTorch in float64
mod nvcc; // what nvcc made of the kernels: registers, spills, instructions
mod ops; // each operation against PyTorch in float64
mod recommend; // b4r-recommend and the library beneath it
mod report; // report.html
mod serve; // b4r-recommend --serve: endpoints, hostile clients, reload, shutdown, the page in a browser
mod tracking; // TensorBoard's event file, Weights & Biases
mod train; // loop, checkpoints, resume
mod util; // fixtures, tolerances, a small data set
mod weights; // RecBole's weights here, ours there
