//! A browser that is driven as a person would: it moves the mouse, presses its button and types.
//!
//! Chromium takes commands of its DevTools protocol on file descriptor 3 and answers on 4, JSON ended by NUL.

use super::{PATIENCE, wait_for};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// Lets descriptors 3 and 4 be our pipes.
const START: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;

/// A tab of a browser of its own.
pub struct Tab {
    browser: Child,
    commands: ChildStdin,
    answers: Receiver<Value>,
    /// Of the last command.
    number: u64,
    session: Option<String>,
}

impl Tab {
    /// Opens `url` in `program`, started with `flags`.
    pub fn open(program: &str, flags: &[&str], profile: &Path, url: &str) -> Tab {
        let mut command = Command::new("sh");
        command.args(["-c", START, program, "--remote-debugging-pipe"]).args(flags);
        command.arg(format!("--user-data-dir={}", profile.display()));
        let mut browser = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(browser.stdout.take().unwrap());
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            for message in output.split(0).map_while(Result::ok) {
                let _ = answer.send(serde_json::from_slice(&message).unwrap());
            }
        });
        let commands = browser.stdin.take().unwrap();
        let mut tab = Tab { browser, commands, answers, number: 0, session: None };
        let target = tab.call("Target.createTarget", json!({"url": url}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = tab.call("Target.attachToTarget", attach);
        tab.session = attached["sessionId"].as_str().map(str::to_string);
        tab
    }

    /// Sends a command and waits for its result; events that come in between are nothing to us.
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).unwrap();
        loop {
            let answer = self.answers.recv_timeout(PATIENCE).unwrap();
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The value of a JavaScript expression, of which the page notices nothing.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true});
        let found = self.call("Runtime.evaluate", asked);
        assert!(found["exceptionDetails"].is_null(), "{expression}: {found}");
        found["result"]["value"].clone()
    }

    /// Waits until a JavaScript expression is true.
    pub fn wait_until(&mut self, expression: &str) {
        let came = wait_for(|| self.value(expression) == true);
        assert!(came, "{expression}: {}", self.value("document.body.outerHTML"));
    }

    /// Clicks on the middle of the element that a CSS selector names.
    pub fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const element = document.querySelector({});
                element.scrollIntoView({{block: 'center'}});
                const box = element.getBoundingClientRect();
                return {{x: box.x + box.width / 2, y: box.y + box.height / 2}}; }})()",
            json!(selector)
        ));
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let event = json!({
                "type": kind, "x": place["x"], "y": place["y"], "button": button, "clickCount": 1
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Types into whatever has the focus.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}
