//! Safetensors files, written and read as streams: no copy of the whole file ever stands in memory.
//!
//! A file may end with a tensor `sha256` of 32 bytes: the hash of every byte before it, header included.

use super::files;
use crate::{Error, Result, memory};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

#[cfg(target_endian = "big")]
compile_error!("safetensors are little-endian, and arenas are written as they lie in memory");

/// The one metadata key: the format writes several in random order, and equal runs should give equal files.
pub const NOTE: &str = "b4r";
/// Name of the checksum tensor.
const CHECKSUM: &str = "sha256";
/// Longest header that is read: far above what any model needs, far below what would hurt.
const MAX_HEADER: u64 = 32 << 20;
/// Bytes of the length that stands before the header.
const PREFIX: u64 = 8;

/// A tensor to be written.
pub struct Source<'a> {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, little-endian.
    pub bytes: &'a [u8],
}

impl<'a> Source<'a> {
    /// A tensor of 32-bit floats.
    pub fn f32(name: impl Into<String>, shape: &[usize], data: &'a [f32]) -> Self {
        Source {
            name: name.into(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: bytemuck::cast_slice(data),
        }
    }
}

/// Writes `tensors` in their order, replacing `path` at once; `checksum` adds the hash at the end.
///
/// # Errors
/// [`Error::Io`] when the disk refuses.
pub fn write(
    path: &Path,
    note: Option<String>,
    tensors: &[Source<'_>],
    checksum: bool,
) -> Result<()> {
    let header = header_bytes(note, tensors, checksum)
        .map_err(|error| Error::io("lay out", path)(io::Error::other(error)))?;
    files::replace(path, |out| {
        let mut out = Hashing { inner: out, hasher: checksum.then(Sha256::new) };
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in tensors {
            out.write_all(tensor.bytes)?;
        }
        match out.hasher.take() {
            Some(hasher) => out.write_all(&hasher.finalize()),
            None => Ok(()),
        }
    })
}

fn header_bytes(
    note: Option<String>,
    tensors: &[Source<'_>],
    checksum: bool,
) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len() + 1);
    let mut add = |name: &str, dtype, shape: Vec<usize>, length: usize| {
        let data_offsets = (end, end + length);
        end += length;
        infos.push((name.to_string(), TensorInfo { dtype, shape, data_offsets }));
    };
    for tensor in tensors {
        add(&tensor.name, tensor.dtype, tensor.shape.clone(), tensor.bytes.len());
    }
    if checksum {
        add(CHECKSUM, Dtype::U8, vec![32], 32);
    }
    let note = note.map(|text| HashMap::from([(NOTE.to_string(), text)]));
    let mut header = serde_json::to_vec(&Metadata::new(note, infos)?)?;
    // Readers that map the file want the data aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

struct Hashing<'a> {
    inner: &'a mut dyn Write,
    hasher: Option<Sha256>,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..written]);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// An open file whose header has been checked against its length.
#[derive(Debug)]
pub struct TensorFile {
    file: File,
    path: PathBuf,
    metadata: Metadata,
    /// Where tensor data begins.
    data_start: u64,
    length: u64,
    remedy: &'static str,
}

impl TensorFile {
    /// Opens `path` and reads its header; `remedy` goes into every error about its content.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Checkpoint`] when it is not a whole safetensors file.
    pub fn open(path: &Path, remedy: &'static str) -> Result<Self> {
        let problem = |text: String| Error::Checkpoint {
            path: path.to_path_buf(),
            problem: text,
            remedy: remedy.into(),
        };
        let about = fs::metadata(path).map_err(Error::io("read", path))?;
        if !about.is_file() {
            // Opening a pipe would wait forever.
            return Err(problem("not a regular file".to_string()));
        }
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let length = about.len();
        if length < PREFIX {
            return Err(problem(format!("cut short: {length} bytes")));
        }
        let mut prefix = [0; PREFIX as usize];
        file.read_exact(&mut prefix).map_err(Error::io("read", path))?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > MAX_HEADER || header_length > length - PREFIX {
            return Err(problem(format!(
                "not a safetensors file, or cut short: it announces a header of {header_length} bytes \
                 and has {length} in all"
            )));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(Error::io("read", path))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| problem(format!("its header is damaged: {error}")))?;
        let data_start = PREFIX + header_length;
        let whole = data_start.checked_add(metadata.data_len() as u64);
        if whole != Some(length) {
            return Err(problem(format!(
                "cut short or damaged: it has {length} bytes and should have {}",
                whole.map_or("more than can be".to_string(), |whole| whole.to_string())
            )));
        }
        Ok(TensorFile { file, path: path.to_path_buf(), metadata, data_start, length, remedy })
    }

    /// A [`Error::Checkpoint`] about this file.
    pub fn problem(&self, text: impl Into<String>) -> Error {
        Error::Checkpoint {
            path: self.path.clone(),
            problem: text.into(),
            remedy: self.remedy.to_string(),
        }
    }

    /// The text under the one metadata key of our own files.
    pub fn note(&self) -> Option<&str> {
        self.text(NOTE)
    }

    /// The text under metadata key `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Sizes of tensor `name`, outermost first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }

