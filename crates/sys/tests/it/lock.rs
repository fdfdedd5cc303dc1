//! Image locks: the bytes, and how they meet those of the installed C tools.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use drystone_base::{Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Disk, DiskOp};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::runtime::LocalRef;
use drystone_sys::{File, ImageLock, Locking, OpenOptions};

use crate::common::{Folder, WRITABLE, here_on_each_engine, no_other_forks};

const READ: Perm = Perm::CONSISTENT_READ;
const WRITE: Perm = Perm::WRITE;
const RESIZE: Perm = Perm::RESIZE;

/// What the driver of a writable qcow2 image wants of its file.
const FORMAT: Grant = Grant { perm: READ.with(WRITE).with(RESIZE), shared: READ.with(Perm::WRITE_UNCHANGED) };
/// A reader that bears with everybody.
const READER: Grant = Grant { perm: READ, shared: Perm::ALL };

/// The locked bytes of the file, whoever has locked them.
fn locked(path: &Path) -> Vec<u64> {
    // The table is no snapshot: a line can be missing while others come and go. Two equal answers in a row are one.
    let mut before = listed(path);
    loop {
        let now = listed(path);
        if now == before {
            return now;
        }
        before = now;
    }
}

fn listed(path: &Path) -> Vec<u64> {
    let inode = format!(":{}", std::fs::metadata(path).unwrap().ino());
    let table = std::fs::read_to_string("/proc/locks").unwrap();
    let mut bytes: Vec<u64> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words[1] == "OFDLCK" && words[5].ends_with(&inode))
        .flat_map(|words| words[6].parse::<u64>().unwrap()..=words[7].parse::<u64>().unwrap())
        .collect();
    bytes.sort_unstable();
    bytes
}

async fn open(local: &LocalRef, path: &Path) -> File {
    File::open(&**local, path, WRITABLE).await.unwrap()
}

/// An open file that holds locks.
async fn lock(local: &LocalRef, path: &Path, grant: Grant) -> Result<ImageLock> {
    let lock = ImageLock::new(&open(local, path).await, Locking::Auto);
    lock.prepare(&**local, grant).await?.commit();
    Ok(lock)
}

#[test]
fn the_bytes_are_those_of_the_permissions_and_go_with_the_file() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"");
        async move {
            let first = lock(&local, &path, FORMAT).await.unwrap();
            assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
            let second = lock(&local, &path, READER).await.unwrap();
            assert_eq!(locked(&path), [100, 100, 101, 103, 201, 203]);
            drop(first);
            assert_eq!(locked(&path), [100]);
            drop(second);
            assert!(locked(&path).is_empty());
        }
    });
}

#[test]
fn whoever_is_in_the_way_is_named_and_the_loser_keeps_no_lock() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"");
        async move {
            let holder = lock(&local, &path, FORMAT).await.unwrap();
            let before = locked(&path);
            let error = lock(&local, &path, FORMAT).await.unwrap_err();
            assert_eq!((error.kind(), error.path()), (Kind::InUse, Some(&*path)));
            assert!(error.report().contains("\"write\" lock: this process"), "{}", error.report());
            let exclusive = Grant { perm: READ, shared: READ };
            let error = lock(&local, &path, exclusive).await.unwrap_err();
            assert!(error.report().contains("excludes \"write\""), "{}", error.report());
            assert_eq!(locked(&path), before);
            drop(holder);
        }
    });
}

#[test]
fn a_change_holds_both_sets_until_it_is_committed_and_the_old_one_if_it_is_not() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"");
        async move {
            let lock = lock(&local, &path, READER).await.unwrap();
            let writer = Grant { perm: WRITE, shared: Perm::ALL.without(RESIZE) };
            let prepared = lock.prepare(&*local, writer).await.unwrap();
            assert_eq!(locked(&path), [100, 101, 203]);
            drop(prepared);
            assert_eq!(locked(&path), [100]);
            lock.prepare(&*local, writer).await.unwrap().commit();
            assert_eq!(locked(&path), [101, 203]);
        }
    });
}

#[test]
fn what_one_change_wants_another_does_not_unlock() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"");
        async move {
            let lock = lock(&local, &path, FORMAT).await.unwrap();
            let reader = lock.prepare(&*local, READER).await.unwrap();
            let writer = Grant { perm: WRITE, shared: Perm::ALL.without(Perm::WRITE_UNCHANGED) };
            let other = lock.prepare(&*local, writer).await.unwrap();
            assert_eq!(locked(&path), [100, 101, 103, 201, 202, 203]);
            reader.commit();
            assert_eq!(locked(&path), [100, 101, 202]);
            let given_up = lock.prepare(&*local, FORMAT).await.unwrap();
            other.commit();
            assert_eq!(locked(&path), [100, 101, 103, 201, 202, 203]);
            drop(given_up);
            assert_eq!(locked(&path), [101, 202]);
        }
    });
}

#[test]
fn a_reopened_file_has_the_locks_of_other_changes_too() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"");
        async move {
            let file = File::open(&*local, &path, OpenOptions::default()).await.unwrap();
            let lock = ImageLock::new(&file, Locking::Auto);
            let other = lock.prepare(&*local, Grant { perm: WRITE, shared: Perm::ALL }).await.unwrap();
            let prepared = lock.prepare(&*local, READER).await.unwrap();
            let reopened = file.reopen(&*local, WRITABLE).await.unwrap();
            prepared.take_over(&*local, &reopened).await.unwrap();
            prepared.commit_with(reopened);
            assert_eq!(locked(&path), [100, 101]);
            other.commit();
            assert_eq!(locked(&path), [101]);
        }
    });
}

