//! Making files for new images.

use std::process::Command;

use drystone_base::{Kind, Result};
use drystone_core::control::Task;
use drystone_core::disk::Preallocation;
use drystone_protocol::file::create::{Contents, Existing, create};
use drystone_protocol::file::{FileOptions, Locking};

use crate::host::{FORMAT, Folder, Setup, locked, on_both_engines, open, space};

fn contents(len_bytes: u64) -> Contents {
    let pieces = vec![(4096, b"table".to_vec()), (0, b"header".to_vec())];
    Contents { len_bytes, pieces, ..Contents::default() }
}

async fn make(task: &Task<'_>, path: &std::path::Path, contents: Contents) -> Result<()> {
    create(task.local_ref(), path, Existing::Replace, Locking::Auto, contents).await
}

#[test]
fn a_new_file_holds_the_pieces_and_zeroes_and_is_not_locked() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.path("new");
        make(task, &path, contents(1 << 20)).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            (bytes.len(), &bytes[..8], &bytes[4096..4102]),
            (1 << 20, &b"header\0\0"[..], &b"table\0"[..])
        );
        assert!(bytes[4101..].iter().all(|byte| *byte == 0));
        assert_eq!(locked(&path), []);
        assert!(space(&path) < 1 << 16);
    });
}

#[test]
fn an_old_file_is_emptied_first() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("old", &[7; 100_000]);
        make(task, &path, contents(8192)).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), bytes[6], bytes[8191]), (8192, 0, 0));
    });
}

#[test]
fn an_old_file_or_link_is_kept_if_wanted() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let (old, link) = (folder.file("old", b"precious"), folder.path("link"));
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [&old, &link] {
            let made = create(task.local_ref(), path, Existing::Keep, Locking::Auto, contents(8192)).await;
            assert_eq!(made.unwrap_err().kind(), Kind::AlreadyExists);
        }
        assert_eq!(std::fs::read(&old).unwrap(), b"precious");
        assert!(!folder.path("nowhere").exists());
        let new = folder.path("new");
        create(task.local_ref(), &new, Existing::Keep, Locking::Auto, contents(8192)).await.unwrap();
        assert_eq!(std::fs::metadata(&new).unwrap().len(), 8192);
    });
}

#[test]
fn space_is_reserved_if_wanted() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        for (name, preallocation) in [("a", Preallocation::Falloc), ("b", Preallocation::Full)] {
            let path = folder.path(name);
            let contents = Contents { len_bytes: 1 << 20, preallocation, ..Contents::default() };
            make(task, &path, contents).await.unwrap();
            assert!(space(&path) >= 1 << 20);
        }
    });
}

#[test]
fn an_image_that_is_in_use_is_not_touched() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[7; 4096]);
        open(task, FileOptions::new(&path), FORMAT).await.unwrap();
        let error = make(task, &path, contents(8192)).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::InUse, Some(&*path)));
        assert_eq!(std::fs::read(&path).unwrap(), [7; 4096]);
        assert_eq!(locked(&path), [100, 101, 103, 201, 203]);
    });
}

#[test]
fn what_could_not_be_made_is_removed_but_not_what_was_there() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(small) = Setup::small_file_system(folder.path("small"), 1 << 20) else { return };
        let full = Contents { len_bytes: 4 << 20, preallocation: Preallocation::Full, ..Contents::default() };
        let path = small.path.join("new");
        let error = make(task, &path, full.clone()).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::NoSpace, Some(&*path)));
        assert!(!path.exists());
        std::fs::write(&path, b"old").unwrap();
        assert_eq!(make(task, &path, full).await.unwrap_err().kind(), Kind::NoSpace);
        assert!(path.exists());
    });
}

#[test]
fn a_link_that_leads_nowhere_makes_the_file_that_it_names() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let link = folder.path("link");
        std::os::unix::fs::symlink("target", &link).unwrap();
        make(task, &link, contents(8192)).await.unwrap();
        assert_eq!(std::fs::read(folder.path("target")).unwrap()[..6], *b"header");
        let error = make(task, &folder.path("no/such/folder"), contents(1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    });
}

#[test]
fn a_device_keeps_its_length_and_loses_what_it_held() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(device) = Setup::block_device(&folder.file("bytes", &[7; 1 << 20])) else { return };
        let read = || std::fs::read(&device.path).unwrap();
        make(task, &device.path, contents(8192)).await.unwrap();
        let bytes = read();
        assert_eq!(
            (bytes.len(), &bytes[..7], &bytes[4096..4102]),
            (1 << 20, &b"header\0"[..], &b"table\0"[..])
        );
        assert_eq!((bytes[8191], bytes[8192]), (0, 7), "the rest of the device is not part of the image");
        let raw = Contents { len_bytes: 1 << 20, ..Contents::default() };
        make(task, &device.path, raw).await.unwrap();
        let bytes = read();
        assert_eq!((bytes[0], bytes[4096], bytes[8192]), (0, b't', 7), "only the start is cleared");
        let error = make(task, &device.path, contents(2 << 20)).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::NoSpace, Some(&*device.path)));
    });
}

#[test]
fn the_c_tools_lock_creation_too() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let path = folder.file("disk", &[7; 4096]);
        open(task, FileOptions::new(&path), FORMAT).await.unwrap();
        let create =
            Command::new("qemu-img").args(["create", "-q", "-f", "raw"]).arg(&path).arg("8192").output();
        let Ok(output) = create else { return eprintln!("skipped: qemu-img is not installed") };
        assert!(!output.status.success());
        assert_eq!(std::fs::read(&path).unwrap(), [7; 4096]);
    });
}
