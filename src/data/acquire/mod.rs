//! Known data sets by name: looked for in folders and the cache, else fetched, always checked by content.
//!
//! MovieLens may not be redistributed, so nothing is shipped: the official archives come from GroupLens.
//! MovieLens-100K alone also comes inside a package of the Python index, for machines that reach only that.

mod archive; // unpacking into the cache
mod download; // GroupLens over HTTP
mod wheel; // the Python package

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use super::table::Table;
use super::{atomic_files, formats};
use crate::config::{DataConfig, DataFormat};
use crate::{Error, Result};

/// Where GroupLens keeps its archives.
const GROUPLENS: &str = "https://files.grouplens.org/datasets/movielens";

/// A known data set.
pub(super) struct Source {
    pub name: &'static str,
    /// MD5 of `<name>.zip`, as GroupLens publishes it.
    pub archive_md5: &'static str,
    /// The interaction file inside, after `<name>/`.
    pub member: &'static str,
    pub format: DataFormat,
    pub rows: u64,
    pub users: usize,
    pub items: usize,
    /// SHA-256 of the data set as a RecBole atomic file, where there is one copy that everybody uses.
    pub inter_sha256: Option<&'static str>,
    pub wheel: Option<Wheel>,
}

/// A Python package that carries a data set.
pub(super) struct Wheel {
    /// What pip is asked for.
    pub requirement: &'static str,
    /// The atomic file inside.
    pub member: &'static str,
}

const KNOWN: [Source; 4] = [
    Source {
        name: "ml-100k",
        archive_md5: "0e33842e24a9c977be4e0107933c0723",
        member: "u.data",
        format: DataFormat::UData,
        rows: 100_000,
        users: 943,
        items: 1_682,
        inter_sha256: Some("4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"),
        wheel: Some(Wheel {
            requirement: "recbole==1.2.1",
            member: "recbole/dataset_example/ml-100k/ml-100k.inter",
        }),
    },
    Source {
        name: "ml-1m",
        archive_md5: "c4d9eecfca2ab87c1945afe126590906",
        member: "ratings.dat",
        format: DataFormat::RatingsDat,
        rows: 1_000_209,
        users: 6_040,
        items: 3_706,
        inter_sha256: None,
        wheel: None,
    },
    Source {
        name: "ml-20m",
        archive_md5: "cd245b17a1ae2cc31bb14903e1204af3",
        member: "ratings.csv",
        format: DataFormat::Csv,
        rows: 20_000_263,
        users: 138_493,
        items: 26_744,
        inter_sha256: None,
        wheel: None,
    },
    Source {
        name: "ml-25m",
        archive_md5: "6b51fb2759a8657d3bfcbfc42b592ada",
        member: "ratings.csv",
        format: DataFormat::Csv,
        rows: 25_000_095,
        users: 162_541,
        items: 59_047,
        inter_sha256: None,
        wheel: None,
    },
];

/// The data set of that name, if it is a known one.
pub(super) fn known(name: &str) -> Option<&'static Source> {
    KNOWN.iter().find(|source| source.name == name)
}

/// Names of the known data sets.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|source| source.name)
}

/// Where to look and what to fetch from.
pub(super) struct Places {
    /// Read-only folder with `<name>/<file>`.
    pub data: Option<PathBuf>,
    /// Folder that is written to.
    pub cache: Option<PathBuf>,
    /// Address of the folder that holds `<name>.zip`.
    pub base_url: String,
    /// The Python interpreter whose pip is asked.
    pub python: String,
}

impl Places {
    /// `B4R_DATA`, `B4R_CACHE` (or the platform's cache folder) and `B4R_GROUPLENS_URL`.
    pub(super) fn from_environment() -> Self {
        let path = |key| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache =
            path("B4R_CACHE").or_else(|| dirs::cache_dir().map(|folder| folder.join("b4r")));
        let base_url = std::env::var("B4R_GROUPLENS_URL").unwrap_or_else(|_| GROUPLENS.to_string());
        Places { data: path("B4R_DATA"), cache, base_url, python: "python3".to_string() }
    }

