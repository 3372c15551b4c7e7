//! Trains a small model on made-up interactions, then recommends with it:
//! `cargo run --release --example recommend`.

use b4r::config::{BatchSize, Config};
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
    config.model.hidden_dropout = 0.0;
    config.train.batch_size = BatchSize::Interactions(128);
    config.train.learning_rate = 5e-3;
    config.train.epochs = 40;
    config.run.run_dir = Some(run.clone());
    b4r::train::run(&config)?;

    let recommender = Recommender::open(&run, 0)?;
    let history = |items: &[&str]| Request {
        history: Some(items.iter().map(|item| item.to_string()).collect()),
        user: None,
    };
    let requests = [
        Request { user: Some("walker7".to_string()), ..Request::default() },
        history(&["town1-place3", "town1-place6", "nowhere"]),
        history(&[]),
    ];
    let options = Options { k: 3, deny: vec!["town0-place0".to_string()], ..Options::default() };
    for (request, result) in requests.iter().zip(recommender.top_k(&requests, &options)?) {
        println!("{request:?}\n  unknown {:?}, fallback {:?}", result.unknown, result.fallback);
        for scored in &result.items {
            println!("  {} {:.3}", scored.item, scored.score);
        }
    }
    println!("like town2-place5: {:?}", recommender.similar("town2-place5", 2)?);
    Ok(())
}

/// Walkers who each stay in one of four towns and see 7 of its 10 places.
fn walks() -> Result<String, std::fmt::Error> {
    let mut text = "user_id,item_id,timestamp\n".to_string();
    for walker in 0..200 {
        for step in 0..7 {
            let (town, place) = (walker % 4, (walker * 7 + step * 3) % 10);
            writeln!(text, "walker{walker},town{town}-place{place},{step}")?;
        }
    }
    Ok(text)
}
