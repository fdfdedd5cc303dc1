//! Image locks: the bytes follow the users, and the C tools take part.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use drystone_base::Kind;
use drystone_core::control::{NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_protocol::file::{FileOptions, HostFile, Locking};

use crate::host::{
    FORMAT, Folder, READER, RESIZER, WRITER, attach, detach, insert, insert_as, locked, on_both_engines, open,
};

#[test]
fn the_bytes_follow_the_users_and_go_with_the_node() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let node = insert(task, FileOptions::new(&path)).await.unwrap();
        assert_eq!(locked(&path), []);
        let reader = attach(task, node, READER).await.unwrap();
        assert_eq!(locked(&path), [100]);
        let format = attach(task, node, FORMAT).await.unwrap();
        assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
        detach(task, &reader).await;
        assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
        detach(task, &format).await;
        assert_eq!(locked(&path), []);
        attach(task, node, WRITER).await.unwrap();
        assert_eq!(locked(&path), [100, 101]);
    });
}

#[test]
fn a_refused_change_leaves_the_bytes_as_they_were() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let ours = insert(task, FileOptions::new(&path)).await.unwrap();
        let other = insert_as(task, "other", FileOptions::new(&path)).await.unwrap();
        attach(task, other, READER).await.unwrap();
        attach(task, other, FORMAT).await.unwrap();
        attach(task, ours, READER).await.unwrap();
        let before = locked(&path);
        let error = attach(task, ours, RESIZER).await.unwrap_err();
        assert_eq!((error.kind(), error.node(), error.path()), (Kind::InUse, Some("disk"), Some(&*path)));
        assert!(error.report().contains("\"write\" lock: this process"), "{}", error.report());
        assert_eq!(locked(&path), before);
    });
}

#[test]
fn a_plan_that_fails_elsewhere_leaves_the_bytes_as_they_were() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let options = FileOptions { auto_read_only: true, ..FileOptions::new(&path) };
        let node = insert(task, options).await.unwrap();
        let other = insert_as(task, "other", FileOptions::new(folder.file("b", b""))).await.unwrap();
        let mut plan = Plan::new();
        let spec = RootSpec { name: "user".to_owned(), grant: FORMAT, stays: false };
        plan.attach_root::<drystone_core::backend::ReadWrite>(task.gs(), node, spec);
        let fixed = FileOptions { locking: Locking::Off, ..FileOptions::new(folder.path("b")) };
        plan.reopen(other, Box::new(fixed));
        assert!(task.apply(plan).await.is_err());
        assert_eq!(locked(&path), []);
        assert_eq!(crate::host::descriptors(&path), [(false, false)]);
    });
}

#[test]
fn an_opening_is_locked_before_it_is_in_the_graph_and_not_after_it_was_given_up() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let (driver, facts) = HostFile::open(task.local(), FileOptions::new(&path)).await.unwrap();
        let mut opening = Opening::new(task);
        let new = NewNode {
            name: None,
            driver: Box::new(driver),
            facts,
            children: Vec::new(),
            owned: false,
            force_share: false,
        };
        let node = opening.add(new).unwrap();
        opening.claim(node, FORMAT).await.unwrap();
        assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
        opening.close().await;
        assert_eq!(locked(&path), []);
    });
}

#[test]
fn nothing_is_locked_with_locking_off() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let options = FileOptions { locking: Locking::Off, ..FileOptions::new(&path) };
        open(task, options, FORMAT).await.unwrap();
        assert_eq!(locked(&path), []);
    });
}

#[test]
fn two_changes_of_one_file_at_the_same_time_both_happen() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let options = FileOptions { auto_read_only: true, ..FileOptions::new(&path) };
        let node = insert(task, options).await.unwrap();
        let prepare = |task: &mut Task<'_>, grant| {
            let mut plan = Plan::new();
            let spec = RootSpec { name: "user".to_owned(), grant, stays: false };
            let backend = plan.attach_root::<drystone_core::backend::ReadWrite>(task.gs(), node, spec);
            (plan.check(task.gs()).ok().unwrap(), backend)
        };
        let (first, reader) = prepare(task, READER);
        let (second, writer) = prepare(task, FORMAT);
        let first = task.stage(first).await.unwrap();
        let second = task.stage(second).await.unwrap();
        assert_eq!(
            locked(&path),
            [100, 100, 101, 101, 103, 103, 201, 201, 203, 203],
            "old and new descriptor"
        );
        let second = task.admit(second).await.unwrap().settle().await.unwrap();
        second.commit().finish().await;
        let first = task.admit(first).await.unwrap().settle().await.unwrap();
        first.commit().finish().await;
        assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
        crate::host::write(task, &writer, 0, b"x").await.unwrap();
        assert_eq!(crate::host::read(task, &reader, 0, 1).await, b"x");
        detach(task, &writer).await;
        assert_eq!(locked(&path), [100]);
    });
}

/// `qemu-io` with an image open.
struct QemuIo(Child);

impl QemuIo {
    /// `None` without the tool.
    fn hold(path: &Path, options: &[&str]) -> Option<Self> {
        let mut child = Command::new("qemu-io")
            .args(["-f", "raw"])
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

fn tool(name: &str, args: &[&str], path: &Path) -> Option<Output> {
    let output = Command::new(name).args(args).arg(path).output();
    output.inspect_err(|_| eprintln!("skipped: {name} is not installed")).ok()
}

#[test]
fn a_file_that_a_c_tool_writes_is_refused_to_an_exclusive_user_who_learns_its_pid() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 4096]);
        let node = insert(task, FileOptions::new(&path)).await.unwrap();
        let Some(holder) = QemuIo::hold(&path, &[]) else { return };
        let error = attach(task, node, FORMAT).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::InUse, Some(&*path)));
        let pid = format!("process {} (qemu-io)", holder.0.id());
        assert!(error.report().contains(&pid), "{}", error.report());
        assert!(error.report().contains("\"write\""), "{}", error.report());
        let tolerant = attach(task, node, WRITER).await.unwrap();
        detach(task, &tolerant).await;
        drop(holder);
        attach(task, node, FORMAT).await.unwrap();
    });
}

#[test]
fn the_c_tools_are_refused_a_file_that_an_exclusive_user_of_ours_writes() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 4096]);
        let user = open(task, FileOptions::new(&path), FORMAT).await.unwrap();
        let write = ["-f", "raw", "-c", "write 0 512"];
        let Some(refused) = tool("qemu-io", &write, &path) else { return };
        assert!(!refused.status.success());
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("Failed to get \"write\" lock"), "{text}");
        let create = tool("qemu-img", &["create", "-q", "-f", "raw", "-o", "size=512"], &path).unwrap();
        assert!(!create.status.success());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
        detach(task, &user).await;
        assert!(tool("qemu-io", &write, &path).unwrap().status.success());
    });
}

#[test]
fn a_forced_reader_beside_an_exclusive_writer() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 4096]);
        let writer = insert(task, FileOptions::new(&path)).await.unwrap();
        attach(task, writer, FORMAT).await.unwrap();
        let options = FileOptions { read_only: true, ..FileOptions::new(&path) };
        let reader = insert_as(task, "reader", options).await.unwrap();
        // What a format that is open for reading wants of its file, and what is left of it with force-share.
        let shy = Grant { perm: Perm::CONSISTENT_READ, shared: READER.shared.without(Perm::WRITE) };
        assert_eq!(attach(task, reader, shy).await.unwrap_err().kind(), Kind::InUse);
        attach(task, reader, READER).await.unwrap();
    });
}