    fn cache_folder(&self, source: &Source) -> std::result::Result<PathBuf, String> {
        let cache = self.cache.as_ref().ok_or("no cache folder: set B4R_CACHE")?;
        let folder = cache.join(source.name);
        std::fs::create_dir_all(&folder).map_err(|error| {
            format!("cannot create {}: {error}; set B4R_CACHE", folder.display())
        })?;
        Ok(folder)
    }
}

/// Reads the data set from the first place that has it.
pub(super) fn obtain(
    source: &Source,
    places: &Places,
    config: &DataConfig,
    progress: bool,
) -> Result<Table> {
    let mut search = Search { source, config, progress, tried: Vec::new() };
    if let Some(folder) = &config.data_path
        && let Some(table) = search.own_file(folder)?
    {
        return Ok(table);
    }
    let folders = [&places.data, &places.cache].into_iter().flatten();
    for folder in folders.map(|folder| folder.join(source.name)) {
        if let Some(table) = search.folder(&folder, places)? {
            return Ok(table);
        }
    }
    if let Some(table) = search.fetched(download::fetch(source, places, progress))? {
        return Ok(table);
    }
    if let Some(wheel) = &source.wheel
        && let Some(table) = search.fetched(wheel::fetch(source, wheel, places))?
    {
        return Ok(table);
    }
    Err(search.unavailable(places))
}

/// A search in progress, with a line for every place that did not have the data set.
struct Search<'a> {
    source: &'a Source,
    config: &'a DataConfig,
    progress: bool,
    tried: Vec<String>,
}

impl Search<'_> {
    /// RecBole's layout under `data_path`: the user's own file, taken as it is.
    fn own_file(&mut self, data_path: &Path) -> Result<Option<Table>> {
        let folder = data_path.join(self.source.name);
        let files = atomic_files(&folder, Path::new(self.source.name));
        let Some(path) = files.iter().find(|path| path.is_file()) else {
            self.tried.push(format!("data_path: no {}", files[0].display()));
            return Ok(None);
        };
        let mut table = formats::read(path, self.config, self.progress)?;
        if let Some(why) = self.source.differs(path, &table) {
            table.notes.push(format!("{}: {why}; read because data_path names it", path.display()));
        }
        Ok(Some(table))
    }

    /// `B4R_DATA/<name>` or the same in the cache.
    fn folder(&mut self, folder: &Path, places: &Places) -> Result<Option<Table>> {
        let Ok(entries) = std::fs::read_dir(folder) else {
            self.tried.push(format!("{}: no such folder", folder.display()));
            return Ok(None);
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let before = self.tried.len();
        let wanted = self.source.file_names();
        for path in wanted.iter().map(|name| folder.join(name)).filter(|path| path.is_file()) {
            if let Some(table) = self.candidate(&path)? {
                return Ok(Some(table));
            }
        }
        let archive = folder.join(format!("{}.zip", self.source.name));
        if archive.is_file()
            && let Some(table) = self.fetched(archive::take(self.source, &archive, places))?
        {
            return Ok(Some(table));
        }
        let foreign = paths.iter().filter(|path| self.source.is_foreign(path, &wanted));
        self.tried.extend(foreign.map(|path| {
            format!(
                "{}: passed over: not a file of the official release ({}); to train on it, give its path \
                 as dataset",
                path.display(),
                wanted.join(", ")
            )
        }));
        if self.tried.len() == before {
            self.tried.push(format!("{}: none of {}", folder.display(), wanted.join(", ")));
        }
        Ok(None)
    }

    /// Reads one file and holds it against the official counts.
    fn candidate(&mut self, path: &Path) -> Result<Option<Table>> {
        let config = self.source.config_for(path, self.config);
        let why = match formats::read(path, &config, self.progress) {
            Ok(mut table) => match self.source.differs(path, &table) {
                None => {
                    table.notes.extend(self.tried.iter().filter(|line| is_news(line)).cloned());
                    return Ok(Some(table));
                }
                Some(why) => why,
            },
            // What is wrong with this one file need not stop the search.
            Err(error @ (Error::Input { .. } | Error::Io { .. })) => error.to_string(),
            Err(error) => return Err(error),
        };
        self.tried.push(format!("{}: passed over: {why}", path.display()));
        Ok(None)
    }

    /// Reads what a way of fetching has brought into the cache; a wrong file does not stay there.
    fn fetched(&mut self, brought: std::result::Result<PathBuf, String>) -> Result<Option<Table>> {
        match brought {
            Ok(path) => {
                let table = self.candidate(&path)?;
                if table.is_none() {
                    // If it cannot be deleted, it is passed over again next time.
                    let _ = std::fs::remove_file(&path);
                }
                Ok(table)
            }
            Err(why) => {
                self.tried.push(why);
                Ok(None)
            }
        }
    }

    fn unavailable(self, places: &Places) -> Error {
        let name = self.source.name;
        let folder = match (&places.cache, &places.data) {
            (Some(folder), _) | (None, Some(folder)) => folder.join(name).display().to_string(),
            (None, None) => format!("$B4R_DATA/{name}"),
        };
        let files = self.source.file_names();
        Error::DatasetUnavailable {
            name: name.to_string(),
            tried: self
                .tried
                .iter()
                .map(|line| format!("  - {line}"))
                .collect::<Vec<_>>()
                .join("\n"),
            remedy: format!(
                "download {}/{name}.zip on a machine that can, put it (or {} out of it) into {folder}, or \
                 set B4R_DATA to a folder that holds {name}/{}; or give the path of another file as dataset",
                GROUPLENS, self.source.member, files[0]
            ),
        }
    }
}

