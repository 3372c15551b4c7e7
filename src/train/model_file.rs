//! `model.safetensors`: the weights under RecBole's names, readable by anything that reads safetensors.

use super::tensor_file::{Source, TensorFile, write};
use crate::config::ModelConfig;
use crate::data::hex;
use crate::model::params::ParameterTable;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

const REMEDY: &str =
    "give the model.safetensors of a run whose config.yaml and items.tsv stand beside it";

/// Layout of the file and meaning of its tensors.
const FORMAT: u32 = 1;

/// What the tensors alone do not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    format: u32,
    /// The vocabulary that the rows stand for, see [`crate::train::rundir::items_sha256`].
    items_sha256: String,
    /// Options that the shapes do not show.
    #[serde(default)]
    options: Option<String>,
    /// SHA-256 of all tensors in arena order.
    #[serde(default)]
    weights_sha256: Option<String>,
}

/// Writes the arena `parameters` by tensor; `items_sha256` names the vocabulary its rows stand for.
///
/// # Errors
/// [`crate::Error::Io`] when the disk refuses; the file that was there stays.
pub fn write_model(
    path: &Path,
    model: &ModelConfig,
    table: &ParameterTable,
    parameters: &[f32],
    items_sha256: &str,
) -> Result<()> {
    let note = Note {
        format: FORMAT,
        items_sha256: items_sha256.to_string(),
        options: Some(options(model)),
        weights_sha256: Some(sha256(parameters)),
    };
    let note = serde_json::to_string(&note)
        .map_err(|error| Error::io("lay out", path)(std::io::Error::other(error)))?;
    write(path, Some(note), &sources("", table, parameters), false)
}

fn options(model: &ModelConfig) -> String {
    let ModelConfig { n_heads, hidden_act, norm, positions, layer_norm_eps, .. } = model;
    format!(
        "n_heads={n_heads} hidden_act={hidden_act:?} norm={norm:?} positions={positions:?} \
         layer_norm_eps={layer_norm_eps:e}"
    )
}

fn sha256(parameters: &[f32]) -> String {
    hex(&Sha256::digest(bytemuck::cast_slice::<f32, u8>(parameters)))
}

/// Reads the weights of `model` with the vocabulary `items_sha256`, as [`write_model`] wrote them.
///
/// # Errors
/// As [`read_model`]; also when the file is of another version, belongs to another vocabulary or other
/// options, or was changed after it was written.
pub fn read_own_model(
    path: &Path,
    model: &ModelConfig,
    table: &ParameterTable,
    items_sha256: &str,
) -> Result<Vec<f32>> {
    let file = TensorFile::open(path, REMEDY)?;
    let Some(text) = file.note() else {
        return Err(file.problem("it was not written by b4r: there is no note of its vocabulary"));
    };
    let version = serde_json::from_str::<Value>(text).ok().and_then(|note| note["format"].as_u64());
    if version.is_some_and(|version| version != u64::from(FORMAT)) {
        return Err(file.problem(format!(
            "it has format {}, this version of b4r reads format {FORMAT}",
            version.unwrap_or_default()
        )));
    }
    let note: Note = serde_json::from_str(text)
        .map_err(|error| file.problem(format!("its note is damaged: {error}")))?;
    if note.items_sha256 != items_sha256 {
        return Err(file.problem("its vocabulary is another than that of items.tsv beside it"));
    }
    if let Some(written) = note.options.filter(|written| *written != options(model)) {
        let now = options(model);
        return Err(file.problem(format!("it was trained with {written}, config.yaml says {now}")));
    }
    let parameters = read_model(path, table)?;
    if note.weights_sha256.is_some_and(|written| written != sha256(&parameters)) {
        return Err(file.problem("damaged: its weights do not match their checksum"));
    }
    Ok(parameters)
}

/// Reads weights laid out by `table` from a file that holds exactly its tensors, in any order.
///
/// # Errors
/// [`crate::Error::Io`] when it cannot be read; [`crate::Error::Checkpoint`] when it is damaged, has other tensors or
/// shapes, or weights that are not finite.
pub fn read_model(path: &Path, table: &ParameterTable) -> Result<Vec<f32>> {
    let mut file = TensorFile::open(path, REMEDY)?;
    if let Some(stranger) = file.names().iter().find(|name| table.find(name).is_none()) {
        return Err(file.problem(format!("tensor `{stranger}` belongs to no model like this one")));
    }
    check_shapes(&file, "", table)?;
    let parameters = read_arena(&mut file, "", table)?;
    match parameters.iter().position(|value| !value.is_finite()) {
        Some(index) => {
            let name = &table.tensor_at(index).name;
            Err(file.problem(format!("tensor `{name}` has a value that is not finite")))
        }
        None => Ok(parameters),
    }
}

