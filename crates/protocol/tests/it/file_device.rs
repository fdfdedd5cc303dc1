//! Block devices.

use drystone_base::Kind;
use drystone_protocol::file::{Discard, FileKind, FileOptions};

use crate::host::{
    Folder, RESIZER, Setup, WRITER, attach, insert, len, on_both_engines, open, range, read, status, write,
    zero,
};

#[test]
fn a_block_device_is_a_disk_of_its_own_length() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(device) = Setup::block_device(&folder.file("bytes", &[7; 1 << 20])) else { return };
        let options = FileOptions { discard: Discard::Unmap, ..FileOptions::new(&device.path) };
        let node = insert(task, options).await.unwrap();
        let info = task.gs().with(|graph| graph.node(node)).unwrap();
        assert_eq!((info.format_name, info.len), ("host_device", 1 << 20));
        let user = attach(task, node, RESIZER).await.unwrap();
        write(task, &user, 5, b"abc").await.unwrap();
        assert_eq!(read(task, &user, 4, 5).await, b"\x07abc\x07");
        zero(task, &user, range(4096, 4096), true).await.unwrap();
        zero(task, &user, range(8192, 100), false).await.unwrap();
        assert_eq!(read(task, &user, 4095, 4198).await[..], [&[7][..], &[0; 4196], &[7]].concat()[..]);
        task.enter(&user).await.discard(range(1 << 19, 4096)).await.unwrap();
        let found = status(task, &user, range(0, 1 << 20)).await;
        assert_eq!((found.len, found.data), (1 << 20, true));
        task.enter(&user).await.flush().await.unwrap();
        let shorter = task.enter(&user).await.resize(4096, Default::default()).await;
        assert!(shorter.is_err());
        assert_eq!(len(task, &user).await, 1 << 20);
        assert!(write(task, &user, 1 << 20, b"x").await.is_err(), "a device does not grow");
        crate::host::detach(task, &user).await;
        crate::host::remove(task, node).await;
        assert_eq!(std::fs::read(folder.path("bytes")).unwrap()[5..8], *b"abc");
    });
}

#[test]
fn direct_io_on_a_device_bounces_what_is_not_aligned() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(device) = Setup::block_device(&folder.file("bytes", &[7; 1 << 20])) else { return };
        let options = FileOptions { cache_direct: true, ..FileOptions::new(&device.path) };
        let user = open(task, options, WRITER).await.unwrap();
        write(task, &user, 1000, &[1; 3000]).await.unwrap();
        assert_eq!(read(task, &user, 999, 3002).await[..], [&[7][..], &[1; 3000], &[7]].concat()[..]);
        let node = task.gs().find("disk").unwrap();
        crate::host::detach(task, &user).await;
        crate::host::remove(task, node).await;
    });
}

#[test]
fn driver_file_refuses_a_device() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let Some(device) = Setup::block_device(&folder.file("bytes", &[7; 4096])) else { return };
        let options = FileOptions { kind: FileKind::File, ..FileOptions::new(&device.path) };
        let error = insert(task, options).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (Kind::InvalidInput, Some(&*device.path)));
    });
}
