//! Direct I/O: whatever a user asks for, the device gets whole blocks.

use std::cell::Cell;
use std::rc::Rc;

use drystone_base::{GuestOffset, Kind, rng::Rng};
use drystone_buf::Buf;
use drystone_core::control::{Plan, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::node::NodeId;
use drystone_core::lane::Lane;
use drystone_core::runtime::yield_now;
use drystone_protocol::file::FileOptions;

use crate::host::{
    Folder, RESIZER, WRITER, attach, descriptors, insert, len, on_both_engines, open, range, read, status,
    write,
};

/// Requests at the same time.
const WRITERS: u8 = 200;

fn direct(path: &std::path::Path) -> FileOptions {
    FileOptions { cache_direct: true, ..FileOptions::new(path) }
}

/// What direct I/O on the file system of temporary files must be aligned to; `None` if it has none.
async fn alignment(task: &mut Task<'_>, folder: &Folder) -> Option<u64> {
    let path = folder.file("probe", &[0; 8192]);
    match insert_probe(task, direct(&path)).await {
        Ok(node) => Some(alignment_of(task, node)),
        Err(error) if error.kind() == Kind::Unsupported => {
            eprintln!("skipped: {}", error.report());
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

async fn insert_probe(task: &mut Task<'_>, options: FileOptions) -> drystone_base::Result<NodeId> {
    crate::host::insert_as(task, "probe", options).await
}

fn alignment_of(task: &mut Task<'_>, node: NodeId) -> u64 {
    u64::from(task.gs().with(|graph| graph.node_handle(node)).unwrap().request_alignment())
}

#[test]
fn requests_of_any_shape_do_what_they_say() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(align) = alignment(task, &folder).await else { return };
        assert!((512..=4096).contains(&align), "{align}");
        let len = 64 << 10;
        let path = folder.file("disk", &vec![7; len]);
        let user = open(task, direct(&path), WRITER).await.unwrap();
        assert_eq!(descriptors(&path), [(true, true)]);
        let mut model = vec![7; len];
        let mut rng = Rng::new(3);
        for round in 0..200_u32 {
            let at = rng.index(len);
            let size = 1 + rng.index((len - at).min(20_000));
            let byte = round.to_le_bytes()[0];
            if rng.one_in(2) {
                model[at..at + size].fill(byte);
                write(task, &user, at as u64, &model[at..at + size]).await.unwrap();
            } else {
                assert_eq!(read(task, &user, at as u64, size).await, model[at..at + size]);
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), model);
    });
}

#[test]
fn a_file_that_ends_within_a_block_is_read_to_its_end_and_grows_by_blocks() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(align) = alignment(task, &folder).await else { return };
        let path = folder.file("disk", &[7; 5000]);
        let node = insert(task, direct(&path)).await.unwrap();
        let len_node = 5120_u64;
        if !len_node.is_multiple_of(align) {
            let error = attach(task, node, WRITER).await.unwrap_err();
            assert!(error.report().contains("'resize'"), "{}", error.report());
        }
        let user = attach(task, node, RESIZER).await.unwrap();
        assert_eq!(len(task, &user).await, len_node);
        assert_eq!(read(task, &user, 4999, 3).await, [7, 0, 0]);
        write(task, &user, 5001, b"x").await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, 5002_u64.next_multiple_of(align));
        assert_eq!(bytes[4998..5003], [7, 7, 0, b'x', 0]);
    });
}

#[test]
fn writers_of_neighbouring_bytes_of_one_block_do_not_undo_each_other() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        if alignment(task, &folder).await.is_none() {
            return;
        }
        let path = folder.file("disk", &[0; 4096]);
        let user = open(task, direct(&path), WRITER).await.unwrap();
        let left = Rc::new(Cell::new(WRITERS));
        for n in 0..WRITERS {
            let (local, user, left) = (task.local_ref().clone(), user.clone(), Rc::clone(&left));
            task.local().spawn(Box::pin(async move {
                let mut lane = Lane::new(local);
                let bytes = Buf::copy_of(&[n; 7]);
                let mut ticket = lane.enter(&user).await;
                ticket
                    .write(GuestOffset::new(u64::from(n) * 7), bytes, WriteFlags::default())
                    .await
                    .0
                    .unwrap();
                left.set(left.get() - 1);
            }));
        }
        while left.get() > 0 {
            yield_now().await;
        }
        let expected: Vec<u8> = (0..WRITERS).flat_map(|n| [n; 7]).collect();
        assert_eq!(read(task, &user, 0, expected.len()).await, expected);
    });
}

#[test]
fn direct_io_begins_and_ends_while_the_disk_is_in_use() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(align) = alignment(task, &folder).await else { return };
        let path = folder.file("disk", &[7; 8192]);
        let node = insert(task, FileOptions::new(&path)).await.unwrap();
        let user = attach(task, node, WRITER).await.unwrap();
        assert_eq!(alignment_of(task, node), 1);
        for (options, wanted) in [(direct(&path), align), (FileOptions::new(&path), 1)] {
            let is_direct = options.cache_direct;
            let mut plan = Plan::new();
            plan.reopen(node, Box::new(options));
            task.apply(plan).await.unwrap();
            assert_eq!(alignment_of(task, node), wanted);
            assert_eq!(descriptors(&path), [(true, is_direct)]);
            write(task, &user, 1, b"abc").await.unwrap();
            assert_eq!(read(task, &user, 0, 5).await, b"\x07abc\x07");
        }
    });
}

#[test]
fn direct_io_on_a_length_that_a_writer_may_not_round_up_is_refused() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[7; 8192]);
        let node = insert(task, FileOptions::new(&path)).await.unwrap();
        let user = attach(task, node, RESIZER).await.unwrap();
        task.enter(&user).await.resize(5000, Default::default()).await.unwrap();
        crate::host::detach(task, &user).await;
        let user = attach(task, node, WRITER).await.unwrap();
        let mut plan = Plan::new();
        plan.reopen(node, Box::new(direct(&path)));
        match task.apply(plan).await {
            Err(error) if error.kind() == Kind::Unsupported => eprintln!("skipped: {}", error.report()),
            result => assert_eq!(result.unwrap_err().option(), Some("cache.direct")),
        }
        assert_eq!(descriptors(&path), [(true, false)]);
        write(task, &user, 4999, b"x").await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 5000);
    });
}

#[test]
fn block_status_speaks_of_whole_blocks() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(align) = alignment(task, &folder).await else { return };
        let path = folder.file("disk", b"");
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        let user = open(task, direct(&path), WRITER).await.unwrap();
        write(task, &user, 512 << 10, &[1]).await.unwrap();
        let mut at = 0;
        while at < 1 << 20 {
            let found = status(task, &user, range(at, (1 << 20) - at)).await;
            at += found.len;
            assert_eq!(at % align, 0);
        }
    });
}
