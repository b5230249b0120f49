//! Real Chromium, driven from a test that reads from top to bottom. `tests/all` installs what it needs.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{SOON, wait_for};

/// The sizes of the pictures, and of the layout tests: a phone, a laptop, a screen on the wall.
pub const SIZES: [(&str, u32, u32); 3] = [("phone", 390, 844), ("laptop", 1280, 800), ("wall", 1920, 1080)];

pub struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts the browser and opens a page in laptop size and light colours.
    #[track_caller]
    pub fn open(url: &str) -> Self {
        let mut browser = Self::start();
        assert_eq!(browser.visit(url, None), 200);
        browser
    }

    #[track_caller]
    pub fn start() -> Self {
        let mut child = Command::new("node")
            .arg(program())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts; tests/all installs it");
        Self {
            commands: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Opens a page in a fresh profile; gives the status of the answer. `password` is given when the page asks for one.
    #[track_caller]
    pub fn visit(&mut self, url: &str, password: Option<&str>) -> u64 {
        let (_, width, height) = SIZES[1];
        let order = json!({ "command": "open", "url": url, "width": width, "height": height, "scheme": "light", "password": password });
        self.tell(&order).as_u64().unwrap()
    }

    #[track_caller]
    fn tell(&mut self, command: &Value) -> Value {
        let told = writeln!(self.commands.as_mut().unwrap(), "{command}");
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        assert!(
            told.is_ok() && read.is_ok() && !line.is_empty(),
            "the browser does not answer {command}; tests/all installs chromium and playwright-core"
        );
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["error"], Value::Null, "{command}");
        answer["value"].clone()
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn eval(&mut self, script: &str) -> Value {
        self.tell(&json!({ "command": "eval", "script": script }))
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn until(&mut self, script: &str) {
        wait_for(script, SOON, || (self.eval(script) == true).then_some(()));
    }

    /// The text that a person sees in an element.
    #[track_caller]
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({}).innerText", json!(selector)));
        text.as_str().unwrap().to_owned()
    }

    /// The value of a figure; `None`: the page shows that it is not known.
    #[track_caller]
    pub fn figure(&mut self, name: &str) -> Option<f64> {
        let value = self.eval(&format!("document.querySelector('[data-figure=\"{name}\"]').dataset.value ?? null"));
        value.as_str().map(|text| text.parse().unwrap())
    }

    /// Waits for a live page with figures.
    #[track_caller]
    pub fn until_live(&mut self) {
        self.until("document.body.dataset.state === 'live' && !document.getElementById('ready').hidden");
    }

    #[track_caller]
    pub fn reload(&mut self) {
        assert_eq!(self.tell(&json!({ "command": "reload" })), 200);
    }

    #[track_caller]
    pub fn click(&mut self, selector: &str) {
        self.tell(&json!({ "command": "click", "selector": selector }));
    }

    #[track_caller]
    pub fn hover(&mut self, selector: &str, x: u32, y: u32) {
        self.tell(&json!({ "command": "hover", "selector": selector, "x": x, "y": y }));
    }

    #[track_caller]
    pub fn focus(&mut self, selector: &str) {
        self.tell(&json!({ "command": "focus", "selector": selector }));
    }

    #[track_caller]
    pub fn key(&mut self, key: &str) {
        self.tell(&json!({ "command": "key", "key": key }));
    }

    #[track_caller]
    pub fn size(&mut self, width: u32, height: u32) {
        self.tell(&json!({ "command": "size", "width": width, "height": height }));
    }

    /// `light` or `dark`, as the system would say.
    #[track_caller]
    pub fn scheme(&mut self, scheme: &str) {
        self.tell(&json!({ "command": "scheme", "scheme": scheme }));
    }

    #[track_caller]
    pub fn shot(&mut self, path: &Path) {
        self.tell(&json!({ "command": "shot", "path": path, "whole": false }));
    }

    /// What the console has said against the page since the last call: errors, warnings, breaches of its policy.
    #[track_caller]
    pub fn complaints(&mut self) -> Vec<String> {
        serde_json::from_value(self.tell(&json!({ "command": "complaints" }))).unwrap()
    }

    /// Every address that the page has asked for.
    #[track_caller]
    pub fn requests(&mut self) -> Vec<String> {
        serde_json::from_value(self.tell(&json!({ "command": "requests" }))).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It closes the browser at the end of its orders.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

/// The program, beside the modules that `tests/all` installs for it.
fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = std::env::var_os("TEST_CLIENTS_DIR").map_or_else(|| root.join("target/clients"), PathBuf::from);
    let path = installed.join("node/browser.mjs");
    // Under a name of its own and renamed: another test may be starting the same program.
    let fresh = path.with_extension(format!("{:?}.new", std::thread::current().id()));
    fs::copy(root.join("tests/clients/browser.mjs"), &fresh).expect("tests/all makes target/clients/node");
    fs::rename(&fresh, &path).unwrap();
    path
}