    /// Names of all tensors, checksum left out, in file order.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.retain(|name| name != CHECKSUM);
        names
    }

    /// Hashes the whole file and compares with the checksum at its end.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where there is none or it differs.
    pub fn verify_checksum(&mut self) -> Result<()> {
        let at_end = self.metadata.info(CHECKSUM).is_some_and(|info| {
            info.dtype == Dtype::U8
                && info.data_offsets.1 - info.data_offsets.0 == 32
                && info.data_offsets.1 == self.metadata.data_len()
        });
        if !at_end {
            return Err(self.problem("it has no checksum at its end"));
        }
        let hasher = self.hash(self.length - 32)?;
        let mut stored = [0; 32];
        self.file.read_exact(&mut stored).map_err(Error::io("read", &self.path))?;
        if hasher.finalize()[..] != stored[..] {
            return Err(self.problem("damaged: its content does not match its checksum"));
        }
        Ok(())
    }

    /// SHA-256 of the whole file, in hex.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sha256(&mut self) -> Result<String> {
        let hash = self.hash(self.length)?.finalize();
        Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Hashes the first `length` bytes, and stands after them.
    fn hash(&mut self, length: u64) -> Result<Sha256> {
        self.seek(0)?;
        let mut hasher = Sha256::new();
        let mut rest = length;
        let mut buffer = vec![0; 1 << 20];
        while rest > 0 {
            let chunk = &mut buffer[..rest.min(1 << 20) as usize];
            self.file.read_exact(chunk).map_err(Error::io("read", &self.path))?;
            hasher.update(&*chunk);
            rest -= chunk.len() as u64;
        }
        Ok(hasher)
    }

    /// Checks that tensor `name` has floats of `shape`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it has not.
    pub fn require_f32(&self, name: &str, shape: &[usize]) -> Result<()> {
        let Some(info) = self.metadata.info(name) else {
            return Err(self.problem(format!("tensor `{name}` is missing")));
        };
        if info.dtype != Dtype::F32 {
            return Err(self.problem(format!("tensor `{name}` is {}, not F32", info.dtype)));
        }
        if info.shape != shape {
            return Err(self.problem(format!(
                "tensor `{name}` has shape {:?}, this model's has {shape:?}",
                info.shape
            )));
        }
        Ok(())
    }

    /// Reads tensor `name` of `shape` into `out`, which has as many elements.
    ///
    /// # Errors
    /// As [`Self::require_f32`], and [`Error::Io`].
    pub fn read_f32(&mut self, name: &str, shape: &[usize], out: &mut [f32]) -> Result<()> {
        self.require_f32(name, shape)?;
        let Some(info) = self.metadata.info(name) else { return Ok(()) };
        let (first, last) = info.data_offsets;
        if last - first != size_of_val(out) {
            return Err(self.problem(format!("tensor `{name}` has {} bytes", last - first)));
        }
        self.seek(self.data_start + first as u64)?;
        self.file.read_exact(bytemuck::cast_slice_mut(out)).map_err(Error::io("read", &self.path))
    }

    /// Whether [`Self::verify_checksum`] has something to verify.
    pub fn has_checksum(&self) -> bool {
        self.metadata.info(CHECKSUM).is_some()
    }

    /// Reads the list `name` of integers of type `dtype`, which is `T`'s.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where there is no such list, [`Error::Memory`], [`Error::Io`].
    pub fn read_list<T: bytemuck::Pod>(&mut self, name: &str, dtype: Dtype) -> Result<Vec<T>> {
        let Some(info) = self.metadata.info(name) else {
            return Err(self.problem(format!("tensor `{name}` is missing")));
        };
        let (&[length], (first, last)) = (&info.shape[..], info.data_offsets) else {
            return Err(self.problem(format!("tensor `{name}` is no list")));
        };
        if info.dtype != dtype || Some(last - first) != length.checked_mul(size_of::<T>()) {
            return Err(self.problem(format!("tensor `{name}` is {}, not {dtype}", info.dtype)));
        }
        memory::require(name, (last - first) as u128, "close other programs")?;
        self.seek(self.data_start + first as u64)?;
        let mut list = vec![T::zeroed(); length];
        let bytes = bytemuck::cast_slice_mut(&mut list);
        self.file.read_exact(bytes).map_err(Error::io("read", &self.path))?;
        Ok(list)
    }

    fn seek(&mut self, to: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(to)).map(drop).map_err(Error::io("read", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_readers_understand_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let tensors = [
            Source::f32("b", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
            Source { name: "a".into(), dtype: Dtype::U32, shape: vec![1], bytes: &[7, 0, 0, 0] },
        ];
        write(&path, Some("hello".into()), &tensors, true).unwrap();
        let bytes = fs::read(&path).unwrap();
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(parsed.tensor("b").unwrap().shape(), [2, 2]);
        assert_eq!(parsed.tensor("a").unwrap().data(), [7, 0, 0, 0]);
        let mut file = TensorFile::open(&path, "").unwrap();
        file.verify_checksum().unwrap();
        assert_eq!(file.note(), Some("hello"));
        assert_eq!(file.names(), ["b", "a"]);
        let mut out = [0.0; 4];
        file.read_f32("b", &[2, 2], &mut out).unwrap();
        assert_eq!(out, [1.0, 2.0, 3.0, 4.0]);
        assert!(file.read_f32("b", &[4], &mut out).is_err());
        assert!(file.read_f32("a", &[1], &mut out[..1]).is_err());
        assert!(file.read_f32("c", &[1], &mut out[..1]).is_err());
    }
}
