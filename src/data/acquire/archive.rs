//! Takes one file out of a zip archive into the cache, whole or not at all.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use tempfile::NamedTempFile;
use zip::ZipArchive;

use super::super::lines::hex;
use super::{Places, Source};

/// Checks an archive that lies at hand and unpacks the data set from it into the cache.
pub(super) fn take(source: &Source, archive: &Path, places: &Places) -> Result<PathBuf, String> {
    let place = |error: String| format!("{}: passed over: {error}", archive.display());
    let mut file = File::open(archive).map_err(|error| place(error.to_string()))?;
    let md5 = md5_of(&mut file).map_err(|error| place(error.to_string()))?;
    if md5 != source.archive_md5 {
        return Err(place(format!("its MD5 is {md5}, not {}", source.archive_md5)));
    }
    let target = places.cache_folder(source)?.join(source.member);
    unpack(file, &format!("{}/{}", source.name, source.member), &target).map_err(place)?;
    Ok(target)
}

/// MD5 of a file from its beginning, in hexadecimal.
pub(super) fn md5_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut hasher = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Writes the archive's `member` to `target` by way of a temporary file, so that `target` is never partial.
pub(super) fn unpack(file: File, member: &str, target: &Path) -> Result<(), String> {
    let mut archive = ZipArchive::new(file).map_err(|error| format!("no zip archive: {error}"))?;
    let mut entry =
        archive.by_name(member).map_err(|error| format!("`{member}` inside: {error}"))?;
    let size = entry.size();
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut write = || -> io::Result<()> {
        let mut temporary = NamedTempFile::new_in(folder)?;
        // The stated size bounds what a damaged entry can write.
        let written = io::copy(&mut entry.by_ref().take(size.saturating_add(1)), &mut temporary)?;
        if written != size {
            return Err(io::Error::other(format!("{written} bytes instead of {size}")));
        }
        temporary.as_file().sync_all()?;
        temporary.persist(target).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| format!("unpacking `{member}` to {}: {error}", target.display()))
}
