//! Block devices: loop devices, where this user may make them.

use std::path::{Path, PathBuf};
use std::process::Command;

use drystone_base::{GuestRange, Kind};
use drystone_core::disk::{DiskOp, Preallocation};
use drystone_sys::{Create, File, OpenOptions};

use crate::common::{Folder, here_on_each_engine, output, read, run, write};

struct Loop {
    device: PathBuf,
    _folder: Folder,
}

impl Loop {
    fn new(len_bytes: u64) -> Option<Self> {
        let folder = Folder::new();
        let path = folder.path("backing");
        std::fs::File::create(&path).unwrap().set_len(len_bytes).unwrap();
        let output = output(Command::new("losetup").args(["-f", "--show"]).arg(&path)).ok()?;
        if !output.status.success() {
            eprintln!("skipped: no loop devices here");
            return None;
        }
        let device = String::from_utf8(output.stdout).unwrap().trim().into();
        Some(Self { device, _folder: folder })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = output(Command::new("losetup").arg("-d").arg(&self.device));
    }
}

async fn check(local: &drystone_core::runtime::LocalRef, device: &Path, direct: bool) {
    let options = OpenOptions { writable: true, direct, create: Create::No };
    let file = File::open(&**local, device, options).await.unwrap();
    assert!(file.is_block_device());
    assert_eq!(file.len_bytes(&**local).await.unwrap(), 8 << 20);
    assert_eq!(file.align_request_bytes(), if direct { 512 } else { 1 });
    write(local, &file, 0, &vec![1; 4 << 20]).await.unwrap();
    let zero = |start, len, may_unmap, fast_only| {
        let range = GuestRange::checked(start, len).unwrap();
        run(local, &file, DiskOp::WriteZeroes { range, may_unmap, fast_only })
    };
    zero(1 << 20, 1 << 20, true, false).await.result.unwrap();
    zero(2 << 20, 4096, false, false).await.result.unwrap();
    let refused = zero(0, 4096, false, true).await.result.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    run(local, &file, DiskOp::Discard(GuestRange::checked(100, 2000).unwrap())).await.result.unwrap();
    run(local, &file, DiskOp::Flush).await.result.unwrap();
    let bytes = read(local, &file, 0, 4 << 20).await;
    assert!(bytes[..100].iter().all(|byte| *byte == 1), "a discard went past its range");
    assert!(bytes[2100..1 << 20].iter().all(|byte| *byte == 1));
    assert!(bytes[1 << 20..(2 << 20) + 4096].iter().all(|byte| *byte == 0));
    assert!(bytes[(2 << 20) + 4096..].iter().all(|byte| *byte == 1));
    let extent = file.next_extent(&**local, 1 << 20).await.unwrap().unwrap();
    assert_eq!((extent.range.len(), extent.is_data), (7 << 20, true));
    let set_length = |len| run(local, &file, DiskOp::Truncate { len, preallocation: Preallocation::Off });
    set_length(8 << 20).await.result.unwrap();
    assert_eq!(set_length(4 << 20).await.result.unwrap_err().kind(), Kind::InvalidInput);
}

#[test]
fn a_block_device_is_read_written_zeroed_and_discarded() {
    let Some(disk) = Loop::new(8 << 20) else { return };
    here_on_each_engine(|local| {
        let device = disk.device.clone();
        async move {
            check(&local, &device, false).await;
            check(&local, &device, true).await;
        }
    });
}
