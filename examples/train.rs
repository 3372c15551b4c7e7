//! Trains on a small generated data set, then on newer data from where that ended, and prints the metrics.
//!
//! `cargo run --release --example train`

use b4r::{Config, Dataset, Trainer};
use std::path::Path;

/// Shoppers walk through the aisles of a shop: what stands next comes next, now and then they skip a shelf.
fn walks(shoppers: usize, shelves: usize) -> impl Iterator<Item = (String, Vec<String>)> {
    (0..shoppers).map(move |shopper| {
        let steps = 8 + shopper % 12;
        let shelf = move |step: usize| (shopper * 7 + step + step / (3 + shopper % 4)) % shelves;
        (
            format!("shopper {shopper}"),
            (0..steps).map(|step| format!("shelf {}", shelf(step))).collect(),
        )
    })
}

/// A model small enough to train within seconds.
fn config(run_dir: &Path) -> Config {
    let mut config = Config::default();
    config.run.run_dir = Some(run_dir.to_path_buf());
    config.model.hidden_size = 32;
    config.model.inner_size = 64;
    config.model.max_len = 20;
    config.train.epochs = 30;
    config.train.learning_rate = 5e-3;
    config.eval.topk = vec![5, 10];
    config
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));

    let dataset = Dataset::from_histories("shop", walks(400, 40))?;
    let results = Trainer::new(config(&first)).dataset(dataset).run()?;
    for (metric, value) in &results.test {
        println!("{metric:>12} {:.4}", value.as_f64().unwrap_or_default());
    }

    // Later there are more shoppers and new shelves. Everything trains: this model is for use.
    let mut update = config(&second);
    update.train.init_from = Some(first);
    update.train.epochs = 3;
    update.data.all_data = true;
    let dataset = Dataset::from_histories("shop", walks(500, 44))?;
    let results = Trainer::new(update).dataset(dataset).run()?;
    println!("updated with {} steps into {}", results.steps, second.display());
    Ok(())
}
