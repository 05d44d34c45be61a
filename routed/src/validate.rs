//! `routed validate`: objects in files, judged as the API server and the daemon judge them.
//!
//! ```text
//!   files, directories, stdin ──► yaml (documents with places) ──► api::validate ──► findings with file:line:column
//! ```
//!
//! Pure but for `files`. What is no object of `projectcalico.org/v3` is named as not checked, never passed over in silence.

use std::collections::BTreeMap;

use api::validate::{self, Severity};
use serde::Serialize;
use serde_json::Value;

pub mod files;
mod report;
mod scalar;
pub mod yaml;

pub use report::{json, text};
use yaml::{Document, Node, Place};

/// How bad a line of the report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The object, or what the path names, does not count.
    Error,
    /// It counts, and does something its author may not expect.
    Warning,
    /// An object that is not checked.
    Note,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// File as named on the command line, `-` for standard input.
    pub file: String,
    /// Line from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How bad it is.
    pub level: Level,
    /// Kind of the object, empty where there is none.
    pub kind: String,
    /// `namespace/name` or `name` of the object.
    pub name: String,
    /// JSON path of the field, empty for the whole object.
    pub path: String,
    /// Id of the rule.
    pub rule: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// What was found in all files.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Objects that were judged.
    pub objects: usize,
    /// Findings, in order of files and places.
    pub lines: Vec<Line>,
    /// Text of each file, for excerpts.
    sources: BTreeMap<String, String>,
    /// Kind and name → where the object stood first.
    seen: BTreeMap<(String, String), String>,
}

impl Outcome {
    /// Judges all documents of a text.
    pub fn read(&mut self, file: &str, text: &str) {
        let before = self.lines.len();
        let (documents, faults) = yaml::parse(text);
        for fault in faults {
            let message = fault.message;
            self.say(file, fault.place, "yaml", message);
        }
        for document in &documents {
            self.document(file, document);
        }
        if let Some(new) = self.lines.get_mut(before..) {
            new.sort_by_key(|line| (line.line, line.column));
        }
        self.sources.insert(file.to_owned(), text.to_owned());
    }

    /// How many lines of a level there are.
    pub fn count(&self, level: Level) -> usize {
        self.lines.iter().filter(|line| line.level == level).count()
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.count(Level::Error) == 0
    }

    fn say(&mut self, file: &str, place: Place, rule: &str, message: String) {
        self.lines.push(Line {
            file: file.to_owned(),
            line: place.line,
            column: place.column,
            level: Level::Error,
            kind: String::new(),
            name: String::new(),
            path: String::new(),
            rule: rule.to_owned(),
            message,
        });
    }

    fn document(&mut self, file: &str, document: &Document) {
        let root = &document.root;
        let object = root.to_json();
        if object.is_null() {
            return;
        }
        let items = root.field("items");
        let is_list = object.get("kind").and_then(Value::as_str) == Some("List");
        match items.and_then(Node::entries).filter(|_| is_list) {
            Some(items) => {
                for item in items {
                    self.object(file, item);
                }
            }
            None => self.object(file, root),
        }
    }

    fn object(&mut self, file: &str, node: &Node) {
        let object = node.to_json();
        let word = |path: &str| {
            let found = object.pointer(path).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        let (version, kind) = (word("/apiVersion"), word("/kind"));
        let name = match (word("/metadata/namespace"), word("/metadata/name")) {
            (namespace, name) if namespace.is_empty() => name,
            (namespace, name) => format!("{namespace}/{name}"),
        };
        let subject = Subject {
            file,
            node,
            kind: &kind,
            name: &name,
        };
        if version.is_empty() || kind.is_empty() {
            let message = "an object needs apiVersion and kind";
            return self
                .lines
                .push(subject.line(Level::Error, "", "kind", message));
        }
        match version.split_once('/') {
            Some((api::GROUP, api::VERSION)) if validate::is_known_kind(&kind) => {}
            Some((api::GROUP, api::VERSION)) => {
                let message = format!("there is no kind {kind} in {version}");
                return self
                    .lines
                    .push(subject.line(Level::Error, "kind", "kind", message));
            }
            Some((api::GROUP, other)) => {
                let message = format!(
                    "there is no version {other} of {}, write {}/{}",
                    api::GROUP,
                    api::GROUP,
                    api::VERSION
                );
                return self
                    .lines
                    .push(subject.line(Level::Error, "apiVersion", "kind", message));
            }
            _ => {
                let message = format!("{kind} of {version} is not checked");
                return self
                    .lines
                    .push(subject.line(Level::Note, "", "not-checked", message));
            }
        }
        self.objects += 1;
        self.judge(&subject, &object);
        self.once(&subject);
    }

    fn judge(&mut self, subject: &Subject<'_>, object: &Value) {
        for finding in validate::validate_object(subject.kind, object) {
            let (level, message) = match finding.severity {
                Severity::Refuse => (Level::Error, finding.message),
                Severity::Warn => (Level::Warning, finding.message),
                Severity::Unsupported => (
                    Level::Warning,
                    format!("{} (FullySupported=False)", finding.message),
                ),
            };
            self.lines
                .push(subject.line(level, &finding.path, finding.rule, message));
        }
    }

    /// Of two objects of one kind and name, the later replaces the first when they are applied.
    fn once(&mut self, subject: &Subject<'_>) {
        let key = (subject.kind.to_owned(), subject.name.to_owned());
        let line = subject.line(Level::Warning, "metadata.name", "twice", "");
        let here = format!("{}:{}", line.file, line.line);
        if let Some(first) = self.seen.get(&key) {
            let message =
                format!("the object stands at {first} already; the later one replaces it");
            self.lines.push(Line { message, ..line });
        } else {
            self.seen.insert(key, here);
        }
    }
}

/// The object a line is about.
struct Subject<'a> {
    file: &'a str,
    node: &'a Node,
    kind: &'a str,
    name: &'a str,
}

impl Subject<'_> {
    fn line(&self, level: Level, path: &str, rule: &str, message: impl Into<String>) -> Line {
        let place = self.node.place_of(validate::steps(path));
        Line {
            file: self.file.to_owned(),
            line: place.line,
            column: place.column,
            level,
            kind: self.kind.to_owned(),
            name: self.name.to_owned(),
            path: path.to_owned(),
            rule: rule.to_owned(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests;
