//! `b4r-train`: from an interaction file to a trained model.
fn main() {}
