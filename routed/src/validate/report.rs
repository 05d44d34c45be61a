//! The report as text for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json as object};

use super::{Level, Line, Outcome};

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// The report as text: one line a finding, under it the line of the file.
pub fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    for line in &outcome.lines {
        let _ = writeln!(text, "{}", headline(line));
        let excerpt = outcome
            .sources
            .get(&line.file)
            .and_then(|source| source.lines().nth(line.line.saturating_sub(1)));
        if let Some(excerpt) = excerpt.filter(|_| line.level != Level::Note) {
            let _ = writeln!(text, "  {:>5} | {}", line.line, excerpt.trim_end());
            let _ = writeln!(
                text,
                "        | {}^",
                " ".repeat(line.column.saturating_sub(1))
            );
        }
    }
    let (errors, warnings) = (outcome.count(Level::Error), outcome.count(Level::Warning));
    let _ = write!(
        text,
        "{} checked: {}, {}",
        counted(outcome.objects, "object"),
        counted(errors, "error"),
        counted(warnings, "warning"),
    );
    let skipped = outcome.count(Level::Note);
    if skipped > 0 {
        let _ = write!(text, "; {} not checked", counted(skipped, "object"));
    }
    text.push('\n');
    text
}

fn headline(line: &Line) -> String {
    let mut text = format!(
        "{}:{}:{}: {}:",
        line.file,
        line.line,
        line.column,
        line.level.word()
    );
    for part in [&line.kind, &line.name] {
        if !part.is_empty() {
            let _ = write!(text, " {part}");
        }
    }
    if !line.path.is_empty() {
        let _ = write!(text, " {}:", line.path);
    } else if !line.kind.is_empty() {
        text.push(':');
    }
    let _ = write!(text, " {}", line.message);
    text
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// The report as JSON. Fields are only added.
pub fn json(outcome: &Outcome) -> Value {
    object!({
        "schema": "routed.validate/v1",
        "objects": outcome.objects,
        "errors": outcome.count(Level::Error),
        "warnings": outcome.count(Level::Warning),
        "notChecked": outcome.count(Level::Note),
        "findings": outcome.lines,
    })
}