/// The tensors of one arena, each called `prefix` and its name.
pub fn sources<'a>(prefix: &str, table: &ParameterTable, arena: &'a [f32]) -> Vec<Source<'a>> {
    let of = |tensor: &crate::model::params::Tensor| {
        Source::f32(format!("{prefix}{}", tensor.name), &tensor.shape, &arena[tensor.range()])
    };
    table.tensors.iter().map(of).collect()
}

/// Checks that `file` holds every tensor of an arena written by [`sources`], before memory is taken for it.
///
/// # Errors
/// [`crate::Error::Checkpoint`] naming the first that does not fit.
pub fn check_shapes(file: &TensorFile, prefix: &str, table: &ParameterTable) -> Result<()> {
    let mut tensors = table.tensors.iter();
    tensors
        .try_for_each(|tensor| file.require_f32(&format!("{prefix}{}", tensor.name), &tensor.shape))
}

/// Reads an arena written by [`sources`].
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::Checkpoint`].
pub fn read_arena(file: &mut TensorFile, prefix: &str, table: &ParameterTable) -> Result<Vec<f32>> {
    let mut arena = vec![0.0; table.total];
    for tensor in &table.tensors {
        let name = format!("{prefix}{}", tensor.name);
        file.read_f32(&name, &tensor.shape, &mut arena[tensor.range()])?;
    }
    Ok(arena)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            hidden_size: 4,
            inner_size: 8,
            n_layers: 1,
            max_len: 3,
            ..ModelConfig::default()
        }
    }

    fn small() -> ParameterTable {
        ParameterTable::new(&config(), 5)
    }

    #[test]
    fn comes_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let table = small();
        let weights: Vec<f32> = (0..table.total).map(|i| i as f32 * 0.5 - 3.0).collect();
        write_model(&path, &config(), &table, &weights, "ab").unwrap();
        assert_eq!(read_model(&path, &table).unwrap(), weights);
        let bytes = std::fs::read(&path).unwrap();
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(parsed.tensor("item_embedding.weight").unwrap().shape(), [7, 4]);
        assert_eq!(parsed.len(), table.tensors.len());
    }

    #[test]
    fn refuses_another_models_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let table = small();
        let mut weights = vec![0.0; table.total];
        write_model(&path, &config(), &table, &weights, "ab").unwrap();
        let other = ModelConfig {
            hidden_size: 4,
            inner_size: 8,
            n_layers: 2,
            max_len: 3,
            ..ModelConfig::default()
        };
        let error = read_model(&path, &ParameterTable::new(&other, 5)).unwrap_err().to_string();
        assert!(error.contains("trm_encoder.layer.1"), "{error}");
        let error = read_model(&path, &ParameterTable::new(&other, 6)).unwrap_err().to_string();
        assert!(error.contains("[7, 4]") && error.contains("[8, 4]"), "{error}");
        weights[30] = f32::NAN;
        write_model(&path, &config(), &table, &weights, "ab").unwrap();
        let error = read_model(&path, &table).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
        let extra = [Source::f32("spare", &[1], &[0.0])];
        let mut all = sources("", &table, &weights);
        all.extend(extra);
        write(&path, None, &all, false).unwrap();
        assert!(read_model(&path, &table).unwrap_err().to_string().contains("spare"));
    }

    #[test]
    fn tells_its_own_file_from_a_changed_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (table, model) = (small(), config());
        let weights = vec![0.5; table.total];
        write_model(&path, &model, &table, &weights, "ab").unwrap();
        assert_eq!(read_own_model(&path, &model, &table, "ab").unwrap(), weights);
        let message = |model: &ModelConfig, items| {
            read_own_model(&path, model, &table, items).unwrap_err().to_string()
        };
        assert!(message(&model, "ac").contains("vocabulary"));
        let other = ModelConfig { n_heads: 4, ..config() };
        assert!(message(&other, "ab").contains("n_heads=4"));
        let mut bytes = std::fs::read(&path).unwrap();
        let written = bytes.clone();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(message(&model, "ab").contains("checksum"));
        let text = String::from_utf8_lossy(&written).find("\\\"format\\\":1").unwrap();
        let mut bytes = written;
        bytes[text + 11] = b'2';
        std::fs::write(&path, bytes).unwrap();
        assert!(message(&model, "ab").contains("format 2"));
        write(&path, None, &sources("", &table, &weights), false).unwrap();
        assert!(message(&model, "ab").contains("not written by b4r"));
    }
}