/// Whether a place that was passed over is worth a note although the data set was found elsewhere.
fn is_news(line: &str) -> bool {
    line.contains(": passed over")
}

impl Source {
    /// Whether a file could be mistaken for the data set.
    fn is_foreign(&self, path: &Path, wanted: &[String]) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = wanted.iter().any(|wanted| *wanted == name)
            || name.starts_with(&format!("{}.zip", self.name));
        path.is_file() && !ours && name.starts_with(self.name)
    }

    /// Files looked for in a folder, the best first.
    fn file_names(&self) -> Vec<String> {
        let inter = format!("{}.inter", self.name);
        [self.member, &inter]
            .iter()
            .flat_map(|name| [name.to_string(), format!("{name}.gz")])
            .collect()
    }

    /// The user's configuration with the names and layout that the file is known to have.
    fn config_for(&self, path: &Path, config: &DataConfig) -> DataConfig {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let atomic = name.starts_with(&format!("{}.inter", self.name));
        let (user, item, format) = match atomic {
            true => ("user_id", "item_id", DataFormat::Inter),
            false => ("userId", "movieId", self.format),
        };
        DataConfig {
            format: Some(format),
            field_separator: None,
            user_field: user.to_string(),
            item_field: item.to_string(),
            rating_field: config.rating_field.as_ref().map(|_| "rating".to_string()),
            time_field: config.time_field.as_ref().map(|_| "timestamp".to_string()),
            ..config.clone()
        }
    }

    /// How a file that was read is not the official data set, if so.
    fn differs(&self, path: &Path, table: &Table) -> Option<String> {
        let found = (table.rows_read(), table.users.len(), table.items.len());
        if found != (self.rows, self.users, self.items) {
            return Some(format!(
                "{} interactions of {} users with {} items, the official release has {}, {} and {}",
                found.0, found.1, found.2, self.rows, self.users, self.items
            ));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match self.inter_sha256 {
            Some(want) if name.contains(".inter") && table.sha256 != want => {
                Some(format!("its SHA-256 is {}, not {want}", table.sha256))
            }
            _ => None,
        }
    }
}

/// Says once, before anything is fetched, under what terms.
fn announce(source: &Source, from: &str) {
    eprintln!(
        "fetching {} from {from}; MovieLens data by GroupLens, University of Minnesota: for research, no \
         redistribution or commercial use without their permission (https://grouplens.org/datasets/movielens)",
        source.name
    );
}
