//! The files of a run directory that say what the run was made from.

use super::{CONFIG, HISTORIES, ITEMS, NEGATIVES, RunDir, USERS};
use crate::Result;
use crate::data::{Dataset, Sequences, Split, Vocabulary};
use crate::train::files;
use crate::train::judge::Judge;
use crate::train::negatives_file::write_negatives;
use crate::train::tensor_file::{Source, write};
use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

impl RunDir {
    /// Writes the configuration, the vocabularies and the histories. A resumed run writes them again: its
    /// data is what it was, and damage to the files is mended.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write_inputs(
        &self,
        config_yaml: &str,
        dataset: &Dataset,
        sequences: &Sequences,
    ) -> Result<()> {
        files::replace(&self.path.join(CONFIG), |out| out.write_all(config_yaml.as_bytes()))?;
        write_items(&self.path.join(ITEMS), &dataset.items, sequences)?;
        files::replace(&self.path.join(USERS), |out| {
            out.write_all(b"index\tuser\n")?;
            let mut users = dataset.users.iter().enumerate();
            users.try_for_each(|(index, user)| writeln!(out, "{index}\t{}", escape(user)))
        })?;
        write_histories(&self.path.join(HISTORIES), sequences)
    }

    /// Writes the negatives, if any are drawn.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write_negatives(&self, judge: &Judge, split: &Split) -> Result<()> {
        let path = self.path.join(NEGATIVES);
        if judge.valid.is_none() && judge.test.is_none() {
            return files::remove_if_present(&path);
        }
        write_negatives(&path, judge, split)
    }
}

fn write_items(path: &Path, items: &Vocabulary, sequences: &Sequences) -> Result<()> {
    let mut counts = vec![0u64; items.len() + 1];
    for &item in &sequences.items {
        counts[item as usize] += 1;
    }
    files::replace(path, |out| {
        out.write_all(b"index\titem\tinteractions\n")?;
        let mut items = items.iter().zip(&counts[1..]).enumerate();
        items.try_for_each(|(i, (item, count))| {
            writeln!(out, "{}\t{}\t{count}", i + 1, escape(item))
        })
    })
}

fn write_histories(path: &Path, sequences: &Sequences) -> Result<()> {
    let (offsets, items) = (&sequences.offsets, &sequences.items);
    let tensors = [
        Source {
            name: "offsets".to_string(),
            dtype: Dtype::U64,
            shape: vec![offsets.len()],
            bytes: bytemuck::cast_slice(offsets),
        },
        Source {
            name: "items".to_string(),
            dtype: Dtype::U32,
            shape: vec![items.len()],
            bytes: bytemuck::cast_slice(items),
        },
    ];
    write(path, None, &tensors, true)
}

/// An external id on one line and in one column.
fn escape(id: &str) -> Cow<'_, str> {
    if !id.contains(['\\', '\t', '\n', '\r']) {
        return Cow::Borrowed(id);
    }
    let replaced = id.replace('\\', "\\\\").replace('\t', "\\t");
    Cow::Owned(replaced.replace('\n', "\\n").replace('\r', "\\r"))
}

/// SHA-256 of the item vocabulary: each id's length and bytes, in order.
pub fn items_sha256(items: &Vocabulary) -> String {
    let mut hasher = Sha256::new();
    for item in items.iter() {
        hasher.update((item.len() as u64).to_le_bytes());
        hasher.update(item.as_bytes());
    }
    let mut hex = String::with_capacity(64);
    for byte in hasher.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::fs;

    #[test]
    fn vocabularies_and_histories_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut dataset = Dataset {
            name: "x".into(),
            sha256: String::new(),
            users: Vocabulary::default(),
            items: Vocabulary::default(),
            sequences: Sequences { offsets: vec![0, 3, 4], items: vec![1, 2, 1, 2] },
            times: None,
        };
        ["u\t1", "u2"].iter().for_each(|id| dataset.users.push(id));
        ["a\\\n", "\rb"].iter().for_each(|id| dataset.items.push(id));
        let mut config = Config::default();
        config.run.run_dir = Some(folder.path().to_path_buf());
        let directory = RunDir::open(&config).unwrap();
        directory.write_inputs("seed: 1\n", &dataset, &dataset.sequences).unwrap();
        let text = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(text(ITEMS), "index\titem\tinteractions\n1\ta\\\\\\n\t2\n2\t\\rb\t2\n");
        assert_eq!(text(USERS), "index\tuser\n0\tu\\t1\n1\tu2\n");
        let bytes = fs::read(folder.path().join(HISTORIES)).unwrap();
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let items = parsed.tensor("items").unwrap();
        assert_eq!(items.data(), bytemuck::cast_slice::<u32, u8>(&[1, 2, 1, 2]));
        let offsets = parsed.tensor("offsets").unwrap();
        assert_eq!(offsets.data(), bytemuck::cast_slice::<u64, u8>(&[0, 3, 4]));
        let first = items_sha256(&dataset.items);
        dataset.items = Vocabulary::default();
        ["a\\\n\r", "b"].iter().for_each(|id| dataset.items.push(id));
        assert_ne!(items_sha256(&dataset.items), first, "where one id ends counts");
    }
}
