//! Trains a small model on made-up interactions, then recommends with it:
//! `cargo run --release --example recommend`.

use b4r::config::Config;
use b4r::recommend::{Options, Recommender, Request};
use std::fmt::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let (data, run) = (folder.path().join("walks.csv"), folder.path().join("run"));
    std::fs::write(&data, walks()?)?;

    let mut config = Config::default();
    config.data.dataset = data.display().to_string();
    config.model.hidden_size = 32;
    config.model.inner_size = 64;
    config.model.max_len = 20;
    config.train.epochs = 30;
    config.run.run_dir = Some(run.clone());
    b4r::train::run(&config)?;

    let recommender = Recommender::open(&run, 0)?;
    let history = |items: &[&str]| Request {
        history: items.iter().map(|item| item.to_string()).collect(),
        user: None,
    };
    let requests = [
        Request { user: Some("walker7".to_string()), ..Request::default() },
        history(&["place3", "place4", "place5", "nowhere"]),
        history(&[]),
    ];
    let options = Options { k: 3, deny: vec!["place0".to_string()], ..Options::default() };
    for (request, result) in requests.iter().zip(recommender.top_k(&requests, &options)?) {
        println!("{request:?}\n  unknown {:?}, fallback {:?}", result.unknown, result.fallback);
        for scored in &result.items {
            println!("  {} {:.3}", scored.item, scored.score);
        }
    }
    println!("like place5: {:?}", recommender.similar("place5", 2)?);
    Ok(())
}

/// Walkers who go from each place to the next one.
fn walks() -> Result<String, std::fmt::Error> {
    let mut text = "user_id,item_id,timestamp\n".to_string();
    for walker in 0..200 {
        for step in 0..12 {
            let place = (walker * 7 + step) % 40;
            writeln!(text, "walker{walker},place{place},{step}")?;
        }
    }
    Ok(text)
}
