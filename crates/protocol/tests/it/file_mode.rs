//! Which descriptor a file has, for whom: reading, writing, direct I/O, closing.

use drystone_base::{Kind, Result};
use drystone_core::control::{Plan, Task};
use drystone_core::graph::node::NodeId;
use drystone_protocol::file::{Discard, FileKind, FileOptions, HostFile, Locking};

use crate::host::{
    Folder, READER, RESIZER, WRITER, attach, descriptors, detach, insert, len, on_both_engines, open, read,
    remove, write,
};

const READ_ONLY: (bool, bool) = (false, false);
const WRITABLE: (bool, bool) = (true, false);

async fn reopen(task: &mut Task<'_>, node: NodeId, options: FileOptions) -> Result<()> {
    let mut plan = Plan::new();
    plan.reopen(node, Box::new(options));
    task.apply(plan).await
}

#[test]
fn what_is_written_stays_and_the_last_sector_is_whole() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[1; 1000]);
        let user = open(task, FileOptions::new(&path), WRITER).await.unwrap();
        assert_eq!(len(task, &user).await, 1024);
        assert_eq!(read(task, &user, 999, 3).await, [1, 0, 0]);
        write(task, &user, 1022, b"ab").await.unwrap();
        assert_eq!(write(task, &user, 1023, b"ab").await.unwrap_err().kind(), Kind::OutOfRange);
        task.enter(&user).await.flush().await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[998..1002], &bytes[1022..]), (1024, &[1, 1, 0, 0][..], &b"ab"[..]));
    });
}

#[test]
fn a_file_is_writable_while_somebody_wants_to_write() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let options = FileOptions { auto_read_only: true, ..FileOptions::new(&path) };
        let node = insert(task, options).await.unwrap();
        assert_eq!(descriptors(&path), [READ_ONLY]);
        let reader = attach(task, node, READER).await.unwrap();
        assert_eq!(descriptors(&path), [READ_ONLY]);
        let writer = attach(task, node, WRITER).await.unwrap();
        assert_eq!(descriptors(&path), [WRITABLE]);
        write(task, &writer, 0, b"x").await.unwrap();
        detach(task, &writer).await;
        assert_eq!(descriptors(&path), [READ_ONLY]);
        assert_eq!(read(task, &reader, 0, 1).await, b"x");
        detach(task, &reader).await;
        remove(task, node).await;
        assert_eq!(descriptors(&path), []);
    });
}

#[test]
fn without_auto_read_only_a_file_is_writable_from_the_start_unless_it_is_read_only() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let node = insert(task, FileOptions::new(&path)).await.unwrap();
        assert_eq!(descriptors(&path), [WRITABLE]);
        let mut plan = Plan::new();
        plan.set_read_only(node, true);
        task.apply(plan).await.unwrap();
        assert_eq!(descriptors(&path), [READ_ONLY]);
        assert_eq!(attach(task, node, WRITER).await.unwrap_err().kind(), Kind::ReadOnly);
        let mut plan = Plan::new();
        plan.set_read_only(node, false);
        task.apply(plan).await.unwrap();
        assert_eq!(descriptors(&path), [WRITABLE]);
    });
}

#[test]
fn a_file_that_was_opened_read_only_can_become_writable() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let options = FileOptions { read_only: true, ..FileOptions::new(&path) };
        let node = insert(task, options).await.unwrap();
        assert_eq!(descriptors(&path), [READ_ONLY]);
        let mut plan = Plan::new();
        plan.set_read_only(node, false);
        task.apply(plan).await.unwrap();
        let writer = attach(task, node, WRITER).await.unwrap();
        write(task, &writer, 0, b"x").await.unwrap();
    });
}

#[test]
fn a_file_that_was_replaced_under_its_name_is_reopened_itself() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", b"the file");
        let options = FileOptions { auto_read_only: true, ..FileOptions::new(&path) };
        let node = insert(task, options).await.unwrap();
        std::fs::rename(&path, folder.path("moved")).unwrap();
        folder.file("disk", b"a decoy!");
        let writer = attach(task, node, WRITER).await.unwrap();
        assert_eq!(read(task, &writer, 0, 8).await, b"the file");
        write(task, &writer, 0, b"THE").await.unwrap();
        assert_eq!(std::fs::read(folder.path("moved")).unwrap(), b"THE file");
        assert_eq!(std::fs::read(&path).unwrap(), b"a decoy!");
    });
}

#[test]
fn closing_gives_the_file_up_whoever_still_knows_the_node() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[0; 512]);
        let node = insert(task, FileOptions::new(&path)).await.unwrap();
        let handle = task.gs().with(|graph| graph.node_handle(node)).unwrap();
        remove(task, node).await;
        assert_eq!(descriptors(&path), []);
        assert_eq!(handle.driver_as::<HostFile>().unwrap().path(), path);
    });
}

#[test]
fn options_change_while_the_disk_is_in_use() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[7; 8192]);
        let options = FileOptions::new(&path);
        let node = insert(task, options.clone()).await.unwrap();
        let writer = attach(task, node, WRITER).await.unwrap();
        task.enter(&writer).await.discard(crate::host::range(0, 4096)).await.unwrap();
        assert_eq!(read(task, &writer, 0, 1).await, [7], "discards are ignored");
        reopen(task, node, FileOptions { discard: Discard::Unmap, ..options.clone() }).await.unwrap();
        task.enter(&writer).await.discard(crate::host::range(0, 4096)).await.unwrap();
        assert_eq!(read(task, &writer, 0, 1).await, [0]);
        let no_flush = FileOptions { cache_no_flush: true, ..options.clone() };
        reopen(task, node, no_flush).await.unwrap();
        task.enter(&writer).await.flush().await.unwrap();
        for fixed in [
            FileOptions { path: folder.path("other"), ..options.clone() },
            FileOptions { locking: Locking::Off, ..options.clone() },
        ] {
            let error = reopen(task, node, fixed).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput);
            assert!(error.report().ends_with("it cannot be changed"), "{}", error.report());
        }
        reopen(task, node, FileOptions { kind: FileKind::File, ..options.clone() }).await.unwrap();
        let other = FileOptions { kind: FileKind::HostDevice, ..options };
        assert_eq!(reopen(task, node, other).await.unwrap_err().option(), Some("driver"));
    });
}

#[test]
fn opening_says_what_is_wrong() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let error = insert(task, FileOptions::new(folder.path("none"))).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::NotFound, Some(&*folder.path("none"))));
        let regular = folder.file("disk", b"");
        let device = FileOptions { kind: FileKind::HostDevice, ..FileOptions::new(&regular) };
        let error = insert(task, device).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::InvalidInput, Some(&*regular)));
        let native = FileOptions { aio: drystone_protocol::file::Aio::Native, ..FileOptions::new(&regular) };
        assert_eq!(insert(task, native).await.unwrap_err().option(), Some("aio"));
        assert_eq!(
            insert(task, FileOptions::new(folder.path(""))).await.unwrap_err().kind(),
            Kind::InvalidInput
        );
    });
}

#[test]
fn a_writer_past_the_end_makes_the_file_longer() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", b"");
        let user = open(task, FileOptions::new(&path), RESIZER).await.unwrap();
        write(task, &user, 4096, b"abc").await.unwrap();
        assert_eq!(len(task, &user).await, 4099);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4099);
        assert_eq!(read(task, &user, 4095, 4).await, b"\0abc");
    });
}