#[test]
fn a_closed_file_has_no_locks_whoever_still_knows_it() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"old");
        async move {
            let file = open(&local, &path).await;
            let lock = ImageLock::new(&file, Locking::Auto);
            lock.prepare(&*local, FORMAT).await.unwrap().commit();
            lock.give_up();
            assert!(locked(&path).is_empty());
            file.close(&*local).await;
            let read = DiskOp::Read { at: 0, buf: Buf::zeroed(3) };
            assert_eq!(file.submit(&local, read).await.result.unwrap_err().errno(), 9);
        }
    });
}

#[test]
fn a_set_that_shrinks_is_not_asked_about() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"");
        async move {
            let lock = lock(&local, &path, FORMAT).await.unwrap();
            // Somebody who does not ask, such as a tool told to ignore locks.
            let rude = open(&local, &path).await;
            let rude = ImageLock::new(&rude, Locking::Off);
            rude.prepare(&*local, FORMAT).await.unwrap().commit();
            assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
            lock.prepare(&*local, READER).await.unwrap().commit();
            lock.prepare(&*local, Grant::PASSIVE).await.unwrap().commit();
            assert!(locked(&path).is_empty());
        }
    });
}

#[test]
fn a_reopened_file_has_the_new_locks_before_it_loses_the_old_ones() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"");
        async move {
            let file = File::open(&*local, &path, OpenOptions::default()).await.unwrap();
            let lock = ImageLock::new(&file, Locking::Auto);
            lock.prepare(&*local, READER).await.unwrap().commit();
            let prepared = lock.prepare(&*local, FORMAT).await.unwrap();
            let reopened = file.reopen(&*local, WRITABLE).await.unwrap();
            prepared.take_over(&*local, &reopened).await.unwrap();
            prepared.commit_with(reopened);
            assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
            assert_eq!(self::lock(&local, &path, FORMAT).await.err().unwrap().kind(), Kind::InUse);
            lock.prepare(&*local, READER).await.unwrap().commit();
            assert_eq!(locked(&path), [100]);
        }
    });
}

#[test]
fn no_lock_is_taken_where_locking_is_off() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"");
        async move {
            let file = open(&local, &path).await;
            let lock = ImageLock::new(&file, Locking::Off);
            assert!(!lock.is_fragile());
            lock.prepare(&*local, FORMAT).await.unwrap().commit();
            assert!(locked(&path).is_empty());
        }
    });
}

/// `qemu-io` with an image open.
struct QemuIo(Child);

impl QemuIo {
    /// `None` without the tool.
    fn hold(path: &Path, options: &[&str]) -> Option<Self> {
        let mut child = Command::new("qemu-io")
            .args(options)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .inspect_err(|_| eprintln!("skipped: qemu-io is not installed"))
            .ok()?;
        // An answer means that the image is open.
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "qemu-io did not open the image");
        Some(Self(child))
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn tool(name: &str, args: &[&str], path: &Path) -> Output {
    Command::new(name).args(args).arg(path).output().unwrap()
}

fn image(folder: &Folder) -> Option<std::path::PathBuf> {
    let path = folder.path("disk.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M").status();
    match made {
        Ok(status) => assert!(status.success()),
        Err(_) => {
            eprintln!("skipped: qemu-img is not installed");
            return None;
        }
    }
    Some(path)
}

#[test]
fn an_image_that_a_c_tool_writes_is_refused_and_the_tool_named() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    let Some(path) = image(&folder) else { return };
    here_on_each_engine(|local| {
        let path = path.clone();
        async move {
            let holder = QemuIo::hold(&path, &[]).unwrap();
            assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
            let error = lock(&local, &path, FORMAT).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InUse);
            let report = error.report();
            assert!(report.contains(&format!("process {} (qemu-io)", holder.0.id())), "{report}");
            let wary = Grant { perm: READ, shared: FORMAT.shared };
            assert_eq!(lock(&local, &path, wary).await.unwrap_err().kind(), Kind::InUse);
            lock(&local, &path, READER).await.unwrap();
            drop(holder);
            lock(&local, &path, FORMAT).await.unwrap();
        }
    });
}

#[test]
fn an_image_that_a_c_tool_reads_is_shared_with_readers() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    let Some(path) = image(&folder) else { return };
    here_on_each_engine(|local| {
        let path = path.clone();
        async move {
            let _holder = QemuIo::hold(&path, &["-r"]).unwrap();
            let theirs = locked(&path);
            let wary = Grant { perm: READ, shared: FORMAT.shared };
            let ours = lock(&local, &path, wary).await.unwrap();
            assert_eq!(locked(&path).len(), 2 * theirs.len());
            assert!(lock(&local, &path, FORMAT).await.is_err());
            drop(ours);
            assert_eq!(locked(&path), theirs);
        }
    });
}

#[test]
fn the_c_tools_refuse_an_image_that_we_write_unless_told_to_share() {
    let _alone = no_other_forks();
    let folder = Folder::new();
    let Some(path) = image(&folder) else { return };
    here_on_each_engine(|local| {
        let path = path.clone();
        async move {
            let held = lock(&local, &path, FORMAT).await.unwrap();
            let writes = tool("qemu-io", &["-c", "length"], &path);
            let text = String::from_utf8_lossy(&writes.stderr).into_owned();
            assert!(text.contains("Failed to get \"write\" lock"), "{text}");
            let reads = tool("qemu-img", &["info"], &path);
            let text = String::from_utf8_lossy(&reads.stderr).into_owned();
            assert!(text.contains("Failed to get shared \"write\" lock"), "{text}");
            assert!(tool("qemu-img", &["info", "-U"], &path).status.success());
            drop(held);
            assert!(tool("qemu-io", &["-c", "write 0 512"], &path).status.success());
        }
    });
}
