//! `model.safetensors`: the weights under RecBole's names, readable by anything that reads safetensors.

use super::rundir::items_sha256;
use super::tensor_file::{Source, TensorFile, write};
use crate::config::{ModelConfig, Objective};
use crate::data::{Vocabulary, hex};
use crate::model::params::ParameterTable;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Layout of the file; another number is refused.
const FORMAT: u32 = 1;
/// What every error about such a file suggests.
pub const REMEDY: &str =
    "give the model.safetensors of a run whose config.yaml and items.tsv stand beside it";

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
    let text = serde_json::to_string(&note)
        .map_err(|error| Error::io("lay out", path)(std::io::Error::other(error)))?;
    write(path, Some(text), &sources("", table, parameters), false)
}

/// What stands in the file beside the tensors.
#[derive(Debug, Serialize, Deserialize)]
pub struct Note {
    /// Layout of the file.
    pub format: u32,
    /// SHA-256 of the item vocabulary.
    pub items_sha256: String,
    /// Options of the network that the tensors' shapes do not show.
    #[serde(default)]
    pub options: Option<String>,
    /// SHA-256 of all tensors in arena order.
    #[serde(default)]
    pub weights_sha256: Option<String>,
}

impl Note {
    /// The note of `file`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where there is none, or that of another format.
    pub fn of(file: &TensorFile) -> Result<Self> {
        let note = file.note().map(serde_json::from_str::<Note>);
        match note {
            Some(Ok(note)) if note.format == FORMAT => Ok(note),
            Some(Ok(note)) => Err(file.problem(format!(
                "written in model format {}; this program reads {FORMAT}",
                note.format
            ))),
            Some(Err(_)) | None => Err(file.problem("not a model of this program")),
        }
    }

    /// Checks that the model belongs to this vocabulary.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it does not.
    pub fn check_items(&self, file: &TensorFile, items: &Vocabulary) -> Result<()> {
        if self.items_sha256 == items_sha256(items) {
            return Ok(());
        }
        Err(file.problem("it was made with another item vocabulary than items.tsv has"))
    }

    /// Checks that the network is the one that the weights were trained in.
    fn check_options(&self, file: &TensorFile, model: &ModelConfig) -> Result<()> {
        match &self.options {
            Some(trained) if *trained != options(model) => Err(file.problem(format!(
                "it was trained with {trained}, config.yaml says {}",
                options(model)
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that the weights are those that were written.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where they are not.
    pub fn check_weights(&self, file: &TensorFile, parameters: &[f32]) -> Result<()> {
        match &self.weights_sha256 {
            Some(written) if *written != sha256(parameters) => {
                Err(file.problem("damaged: its weights do not match their checksum"))
            }
            _ => Ok(()),
        }
    }
}

fn options(model: &ModelConfig) -> String {
    let ModelConfig { n_heads, hidden_act, norm, positions, layer_norm_eps, .. } = model;
    // Files from before there was a choice are of cloze models and name no objective.
    let objective = match model.objective {
        Objective::Cloze => "",
        Objective::Causal => " objective=Causal",
    };
    format!(
        "n_heads={n_heads} hidden_act={hidden_act:?} norm={norm:?} positions={positions:?} \
         layer_norm_eps={layer_norm_eps:e}{objective}"
    )
}

fn sha256(parameters: &[f32]) -> String {
    hex(&Sha256::digest(bytemuck::cast_slice::<f32, u8>(parameters)))
}

/// Reads the weights of `model` for the vocabulary `items`, which must be what [`write_model`] wrote.
///
/// # Errors
/// As [`read_model`]; also when the file is of another format, belongs to another vocabulary or other
/// options, or was changed after it was written.
pub fn read_own_model(
    path: &Path,
    model: &ModelConfig,
    table: &ParameterTable,
    items: &Vocabulary,
) -> Result<Vec<f32>> {
    let mut file = TensorFile::open(path, REMEDY)?;
    let note = Note::of(&file)?;
    note.check_items(&file, items)?;
    note.check_options(&file, model)?;
    let parameters = read_opened(&mut file, table)?;
    note.check_weights(&file, &parameters)?;
    Ok(parameters)
}

/// Reads weights laid out by `table` from a file that holds exactly its tensors, in any order.
///
/// # Errors
/// [`crate::Error::Io`] when it cannot be read; [`crate::Error::Checkpoint`] when it is damaged, has other tensors or
/// shapes, or weights that are not finite.
pub fn read_model(path: &Path, table: &ParameterTable) -> Result<Vec<f32>> {
    read_opened(&mut TensorFile::open(path, REMEDY)?, table)
}

/// [`read_model`] from a file that is open already.
///
/// # Errors
/// As there.
pub fn read_opened(file: &mut TensorFile, table: &ParameterTable) -> Result<Vec<f32>> {
    if let Some(stranger) = file.names().iter().find(|name| table.find(name).is_none()) {
        return Err(file.problem(format!("tensor `{stranger}` belongs to no model like this one")));
    }
    check_shapes(file, "", table)?;
    let parameters = read_arena(file, "", table)?;
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
        let (mut items, others) = (Vocabulary::default(), Vocabulary::default());
        items.push("a");
        write_model(&path, &model, &table, &weights, &items_sha256(&items)).unwrap();
        assert_eq!(read_own_model(&path, &model, &table, &items).unwrap(), weights);
        let message = |model: &ModelConfig, items: &Vocabulary| {
            read_own_model(&path, model, &table, items).unwrap_err().to_string()
        };
        assert!(message(&model, &others).contains("vocabulary"));
        let other = ModelConfig { n_heads: 4, ..config() };
        assert!(message(&other, &items).contains("n_heads=4"));
        let mut bytes = std::fs::read(&path).unwrap();
        let written = bytes.clone();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(message(&model, &items).contains("checksum"));
        let text = String::from_utf8_lossy(&written).find("\\\"format\\\":1").unwrap();
        let mut bytes = written;
        bytes[text + 11] = b'2';
        std::fs::write(&path, bytes).unwrap();
        assert!(message(&model, &items).contains("format 2"));
        write(&path, None, &sources("", &table, &weights), false).unwrap();
        assert!(message(&model, &items).contains("not a model of this program"));
    }
}
