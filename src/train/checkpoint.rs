//! `checkpoint/state.safetensors`: everything a run needs to go on as if it had never stopped, in one file
//! that is replaced at once.
//!
//! Tensors `parameters.*`, `first_moment.*`, `second_moment.*` and, once an evaluation has been made,
//! `best.*`, each under RecBole's names; metadata key `b4r` with the [`Note`] as JSON; last, the checksum of
//! all that. Batches, masks and dropout are addressed by seed, epoch and step, so no generator has a state.

use super::early_stopping::EarlyStopping;
use super::model_file::{check_shapes, read_arena, sources};
use super::tensor_file::{TensorFile, write};
use crate::model::engine::{State, StepOutcome};
use crate::model::params::ParameterTable;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Layout of the file; another number is refused.
const FORMAT: u32 = 1;
const REMEDY: &str = "put an intact copy in its place, or start over with --overwrite";

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Epochs completed, their evaluation included.
    pub epoch: u32,
    /// Steps done in the epoch under way. All of them: only its evaluation is missing.
    pub step_in_epoch: u64,
    /// Optimizer steps done.
    pub step: u64,
    /// Summed cross-entropy of the epoch under way.
    pub loss_sum: f64,
    /// Rows in that sum.
    pub loss_rows: u64,
    /// Tokens worked through in training.
    pub tokens: u64,
    /// Best evaluation, and those in vain since.
    pub stopping: EarlyStopping,
    /// Steps before the latest evaluation.
    pub evaluated_at: Option<u64>,
    /// Whether this is the second training, with `lr_fallback`.
    #[serde(default)]
    pub fell_back: bool,
    /// Length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Time spent in training steps, earlier processes included.
    pub train_seconds: f64,
    /// Time spent in evaluations, earlier processes included.
    pub eval_seconds: f64,
}

impl Counters {
    /// Takes in what steps have reported.
    pub fn observe(&mut self, outcomes: &[StepOutcome]) {
        for outcome in outcomes {
            self.loss_sum += outcome.loss * outcome.rows as f64;
            self.loss_rows += outcome.rows as u64;
        }
    }

    /// Mean loss of the epoch under way so far.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.loss_rows.max(1) as f64
    }
}

/// What stands in the file beside the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Layout of the file.
    pub format: u32,
    /// The program that wrote it.
    pub version: String,
    /// The run's configuration as YAML.
    pub config: String,
    /// SHA-256 of the interaction file.
    pub data_sha256: String,
    /// SHA-256 of the item vocabulary.
    pub items_sha256: String,
    /// Where the run stands.
    pub counters: Counters,
}

impl Note {
    /// A note written by this program.
    pub fn new(config: String, data_sha256: String, items_sha256: String, at: Counters) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_string();
        Note { format: FORMAT, version, config, data_sha256, items_sha256, counters: at }
    }
}

/// Writes a checkpoint, replacing the one before at once.
///
/// # Errors
/// [`Error::Io`] when the disk refuses; the checkpoint before is intact.
pub fn save(
    path: &Path,
    table: &ParameterTable,
    note: &Note,
    state: &State,
    best: Option<&[f32]>,
) -> Result<()> {
    let text = serde_json::to_string(note)
        .map_err(|error| Error::io("lay out", path)(std::io::Error::other(error)))?;
    let mut tensors = sources("parameters.", table, &state.parameters);
    tensors.extend(sources("first_moment.", table, &state.first_moment));
    tensors.extend(sources("second_moment.", table, &state.second_moment));
    tensors.extend(best.into_iter().flat_map(|best| sources("best.", table, best)));
    write(path, Some(text), &tensors, true)
}

/// A checkpoint whose bytes are intact and whose note is understood; its tensors are still on disk.
#[derive(Debug)]
pub struct Checkpoint {
    file: TensorFile,
    /// What stands beside the tensors.
    pub note: Note,
}

