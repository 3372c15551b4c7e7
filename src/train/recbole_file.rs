//! The weights of a BERT4Rec that RecBole trained: its state dict as safetensors, with the item ids beside it.
//!
//! The file's metadata, written by the two lines of `docs/weights.md`, has JSON under `field2id_token` (the ids in
//! the order of the embedding table, `[PAD]` first), `n_heads`, `hidden_act` and `layer_norm_eps`. All else that
//! the network is shows in shapes; names are the same as in our own files.

use super::tensor_file::TensorFile;
use crate::config::keys;
use crate::config::resolve::{Entry, Place};
use crate::config::value::Value;
use crate::config::{Config, ModelConfig};
use crate::data::Vocabulary;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::path::Path;

const REMEDY: &str =
    "write it with the two lines of docs/weights.md, or give a run directory of b4r-train";
/// Item ids, as RecBole calls them.
const TOKENS: &str = "field2id_token";
/// What RecBole calls the row of no item.
const PAD: &str = "[PAD]";
/// What shapes do not show; keys of the configuration, too.
const OPTIONS: [&str; 3] = ["n_heads", "hidden_act", "layer_norm_eps"];

/// Opens the file at `path`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Checkpoint`] where it is no safetensors file.
pub fn open(path: &Path) -> Result<TensorFile> {
    TensorFile::open(path, REMEDY)
}

/// External ids of the items in the order of the table, PAD left out.
///
/// # Errors
/// [`Error::Checkpoint`] where there are none, or not one for each row.
pub fn items(file: &TensorFile) -> Result<Vocabulary> {
    let Some(text) = file.text(TOKENS) else {
        return Err(file.problem(format!("its metadata has no {TOKENS}, the ids of the items")));
    };
    let tokens: Vec<String> = serde_json::from_str(text)
        .map_err(|error| file.problem(format!("{TOKENS} is no JSON list of strings: {error}")))?;
    let rows = rows_of(file, "item_embedding.weight")?;
    if tokens.first().map(String::as_str) != Some(PAD) || tokens.len() + 1 != rows {
        return Err(file.problem(format!(
            "{TOKENS} has {} entries; it should have {PAD} and then one for each of {} items",
            tokens.len(),
            rows.saturating_sub(2)
        )));
    }
    let mut items = Vocabulary::default();
    tokens[1..].iter().for_each(|token| items.push(token));
    Ok(items)
}

/// What the file says about the network, as entries of a configuration.
///
/// # Errors
/// As [`open`]; [`Error::Checkpoint`] where a tensor that shows a size is missing.
pub fn network(path: &Path) -> Result<Vec<Entry>> {
    let file = open(path)?;
    let number = |name: &String| -> Option<usize> {
        name.strip_prefix("trm_encoder.layer.")?.split('.').next()?.parse().ok()
    };
    let numbers: BTreeSet<usize> = file.names().iter().filter_map(number).collect();
    let layers = (0..).take_while(|index| numbers.contains(index)).count();
    let columns = shape(&file, "item_embedding.weight")?.get(1).copied().unwrap_or(0);
    let inner = rows_of(&file, "trm_encoder.layer.0.feed_forward.dense_1.weight")?;
    let sizes = [
        ("hidden_size", columns),
        ("inner_size", inner),
        ("n_layers", layers),
        ("MAX_ITEM_LIST_LENGTH", rows_of(&file, "position_embedding.weight")?),
    ];
    let mut values: Vec<(&str, Value)> = sizes.map(|(key, size)| (key, size.into())).to_vec();
    for key in OPTIONS {
        let Some(text) = file.text(key) else { continue };
        let value = serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
        values.push((
            key,
            setting(&value).ok_or_else(|| {
                file.problem(format!(
                    "{key} in its metadata is `{text}`, neither a number nor a name"
                ))
            })?,
        ));
    }
    let place = Place::File { path: path.to_path_buf(), line: 1 };
    let entry =
        |(key, value): (&str, Value)| Entry { key: key.to_string(), value, place: place.clone() };
    Ok(values.into_iter().map(entry).collect())
}

/// The network of the file at `path`; what the file leaves open is as in `model`.
///
/// # Errors
/// As [`network`]; [`Error::Config`] where it is a network that is not available here.
pub fn model(path: &Path, model: &ModelConfig) -> Result<ModelConfig> {
    let mut config = Config { model: model.clone(), ..Config::default() };
    for entry in network(path)? {
        let Some(key) = keys::find(&entry.key) else { continue };
        (key.set)(&mut config, &entry.value).map_err(|problem| {
            let place = format!("{} ({})", problem.problem, path.display());
            Error::config(key.name, place, problem.remedy)
        })?;
    }
    Ok(config.model)
}

fn setting(value: &serde_json::Value) -> Option<Value> {
    match value {
        serde_json::Value::String(text) => Some(Value::Text(text.clone())),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Some(Value::Integer(whole.into())),
            None => number.as_f64().map(Value::Number),
        },
        _ => None,
    }
}

fn shape<'a>(file: &'a TensorFile, name: &str) -> Result<&'a [usize]> {
    file.shape(name).ok_or_else(|| file.problem(format!("tensor `{name}` is missing")))
}

fn rows_of(file: &TensorFile, name: &str) -> Result<usize> {
    Ok(shape(file, name)?.first().copied().unwrap_or(0))
}
