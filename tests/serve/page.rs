//! The page in a real browser.

use super::devtools::Tab;
use super::{SCRIPT, Server};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// No window, and no talk with anybody but our server.
const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

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
    command.args(FLAGS).args(["--virtual-time-budget=20000", "--dump-dom"]);
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

#[test]
fn a_person_types_clicks_and_sees_the_list() {
    let Some(browser) = browser() else { return };
    let server = Server::start(&[]);
    let profile = tempfile::tempdir().unwrap();
    let listed = "[...document.querySelectorAll('#list .item')].map((item) => item.textContent)";
    let expected = |history: &[&str]| {
        let reply = server.post("/recommend", &json!({"history": history, "k": 4})).json();
        let items = reply["items"].as_array().unwrap().iter();
        json!(items.map(|item| item["item"].clone()).collect::<Vec<_>>())
    };
    let done = "document.body?.dataset.state === 'done'";
    // The page sets the state once more when an answer has come.
    let forget = "delete document.body.dataset.state";
    let url = format!("http://{}/", server.address);
    let mut tab = Tab::open(browser, &FLAGS, profile.path(), &url);
    tab.wait_until(done);

    tab.click("#history");
    tab.type_text("i9\ni12\n<b id=x>nope</b>");
    tab.click("#k");
    tab.type_text("4");
    tab.value(forget);
    tab.click("#submit");
    tab.wait_until(done);
    assert_eq!(tab.value(listed), expected(&["i9", "i12"]));
    let note = tab.value("document.getElementById('note').textContent");
    assert_eq!(note, "Unknown to the model: <b id=x>nope</b>");

    // Typed over: the first of the popular items is the one that looks like a script.
    tab.value("document.getElementById('history').select()");
    tab.type_text("zz");
    tab.value(forget);
    tab.click("#submit");
    tab.wait_until(done);
    let shown = tab.value(listed);
    assert_eq!((&shown, &shown[0]), (&expected(&["zz"]), &json!(SCRIPT)));
    assert_eq!(tab.value("document.querySelectorAll('img, b').length"), 0);
    assert_eq!(tab.value("document.title"), "b4r: try the recommender");

    // A button of a row: that item's history comes next.
    tab.value(forget);
    tab.click("#list li:nth-child(2) button:nth-of-type(2)");
    tab.wait_until(done);
    let second = shown[1].as_str().unwrap();
    assert_eq!(tab.value(listed), expected(&["zz", second]));

    // A link with a user alone: the history is the one that the run holds.
    let known = server.post("/recommend", &json!({"user": "u1", "k": 4})).json();
    tab.value(forget);
    tab.value("void (location.href = '/?user=u1&k=4')");
    tab.wait_until(done);
    let names = known["items"].as_array().unwrap().iter().map(|item| item["item"].clone());
    assert_eq!(tab.value(listed), json!(names.collect::<Vec<_>>()));
    drop(tab);
    server.finish();
}
