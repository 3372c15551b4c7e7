//! The page in a real browser.

use super::{SCRIPT, Server};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn browser() -> Option<&'static str> {
    let runs = |name: &&str| {
        let mut version = Command::new(name);
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    };
    let found = BROWSERS.into_iter().find(runs);
    if found.is_none() {
        eprintln!("skipped: there is no chromium on the path");
    }
    found
}

/// The document as the browser has it after the page's script has run.
fn document(browser: &str, profile: &Path, server: &Server, query: &str) -> String {
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    let output = command.arg(format!("http://{}/{query}", server.address)).output().unwrap();
    let document = String::from_utf8(output.stdout).unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(document.contains("data-state=\"done\""), "{document}\n{log}");
    document
}

/// The ids listed, as HTML has them.
fn listed(document: &str) -> Vec<&str> {
    let rows = document.split("<span class=\"item\">").skip(1);
    rows.map(|row| row.split("</span>").next().unwrap()).collect()
}

#[test]
fn a_history_becomes_a_list() {
    let Some(browser) = browser() else { return };
    let server = Server::start(&[]);
    let profile = tempfile::tempdir().unwrap();
    let expected = server.post("/recommend", &json!({"history": ["i9", "i12"], "k": 5})).json();
    let expected = expected["items"].as_array().unwrap().iter();
    let expected: Vec<&str> = expected.map(|item| item["item"].as_str().unwrap()).collect();
    let shown = document(browser, profile.path(), &server, "?history=i9%0Ai12%0Azz&k=5");
    let escape = |id: &&str| id.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    assert_eq!(listed(&shown), expected.iter().map(escape).collect::<Vec<_>>());
    assert!(shown.contains("Unknown to the model: zz"));

    // Ids that are markup: one that the model knows and lists first, one that only the request names.
    let query = "?history=%3Cb%20id%3Dx%3Enope%3C%2Fb%3E&k=2";
    let shown = document(browser, profile.path(), &server, query);
    assert_eq!(listed(&shown)[0], escape(&SCRIPT));
    assert!(shown.contains("Unknown to the model: &lt;b id=x&gt;nope&lt;/b&gt;"), "{shown}");
    assert!(!shown.contains("<img") && !shown.contains("<b id"), "{shown}");
    assert!(shown.contains("<title>b4r: try the recommender</title>"));

    let refused = document(browser, profile.path(), &server, "?history=i9&k=5000");
    assert!(refused.contains("class=\"error\"") && refused.contains("1 to 1000"), "{refused}");
    assert!(listed(&refused).is_empty());
    server.finish();
}
