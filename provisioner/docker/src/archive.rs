//! Tar archives, the only form in which files enter and leave containers.

use std::io::{self, Read};
use std::path::{Component, Path};

use bytes::Bytes;

/// A file of an archive with the owner and mode that it has inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) content: Vec<u8>,
}

/// Packs files for extraction at `/`. Folders are not named: the engine makes the missing ones for root and leaves the
/// owner of existing ones alone.
pub(crate) fn pack(entries: &[Entry]) -> io::Result<Bytes> {
    let mut builder = tar::Builder::new(Vec::new());
    for Entry { path, mode, owner, content } in entries {
        let mut header = header(*mode, *owner, content.len() as u64);
        builder.append_data(&mut header, relative(path)?, content.as_slice())?;
    }
    builder.into_inner().map(Bytes::from)
}

/// A header without a time, so that equal files make equal archives and an image build finds its cache.
pub(crate) fn header(mode: u32, (uid, gid): (u32, u32), size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Reads the regular files of an archive, with their paths as the archive has them.
pub(crate) fn unpack(archive: &[u8]) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let header = entry.header();
        let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other(format!("id {id} is out of range")));
        let (mode, owner) = (header.mode()?, (id(header.uid()?)?, id(header.gid()?)?));
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        entries.push(Entry { path, mode: mode & 0o7777, owner, content });
    }
    Ok(entries)
}

/// The path as it stands in an archive that is extracted at `/`.
pub(crate) fn relative(path: &str) -> io::Result<&Path> {
    let relative = Path::new(path.trim_start_matches('/'));
    let is_plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if relative.as_os_str().is_empty() || !is_plain {
        let reason = format!("path {path:?} is not usable, expected a file's full path without `..`");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Ok(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry { path: path.to_owned(), mode: 0o640, owner: (101, 70_000), content: b"user app\n".to_vec() }
    }

    #[test]
    fn owner_mode_and_content_survive() {
        let archive = pack(&[entry("/etc/redis/users.acl")]).unwrap();
        assert_eq!(unpack(&archive).unwrap(), [entry("etc/redis/users.acl")]);
    }

    #[test]
    fn a_path_longer_than_a_tar_header_survives() {
        let path = format!("/etc/{}/x.conf", "long".repeat(60));
        let archive = pack(&[entry(&path)]).unwrap();
        assert_eq!(unpack(&archive).unwrap()[0].path, path[1..]);
    }

    #[test]
    fn equal_files_make_equal_archives() {
        assert_eq!(pack(&[entry("/a")]).unwrap(), pack(&[entry("/a")]).unwrap());
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        for path in ["/etc/../../passwd", "", "/", "a/./../b"] {
            assert!(pack(&[entry(path)]).is_err(), "{path}");
        }
    }
}