impl Checkpoint {
    /// Opens a checkpoint and verifies its checksum.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Checkpoint`] when it is damaged or not one of ours.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = TensorFile::open(path, REMEDY)?;
        file.verify_checksum()?;
        let Some(text) = file.note() else {
            return Err(file.problem("a safetensors file, but not a checkpoint of this program"));
        };
        // The format first: a later one may have other fields.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format = serde_json::from_str::<Format>(text).map(|found| found.format);
        let note = match format {
            Ok(FORMAT) => serde_json::from_str(text),
            Ok(other) => {
                return Err(file.problem(format!(
                    "written in checkpoint format {other}; this program reads {FORMAT}"
                )));
            }
            Err(error) => Err(error),
        };
        match note {
            Ok(note) => Ok(Checkpoint { file, note }),
            Err(error) => Err(file.problem(format!("its note is not understood: {error}"))),
        }
    }

    /// A [`Error::Checkpoint`] about this file.
    pub fn problem(&self, text: impl Into<String>) -> Error {
        self.file.problem(text)
    }

    /// Checks that the counters can be those of a run with `steps_per_epoch`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when they cannot.
    pub fn check_counters(&self, steps_per_epoch: u64) -> Result<()> {
        let at = &self.note.counters;
        let expected = u64::from(at.epoch)
            .checked_mul(steps_per_epoch)
            .and_then(|steps| steps.checked_add(at.step_in_epoch));
        if at.step_in_epoch > steps_per_epoch || expected != Some(at.step) {
            return Err(self.problem(format!(
                "it stands at step {} of epoch {}, step {} in all, which a run of {steps_per_epoch} steps \
                 an epoch never does",
                at.step_in_epoch, at.epoch, at.step
            )));
        }
        Ok(())
    }

    /// Reads weights, moments and best weights. Nothing is allocated before every shape fits `table`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Checkpoint`].
    pub fn read(mut self, table: &ParameterTable) -> Result<(State, Option<Vec<f32>>, Counters)> {
        let has_best = self.note.counters.stopping.best.is_some();
        let mut prefixes = vec!["parameters.", "first_moment.", "second_moment."];
        prefixes.extend(has_best.then_some("best."));
        for prefix in &prefixes {
            check_shapes(&self.file, prefix, table)?;
        }
        let mut arena = |prefix| read_arena(&mut self.file, prefix, table);
        let state = State {
            parameters: arena("parameters.")?,
            first_moment: arena("first_moment.")?,
            second_moment: arena("second_moment.")?,
        };
        let best = if has_best { Some(arena("best.")?) } else { None };
        Ok((state, best, self.note.counters))
    }
}

#[cfg(test)]
mod tests {
    use super::super::early_stopping::Best;
    use super::*;
    use crate::config::ModelConfig;
    use proptest::prelude::*;
    use std::fs;
    use std::io::{Seek, SeekFrom, Write};
    use std::path::PathBuf;

    fn table(hidden_size: usize) -> ParameterTable {
        let config = ModelConfig {
            hidden_size,
            inner_size: 4,
            n_layers: 1,
            max_len: 2,
            ..ModelConfig::default()
        };
        ParameterTable::new(&config, 3)
    }

    fn state(table: &ParameterTable) -> State {
        let arena = |scale: f32| (0..table.total).map(|i| i as f32 * scale).collect();
        State { parameters: arena(0.1), first_moment: arena(-0.2), second_moment: arena(1e-30) }
    }

    fn counters() -> Counters {
        let best = Best {
            epoch: 2,
            step: 20,
            value: 0.1 + 0.2,
            metrics: serde_json::Map::from_iter([("ndcg@10".into(), (0.1 + 0.2).into())]),
        };
        Counters {
            epoch: 3,
            step_in_epoch: 4,
            step: 34,
            loss_sum: 1.0 / 3.0,
            loss_rows: 3,
            stopping: EarlyStopping { best: Some(best), misses: 1 },
            ..Counters::default()
        }
    }

    fn saved(folder: &Path, at: Counters) -> PathBuf {
        let (path, table) = (folder.join("state.safetensors"), table(2));
        let note = Note::new("seed: 1\n".into(), "ab".into(), "cd".into(), at);
        let state = state(&table);
        save(&path, &table, &note, &state, Some(&state.first_moment)).unwrap();
        path
    }

    fn read(path: &Path) -> Result<(State, Option<Vec<f32>>, Counters)> {
        Checkpoint::open(path)?.read(&table(2))
    }

    fn refused<T>(outcome: Result<T>) -> bool {
        matches!(outcome, Err(Error::Checkpoint { .. }))
    }

