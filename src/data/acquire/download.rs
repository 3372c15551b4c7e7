//! The official archive over HTTP: resumed after a cut, begun anew where that fails, checked by its MD5.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use ureq::Agent;
use ureq::http::{Response, header};

use super::super::lines::progress_bar;
use super::archive::{md5_of, unpack};
use super::{Places, Source, announce};

/// Tries in a row that brought nothing new before giving up.
const MAX_FRUITLESS: u32 = 3;
/// How long a connection may take to open, or stay silent.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest known archive has 250 MB; what goes on beyond this is something else.
const MAX_ARCHIVE: u64 = 2 << 30;

/// Downloads the archive and unpacks the data set into the cache.
pub(super) fn fetch(source: &Source, places: &Places, progress: bool) -> Result<PathBuf, String> {
    let url = format!("{}/{}.zip", places.base_url.trim_end_matches('/'), source.name);
    let place = |why: String| format!("{url}: {why}");
    let folder = places.cache_folder(source).map_err(place)?;
    let target = folder.join(source.member);
    let part = folder.join(format!("{}.zip.part", source.name));
    let (mut file, waited) = open_locked(&part).map_err(|error| place(describe(&part, error)))?;
    if waited && target.is_file() {
        // Another process has fetched it in the meantime.
        return Ok(target);
    }
    announce(source, &url);
    let result = download(source, &url, &part, &mut file, progress)
        .and_then(|()| unpack(file, &format!("{}/{}", source.name, source.member), &target));
    match result {
        Ok(()) => {
            // The archive is no longer needed; a leftover would only take space.
            let _ = std::fs::remove_file(&part);
            Ok(target)
        }
        Err(why) => Err(place(why)),
    }
}

/// Opens the partial file and waits until no other process writes it; tells whether that was so.
fn open_locked(part: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(part)?;
    let busy = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    if busy {
        file.lock()?;
    }
    // Where the file system knows no locks, two processes at once end in an MD5 mismatch at worst.
    Ok((file, busy))
}

/// Fills `file` with the archive whose MD5 is known; on a mismatch nothing is left of it.
fn download(
    source: &Source,
    url: &str,
    part: &Path,
    file: &mut File,
    progress: bool,
) -> Result<(), String> {
    let io_error = |error| describe(part, error);
    let left_over = file.seek(SeekFrom::End(0)).map_err(io_error)?;
    let mut transfer = Transfer::new(url, part, file, progress);
    transfer.run()?;
    let resumed = transfer.resumed || left_over > 0;
    let mut md5 = md5_of(transfer.file).map_err(io_error)?;
    if md5 != source.archive_md5 && resumed {
        // The pieces may have come from two different files: once more, in one piece.
        transfer.restart()?;
        transfer.run()?;
        md5 = md5_of(transfer.file).map_err(io_error)?;
    }
    transfer.bar.finish_and_clear();
    if md5 == source.archive_md5 {
        return Ok(());
    }
    // Best effort: if it stays, the next run finds the mismatch again and begins anew.
    let _ = std::fs::remove_file(part);
    Err(format!("the download's MD5 is {md5}, not {}; it was deleted", source.archive_md5))
}

/// One archive on its way into a file.
struct Transfer<'a> {
    agent: Agent,
    url: &'a str,
    part: &'a Path,
    file: &'a mut File,
    /// Whether the file holds pieces of several answers.
    resumed: bool,
    bar: ProgressBar,
}

/// How one answer ended.
enum Ended {
    Complete,
    Cut(String),
}

impl<'a> Transfer<'a> {
    fn new(url: &'a str, part: &'a Path, file: &'a mut File, progress: bool) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            // A compressed answer could not be resumed.
            .accept_encoding("identity")
            .user_agent(concat!("b4r/", env!("CARGO_PKG_VERSION")))
            .build();
        let bar = if progress { progress_bar(0, "downloading") } else { ProgressBar::hidden() };
        Transfer { agent: config.into(), url, part, file, resumed: false, bar }
    }

    /// Asks again and again, each time for what is still missing, while that brings something new.
    fn run(&mut self) -> Result<(), String> {
        let mut most = 0;
        let mut fruitless = 0;
        loop {
            let why = match self.ask()? {
                Ended::Complete => return Ok(()),
                Ended::Cut(why) => why,
            };
            let have = self.length()?;
            fruitless = if have > most { 1 } else { fruitless + 1 };
            most = most.max(have);
            if fruitless >= MAX_FRUITLESS {
                return Err(format!("{why} ({have} bytes so far, kept for the next try)"));
            }
            std::thread::sleep(Duration::from_millis(200 * u64::from(fruitless)));
        }
    }

    /// One request and its answer.
    fn ask(&mut self) -> Result<Ended, String> {
        let have = self.length()?;
        let mut request = self.agent.get(self.url);
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let answer = match request.call() {
            Ok(answer) => answer,
            Err(error) => return Ok(Ended::Cut(error.to_string())),
        };
        match answer.status().as_u16() {
            200 => self.restart()?,
            206 if range_start(&answer) == Some(have) => self.resumed = true,
            // The server has another file than the one begun: from the start.
            206 | 416 if have > 0 => {
                self.restart()?;
                return Ok(Ended::Cut("the server cannot continue the download".to_string()));
            }
            status @ (429 | 500..) => return Ok(Ended::Cut(format!("HTTP status {status}"))),
            status => return Err(format!("HTTP status {status}")),
        }
        self.receive(answer)
    }

    fn receive(&mut self, answer: Response<ureq::Body>) -> Result<Ended, String> {
        let begin = self.length()?;
        let expected = answer.body().content_length().map(|length| begin + length);
        self.bar.set_length(expected.unwrap_or(0));
        self.bar.set_position(begin);
        let mut body = answer.into_body().into_with_config().limit(MAX_ARCHIVE).reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) => return Ok(Ended::Cut(format!("the connection was cut: {error}"))),
            };
            self.file.write_all(&buffer[..n]).map_err(|error| describe(self.part, error))?;
            self.bar.inc(n as u64);
        }
        let have = self.length()?;
        Ok(match expected {
            Some(expected) if have < expected => {
                Ended::Cut(format!("the connection was cut after {have} of {expected} bytes"))
            }
            _ => Ended::Complete,
        })
    }

    /// Empties the file.
    fn restart(&mut self) -> Result<(), String> {
        self.resumed = false;
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|error| describe(self.part, error))
    }

    /// Bytes so far; the next write goes behind them.
    fn length(&mut self) -> Result<u64, String> {
        self.file.seek(SeekFrom::End(0)).map_err(|error| describe(self.part, error))
    }
}

/// First byte of a partial answer.
fn range_start(answer: &Response<ureq::Body>) -> Option<u64> {
    let range = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn describe(path: &Path, error: io::Error) -> String {
    format!("{}: {error}", path.display())
}
