//! The journal as a file: append, compact, survive a full or read-only disk.
#![expect(
    clippy::disallowed_methods,
    reason = "the journal is a file; all its reading and writing is here"
)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use thiserror::Error;

use super::{Entry, decode, encode, header};
use crate::cni::record::{Record, State};

/// Below this many entries a file is never worth compacting.
const SMALL: usize = 128;

/// The journal could not be written; the kernel's words say why.
#[derive(Debug, Error)]
#[error("the journal {path} cannot be written: {cause}")]
pub struct JournalError {
    /// The file.
    pub path: PathBuf,
    /// The kernel's words.
    pub cause: io::Error,
}

/// What was found when the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Live records.
    pub records: usize,
    /// Octets dropped behind the last good entry.
    pub torn: usize,
    /// True when the file was written before the last reboot.
    pub other_boot: bool,
}

/// The journal: all live records, and the file that mirrors them.
///
/// Hazards: a failed append may leave half an entry, behind which everything would be lost, so the file is cut back, and if
/// that fails too, the next write replaces it whole. Memory runs ahead of a file that cannot be written; the caller decides
/// whether that matters (ADD: yes, DEL: no).
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    boot: String,
    records: BTreeMap<u64, Record>,
    next: u64,
    file: Option<File>,
    length: u64,
    entries: usize,
}

impl Journal {
    /// Opens, or begins, the journal at `path`. Never fails: what cannot be read is empty, what cannot be written is tried again
    /// with each entry.
    pub fn open(path: &Path, boot: &str) -> (Self, Found) {
        let bytes = fs::read(path).unwrap_or_default();
        let mut reading = decode(&bytes);
        let other_boot = !bytes.is_empty() && reading.boot != boot;
        if other_boot {
            // Every sandbox of another boot is gone; only the addresses are left to be released.
            for record in reading.records.values_mut() {
                record.state = State::Owed;
            }
        }
        let found = Found {
            records: reading.records.len(),
            torn: reading.torn,
            other_boot,
        };
        let next = reading
            .records
            .keys()
            .next_back()
            .map_or(1, |last| last.saturating_add(1));
        let journal = Self {
            path: path.to_owned(),
            boot: boot.to_owned(),
            records: reading.records,
            next,
            file: None,
            length: 0,
            entries: 0,
        };
        (journal, found)
    }

    /// Live records by serial.
    pub fn records(&self) -> &BTreeMap<u64, Record> {
        &self.records
    }

    /// A number no record has.
    pub fn next_serial(&mut self) -> u64 {
        let serial = self.next;
        self.next = self.next.saturating_add(1);
        serial
    }

    /// Enters a record, or its new state.
    ///
    /// # Errors
    /// The file could not be written; memory holds the record all the same.
    pub fn put(&mut self, record: Record) -> Result<(), JournalError> {
        let entry = Entry::Put(Box::new(record.clone()));
        self.records.insert(record.serial, record);
        self.write(&entry)
    }

    /// Closes a record.
    ///
    /// # Errors
    /// The file could not be written; memory has let go of the record all the same.
    pub fn close(&mut self, serial: u64) -> Result<(), JournalError> {
        match self.records.remove(&serial) {
            None => Ok(()),
            Some(_) => self.write(&Entry::Drop(serial)),
        }
    }

    fn write(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let worn = self.entries > SMALL && self.entries > self.records.len().saturating_mul(2);
        let done = if self.file.is_none() || worn {
            self.rewrite()
        } else {
            self.append(&encode(entry))
        };
        done.map_err(|cause| JournalError {
            path: self.path.clone(),
            cause,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = self.file.as_mut() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if let Err(cause) = file.write_all(bytes) {
            if file.set_len(self.length).is_err() {
                self.file = None;
            }
            return Err(cause);
        }
        self.length = self.length.saturating_add(bytes.len() as u64);
        self.entries += 1;
        Ok(())
    }

    /// Writes all live records into a new file and puts it in place of the old one.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut bytes = header(&self.boot);
        for record in self.records.values() {
            bytes.extend_from_slice(&encode(&Entry::Put(Box::new(record.clone()))));
        }
        let temporary = self.path.with_extension("tmp");
        // O_APPEND, so that after a write was cut back the next one stands where the file ends.
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_APPEND.bits())
            .open(&temporary)?;
        let written = file
            .write_all(&bytes)
            .and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(cause) = written {
            let _left_behind = fs::remove_file(&temporary);
            return Err(cause);
        }
        // Appending goes on with the same descriptor, which the rename did not touch.
        self.file = Some(file);
        self.length = bytes.len() as u64;
        self.entries = self.records.len();
        Ok(())
    }
}

/// Identity of this boot.
///
/// # Errors
/// `/proc` is not what it should be.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::journal::tests::record;

    #[test]
    fn a_reopened_journal_has_the_same_records() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, found) = Journal::open(&path, "boot");
        assert_eq!(found, Found::default());
        for serial in 1..=3 {
            assert_eq!(journal.next_serial(), serial);
            journal.put(record(serial, State::Attached)).unwrap();
        }
        journal.close(2).unwrap();
        let (mut again, found) = Journal::open(&path, "boot");
        assert_eq!(again.records(), journal.records());
        assert_eq!(
            found,
            Found {
                records: 2,
                ..Found::default()
            }
        );
        assert_eq!(again.next_serial(), 4);
    }

    #[test]
    fn after_a_reboot_only_releases_are_owed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, _) = Journal::open(&path, "boot one");
        journal.put(record(1, State::Attached)).unwrap();
        let (again, found) = Journal::open(&path, "boot two");
        assert!(found.other_boot);
        assert_eq!(again.records()[&1].state, State::Owed);
    }

    #[test]
    fn the_file_stays_small_however_often_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, _) = Journal::open(&path, "boot");
        for serial in 1..=2000 {
            journal
                .put(record(serial % 10 + 1, State::Attached))
                .unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 64 * 1024);
        assert_eq!(Journal::open(&path, "boot").0.records(), journal.records());
    }

    #[test]
    fn a_journal_that_cannot_be_written_says_so_and_recovers_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not-there-yet").join("journal");
        let (mut journal, _) = Journal::open(&path, "boot");
        let refused = journal.put(record(1, State::Intent)).unwrap_err();
        assert!(refused.to_string().contains("not-there-yet"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        journal.put(record(2, State::Intent)).unwrap();
        assert_eq!(Journal::open(&path, "boot").0.records().len(), 2);
    }

    #[test]
    fn a_torn_file_is_used_up_to_the_tear_and_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, _) = Journal::open(&path, "boot");
        journal.put(record(1, State::Attached)).unwrap();
        journal.put(record(2, State::Attached)).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let (mut again, found) = Journal::open(&path, "boot");
        assert!(found.torn > 0);
        assert_eq!(again.records().len(), 1);
        again.put(record(3, State::Attached)).unwrap();
        let (last, found) = Journal::open(&path, "boot");
        assert_eq!((last.records().len(), found.torn), (2, 0));
    }
}