    #[test]
    fn comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), counters());
        let (back, best, at) = read(&path).unwrap();
        let state = state(&table(2));
        assert_eq!(best.as_ref(), Some(&state.first_moment));
        assert_eq!(back, state);
        assert_eq!(at, counters());
        let first = fs::read(&path).unwrap();
        saved(folder.path(), counters());
        assert_eq!(fs::read(&path).unwrap(), first, "equal runs write equal files");
    }

    #[test]
    fn names_the_tensor_of_another_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), counters());
        let error = Checkpoint::open(&path).unwrap().read(&table(4)).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        assert!(text.contains("item_embedding.weight") && text.contains("--overwrite"), "{text}");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), counters());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(refused(read(&path)));
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for length in (0..whole.len() as u64).rev() {
            file.set_len(length).unwrap();
            assert!(refused(read(&path)), "{length}");
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), counters());
        let mut file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let mut put = |place: usize, byte: u8| {
            file.seek(SeekFrom::Start(place as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        for (place, byte) in bytes.into_iter().enumerate() {
            put(place, byte ^ 1 << (place % 8));
            assert!(refused(read(&path)), "{place}");
            put(place, byte);
        }
        assert!(read(&path).is_ok());
    }

    #[test]
    fn absurd_headers_take_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        for announced in [u64::MAX, 1 << 62, 99_000_000, 17] {
            fs::write(&path, [&announced.to_le_bytes()[..], b"{}      "].concat()).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(&announced.to_string()), "{error}");
        }
        let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#;
        fs::write(&path, [&(huge.len() as u64).to_le_bytes()[..], huge.as_bytes()].concat())
            .unwrap();
        assert!(refused(read(&path)));
        let deep = "[".repeat(100_000);
        fs::write(&path, [&(deep.len() as u64).to_le_bytes()[..], deep.as_bytes()].concat())
            .unwrap();
        assert!(refused(read(&path)));
        assert!(refused(Checkpoint::open(folder.path())));
    }

    #[test]
    fn foreign_notes_and_formats_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let cases = [
            (None, "not a checkpoint"),
            (Some("{"), "not understood"),
            (Some(r#"{"format":1}"#), "not understood"),
            (Some(r#"{"format":9,"later":true}"#), "format 9"),
        ];
        for (note, expected) in cases {
            write(&path, note.map(str::to_string), &[], true).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        write(&path, Some("{}".into()), &[], false).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("checksum"));
    }

    #[test]
    fn impossible_counters_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let check = |change: &dyn Fn(&mut Counters), steps| {
            let mut at = counters();
            change(&mut at);
            Checkpoint::open(&saved(folder.path(), at)).unwrap().check_counters(steps)
        };
        assert!(check(&|_| (), 10).is_ok());
        assert!(check(&|_| (), 11).is_err());
        assert!(check(&|at| at.step_in_epoch = 11, 10).is_err());
        assert!(check(&|at| at.epoch = u32::MAX, u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn numbers_survive_the_note_bit_for_bit(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let at = Counters { loss_sum: value, ..Counters::default() };
            let text = serde_json::to_string(&at).unwrap();
            let back: Counters = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.loss_sum.to_bits(), bits);
        }

        #[test]
        fn arbitrary_bytes_are_an_error(bytes: Vec<u8>, with_length: bool) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.safetensors");
            let mut content = Vec::new();
            if with_length {
                content.extend((bytes.len() as u64).to_le_bytes());
            }
            content.extend(&bytes);
            fs::write(&path, &content).unwrap();
            prop_assert!(refused(read(&path)));
        }

    }

    proptest! {
        // Each case writes to the disk and waits for it.
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Structured damage under a valid checksum: an attacker can compute one too.
        #[test]
        fn hostile_tensors_are_an_error(
            count in 0usize..4,
            shape in prop::collection::vec(0usize..9, 0..4),
            note in "\\PC{0,40}",
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.safetensors");
            let data = vec![0.0; shape.iter().product()];
            let names = ["parameters.item_embedding.weight", "../../etc/passwd", "", "best.LayerNorm.bias"];
            let tensors: Vec<_> = names[..count]
                .iter()
                .map(|name| super::super::tensor_file::Source::f32(*name, &shape, &data))
                .collect();
            let valid = serde_json::to_string(&Note::new(note.clone(), note.clone(), note.clone(), counters()));
            for text in [note, valid.unwrap()] {
                write(&path, Some(text), &tensors, true).unwrap();
                prop_assert!(refused(read(&path)));
            }
        }
    }
}
