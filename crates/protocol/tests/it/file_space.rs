//! Space: holes, zeroes, preallocation, full file systems, and what block status says of it.

use drystone_base::Kind;
use drystone_core::disk::Preallocation;
use drystone_protocol::file::{Discard, FileOptions};

use crate::host::{
    Folder, RESIZER, Setup, WRITER, len, on_both_engines, open, range, read, space, status, write, zero,
};

const MIB: u64 = 1 << 20;

fn unmapping(path: &std::path::Path) -> FileOptions {
    FileOptions { discard: Discard::Unmap, ..FileOptions::new(path) }
}

#[test]
fn discards_and_zeroes_that_may_unmap_give_space_back_if_the_user_wants_that() {
    on_both_engines(async |task| {
        for options in [unmapping, |path: &std::path::Path| FileOptions::new(path)] {
            let folder = Folder::new();
            let path = folder.file("disk", &vec![7; 4 << 20]);
            let options = options(&path);
            let unmaps = options.discard == Discard::Unmap;
            let node = crate::host::insert_as(task, "one", options).await.unwrap();
            let user = crate::host::attach(task, node, WRITER).await.unwrap();
            task.enter(&user).await.discard(range(0, MIB)).await.unwrap();
            zero(task, &user, range(MIB, MIB), true).await.unwrap();
            zero(task, &user, range(2 * MIB, MIB), false).await.unwrap();
            assert_eq!(read(task, &user, 0, 1).await, [if unmaps { 0 } else { 7 }]);
            assert_eq!(read(task, &user, MIB, 2 << 20).await, vec![0; 2 << 20]);
            assert_eq!(space(&path), if unmaps { 2 * MIB } else { 4 * MIB });
            crate::host::detach(task, &user).await;
            crate::host::remove(task, node).await;
        }
    });
}

#[test]
fn block_status_tells_data_from_holes_and_keeps_up_with_changes() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &vec![7; 2 << 20]);
        let user = open(task, unmapping(&path), RESIZER).await.unwrap();
        let whole = range(0, 2 * MIB);
        let found = status(task, &user, whole).await;
        assert_eq!((found.len, found.data, found.offset), (2 * MIB, true, Some(0)));
        task.enter(&user).await.discard(range(MIB, MIB)).await.unwrap();
        let found = status(task, &user, whole).await;
        assert_eq!((found.len, found.data), (MIB, true));
        let found = status(task, &user, range(MIB + 7, MIB - 7)).await;
        assert_eq!((found.len, found.zero, found.data, found.allocated), (MIB - 7, true, false, true));
        write(task, &user, MIB + 4096, b"x").await.unwrap();
        let found = status(task, &user, range(MIB, MIB)).await;
        assert_eq!((found.len, found.zero), (4096, true));
        assert!(status(task, &user, range(MIB + 4096, 1)).await.data);
        task.enter(&user).await.resize(MIB, Preallocation::Off).await.unwrap();
        task.enter(&user).await.resize(2 * MIB, Preallocation::Off).await.unwrap();
        assert!(status(task, &user, range(MIB, MIB)).await.zero);
    });
}

#[test]
fn another_process_that_fills_a_hole_is_seen() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", b"");
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(MIB).unwrap();
        let user = open(task, FileOptions::new(&path), WRITER).await.unwrap();
        assert!(status(task, &user, range(0, MIB)).await.zero);
        std::os::unix::fs::FileExt::write_at(&file, b"data", 0).unwrap();
        assert!(status(task, &user, range(0, MIB)).await.data);
    });
}

#[test]
fn a_scan_of_many_stretches_finds_each() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", b"");
        let user = open(task, FileOptions::new(&path), RESIZER).await.unwrap();
        task.enter(&user).await.resize(256 * MIB, Preallocation::Off).await.unwrap();
        for n in 0..64 {
            write(task, &user, n * 4 * MIB, &vec![1; 2 << 20]).await.unwrap();
        }
        // Cluster by cluster, as a format asks.
        let mut data = 0;
        for n in 0..4096 {
            let found = status(task, &user, range(n * 65536, 65536)).await;
            assert_eq!(found.len, 65536, "at {n}");
            data += u64::from(found.data);
        }
        assert_eq!(data, 2048);
    });
}

#[test]
fn space_is_reserved_as_the_user_wants() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", b"");
        let user = open(task, FileOptions::new(&path), RESIZER).await.unwrap();
        task.enter(&user).await.resize(MIB, Preallocation::Off).await.unwrap();
        let start = space(&path);
        assert!((1..=64 << 10).contains(&start), "the first block: {start}");
        task.enter(&user).await.resize(2 * MIB, Preallocation::Falloc).await.unwrap();
        assert_eq!(space(&path), start + MIB);
        task.enter(&user).await.resize(3 * MIB, Preallocation::Full).await.unwrap();
        assert_eq!((space(&path), len(task, &user).await), (start + 2 * MIB, 3 * MIB));
        assert_eq!(read(task, &user, 0, 3 << 20).await, vec![0; 3 << 20]);
        let error = task.enter(&user).await.resize(4 * MIB, Preallocation::Metadata).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput);
    });
}

#[test]
fn a_full_file_system_says_so_and_the_request_works_when_there_is_room() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(small) = Setup::small_file_system(folder.path("small"), MIB) else { return };
        let path = small.path.join("disk");
        std::fs::write(&path, b"").unwrap();
        let filler = small.path.join("filler");
        std::fs::write(&filler, vec![1; 512 << 10]).unwrap();
        let user = open(task, unmapping(&path), RESIZER).await.unwrap();
        task.enter(&user).await.resize(4 * MIB, Preallocation::Off).await.unwrap();
        let half = vec![7; 384 << 10];
        write(task, &user, 0, &half).await.unwrap();
        let error = write(task, &user, MIB, &half).await.unwrap_err();
        assert_eq!((error.kind(), error.errno(), error.path()), (Kind::NoSpace, 28, Some(&*path)));
        assert_eq!(read(task, &user, 0, half.len()).await, half, "what was written before is still there");
        let error = task.enter(&user).await.resize(5 * MIB, Preallocation::Falloc).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert_eq!(len(task, &user).await, 4 * MIB);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * MIB);
        std::fs::remove_file(&filler).unwrap();
        write(task, &user, MIB, &half).await.unwrap();
        task.enter(&user).await.flush().await.unwrap();
        assert_eq!(read(task, &user, MIB, half.len()).await, half);
        let node = task.gs().find("disk").unwrap();
        crate::host::detach(task, &user).await;
        crate::host::remove(task, node).await;
    });
}
