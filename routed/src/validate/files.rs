//! Files, directories and standard input.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place of the command that reads files"
)]

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::Outcome;

/// Levels of directories that are followed.
const MAX_DEPTH: usize = 32;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file or directory is not there, may not be read, or is no UTF-8.
    #[error("{}: {source}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A directory without a file that ends in `.yaml`, `.yml` or `.json`.
    #[error("{}: no file here ends in .yaml, .yml or .json", .0.display())]
    Nothing(PathBuf),
}

/// Reads and judges everything that is named; `-` is standard input.
///
/// # Errors
/// The first path that cannot be read.
pub fn judge(paths: &[PathBuf]) -> Result<Outcome, ReadError> {
    let mut outcome = Outcome::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|source| failed(path, source))?;
            outcome.read("-", &text);
            continue;
        }
        let mut files = Vec::new();
        list(path, 0, &mut files)?;
        if files.is_empty() {
            return Err(ReadError::Nothing(path.clone()));
        }
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|source| failed(&file, source))?;
            outcome.read(&file.display().to_string(), &text);
        }
    }
    Ok(outcome)
}

fn failed(path: &Path, source: std::io::Error) -> ReadError {
    ReadError::Path {
        path: path.to_owned(),
        source,
    }
}

/// A file as it is; of a directory those that hold objects, in order of their names.
fn list(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), ReadError> {
    let about = std::fs::metadata(path).map_err(|source| failed(path, source))?;
    if !about.is_dir() {
        let holds = path.extension().is_some_and(|end| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| end.eq_ignore_ascii_case(known))
        });
        if depth == 0 || holds {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|source| failed(path, source))?;
    let mut below: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(|source| failed(path, source))?;
    below.sort();
    for path in below {
        list(&path, depth + 1, files)?;
    }
    Ok(())
}
