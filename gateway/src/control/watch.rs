//! Notices that the files of a configuration have changed, by looking at them twice a second.
//!
//! Looking beats being told: a notification is about a folder or an inode, and what is swapped may be a symbolic link three
//! folders up (Kubernetes), a mount, or a file on another machine. A few `stat` calls see all of these, and a file that is
//! being written is simply not still yet: a change counts once two looks in a row have found the same.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Everything a configuration was read from.
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    /// What they were when the last attempt to load them began.
    tried: Looks,
    /// What they were when they were last looked at.
    seen: Looks,
}

/// What is at each path; `None`: nothing that can be read.
type Looks = Vec<Option<Look>>;

/// A file that is the same in all of these was not touched: a change of content moves the times, a swap the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watch {
    /// Over these files and folders, as they are now.
    pub(super) fn over(paths: impl IntoIterator<Item = PathBuf>) -> Watch {
        let mut paths: Vec<PathBuf> = paths.into_iter().collect();
        paths.sort();
        paths.dedup();
        let seen = look(&paths);
        Watch { paths, tried: seen.clone(), seen }
    }

    /// `true`: something is different from the last attempt, and is still. The attempt is taken to begin now.
    pub(super) fn changed(&mut self) -> bool {
        let now = look(&self.paths);
        let still = now == self.seen;
        self.seen = now;
        let changed = still && self.seen != self.tried;
        if changed {
            self.tried.clone_from(&self.seen);
        }
        changed
    }

    /// An attempt begins now.
    pub(super) fn tried_now(&mut self) {
        self.seen = look(&self.paths);
        self.tried.clone_from(&self.seen);
    }

    /// Goes on where `before` is, whose attempt it was that found these paths: what changed while they were read is a change.
    pub(super) fn after(mut self, before: &Watch) -> Watch {
        for (path, tried) in self.paths.iter().zip(&mut self.tried) {
            if let Ok(at) = before.paths.binary_search(path) {
                *tried = before.tried[at];
            }
        }
        self
    }

    /// What is looked at.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.paths.clone()
    }

    /// More to look at: files of an attempt that failed.
    pub(super) fn also<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        for path in paths {
            if let Err(at) = self.paths.binary_search_by(|known| known.as_path().cmp(path)) {
                let found = look(&[path.to_owned()]);
                self.paths.insert(at, path.to_owned());
                self.tried.insert(at, found[0]);
                self.seen.insert(at, found[0]);
            }
        }
    }
}

fn look(paths: &[PathBuf]) -> Looks {
    paths.iter().map(|path| Look::at(path)).collect()
}

impl Look {
    /// Links are followed: what counts is what would be read.
    fn at(path: &Path) -> Option<Look> {
        let found = fs::metadata(path).ok()?;
        Some(Look {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_change_counts_once_it_is_still() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.toml");
        fs::write(&file, "1").expect("write");
        let mut watch = Watch::over([file.clone()]);
        assert!(!watch.changed());
        fs::write(&file, "12").expect("write");
        assert!(!watch.changed(), "it may still be written");
        fs::write(&file, "123").expect("write");
        assert!(!watch.changed(), "it was");
        assert!(watch.changed());
        assert!(!watch.changed(), "once");
        fs::remove_file(&file).expect("remove");
        assert!(!watch.changed());
        assert!(watch.changed(), "a file that vanishes is a change");
    }

    #[test]
    fn what_changed_while_it_was_read_is_a_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.toml");
        fs::write(&file, "1").expect("write");
        let mut before = Watch::over([file.clone()]);
        before.tried_now();
        fs::write(&file, "12").expect("write");
        let mut watch = Watch::over([file]).after(&before);
        assert!(watch.changed());
        assert!(!watch.changed(), "once");
    }

    #[test]
    fn a_link_swapped_above_the_file_is_a_change() {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in [("one", "same"), ("two", "same")] {
            fs::create_dir(dir.path().join(name)).expect("a folder");
            fs::write(dir.path().join(name).join("a.toml"), text).expect("write");
        }
        let link = dir.path().join("data");
        symlink("one", &link).expect("link");
        let mut watch = Watch::over([link.join("a.toml")]);
        let new = dir.path().join("data.new");
        symlink("two", &new).expect("link");
        fs::rename(&new, &link).expect("swap");
        assert!(!watch.changed());
        assert!(watch.changed());
    }

    #[test]
    fn what_was_tried_is_no_change_and_a_new_file_in_a_folder_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut watch = Watch::over([dir.path().to_owned()]);
        let file = dir.path().join("b.toml");
        fs::write(&file, "1").expect("write");
        watch.tried_now();
        watch.also([file.as_path()].into_iter());
        assert!(!watch.changed() && !watch.changed());
        fs::write(&file, "22").expect("write");
        assert!(!watch.changed());
        assert!(watch.changed());
    }
}
