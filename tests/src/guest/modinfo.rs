//! What a kernel module says about itself: the section `.modinfo` of its ELF file, `key=value` texts that end in NUL.

use anyhow::{Context, Result};

/// A module's names and needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The modules it needs.
    pub needs: Vec<String>,
    /// Other names, without those that are patterns.
    pub aliases: Vec<String>,
}

/// Reads a module's file: ELF, 64 bit, little endian.
///
/// # Errors
/// The file is no such ELF file, or the section is missing.
pub fn parse(file: &[u8]) -> Result<Module> {
    let text = section(file, b".modinfo").context("no section .modinfo")?;
    let mut module = Module::default();
    for entry in text.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        match entry.split_once('=') {
            Some(("name", value)) => module.name = value.replace('-', "_"),
            Some(("depends", value)) => {
                let needs = value.split(',').filter(|need| !need.is_empty());
                module.needs = needs.map(|need| need.replace('-', "_")).collect();
            }
            Some(("alias", value)) if !value.contains(['*', '[', '?', ' ', '\t', '\n']) => {
                module.aliases.push(value.to_owned());
            }
            Some(_) | None => {}
        }
    }
    anyhow::ensure!(!module.name.is_empty(), "the module has no name");
    Ok(module)
}

fn section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = number(file, 0x28, 8)?;
    let size = number(file, 0x3a, 2)?;
    let count = number(file, 0x3c, 2)?;
    let names = header(file, table, size, number(file, 0x3e, 2)?)?;
    (0..count).find_map(|index| {
        let at = table.checked_add(index.checked_mul(size)?)?;
        let name = content_from(names, number(file, at, 4)?)?;
        name.strip_prefix(wanted)?.starts_with(&[0]).then_some(())?;
        header(file, table, size, index)
    })
}

/// The content of the section with this index.
fn header(file: &[u8], table: usize, size: usize, index: usize) -> Option<&[u8]> {
    let at = table.checked_add(index.checked_mul(size)?)?;
    let start = number(file, at.checked_add(0x18)?, 8)?;
    let length = number(file, at.checked_add(0x20)?, 8)?;
    file.get(start..start.checked_add(length)?)
}

fn content_from(bytes: &[u8], at: usize) -> Option<&[u8]> {
    bytes.get(at..)
}

/// A little-endian number of `width` octets.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    let mut value = [0_u8; 8];
    value.get_mut(..width)?.copy_from_slice(field);
    usize::try_from(u64::from_le_bytes(value)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with two sections: names, and `.modinfo`.
    fn elf(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(64, 0);
        let table = 64 + names.len() + modinfo.len();
        file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&2_u16.to_le_bytes());
        file.extend_from_slice(names);
        file.extend_from_slice(modinfo);
        for (name, start, length) in [
            (1_u32, 64, names.len()),
            (11, 64 + names.len(), modinfo.len()),
        ] {
            let mut header = vec![0_u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file
    }

    #[test]
    fn names_needs_and_aliases_are_read() {
        let file = elf(b"license=GPL\0alias=rtnl-link-ipip\0alias=pci:v*\0depends=ip_tunnel,tunnel4\0name=ip-ip\0");
        let module = parse(&file).unwrap();
        assert_eq!(module.name, "ip_ip");
        assert_eq!(module.needs, ["ip_tunnel", "tunnel4"]);
        assert_eq!(module.aliases, ["rtnl-link-ipip"]);
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error_and_no_panic() {
        let file = elf(b"name=x\0");
        for length in 0..file.len() {
            drop(parse(&file[..length]));
        }
        assert!(parse(b"").is_err());
        assert!(parse(&elf(b"depends=\0")).is_err());
    }
}
