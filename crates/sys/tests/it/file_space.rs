//! Discard, write zeroes, truncate, extents, and devices that are full.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use drystone_base::{GuestRange, Kind, Result};
use drystone_core::disk::{DiskOp, Preallocation};
use drystone_core::runtime::LocalRef;
use drystone_sys::{Create, File, OpenOptions};

use crate::common::{Folder, here_on_each_engine, open, output, read, run, write};

fn range(start: u64, len: u64) -> GuestRange {
    GuestRange::checked(start, len).unwrap()
}

async fn zero(local: &LocalRef, file: &File, range: GuestRange, may_unmap: bool) -> Result<()> {
    run(local, file, DiskOp::WriteZeroes { range, may_unmap, fast_only: false }).await.result
}

async fn set_length(local: &LocalRef, file: &File, len: u64, preallocation: Preallocation) -> Result<()> {
    run(local, file, DiskOp::Truncate { len, preallocation }).await.result
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn zeroes_that_may_unmap_free_space_and_zeroes_that_may_not_keep_it() {
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let path = folder.file("disk", &[1; 256 << 10]);
            async move {
                let file = open(&local, &path).await;
                zero(&local, &file, range(64 << 10, 64 << 10), true).await.unwrap();
                assert_eq!(allocated(&path), 192 << 10);
                zero(&local, &file, range(0, 64 << 10), false).await.unwrap();
                assert_eq!(allocated(&path), 192 << 10);
                let bytes = read(&local, &file, 0, 256 << 10).await;
                assert!(bytes[..128 << 10].iter().all(|byte| *byte == 0));
                assert!(bytes[128 << 10..].iter().all(|byte| *byte == 1));
            }
        });
    }
}

#[test]
fn zeroes_of_any_alignment_touch_their_range_only() {
    for folder in [Folder::new(), Folder::in_memory()] {
        for may_unmap in [false, true] {
            here_on_each_engine(|local| {
                let path = folder.file("disk", &[1; 20_000]);
                async move {
                    let file = open(&local, &path).await;
                    zero(&local, &file, range(4097, 9001), may_unmap).await.unwrap();
                    let mut want = vec![1; 20_000];
                    want[4097..4097 + 9001].fill(0);
                    assert_eq!(fs::read(&path).unwrap(), want);
                }
            });
        }
    }
}

#[test]
fn zeroes_past_the_end_extend_the_file() {
    for folder in [Folder::new(), Folder::in_memory()] {
        for may_unmap in [false, true] {
            here_on_each_engine(|local| {
                let path = folder.file("disk", b"abc");
                async move {
                    let file = open(&local, &path).await;
                    zero(&local, &file, range(2, 10_000), may_unmap).await.unwrap();
                    let mut want = vec![0; 10_002];
                    want[..2].copy_from_slice(b"ab");
                    assert_eq!(fs::read(&path).unwrap(), want);
                }
            });
        }
    }
}

#[test]
fn a_discard_frees_space_and_keeps_the_length() {
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let path = folder.file("disk", &[1; 128 << 10]);
            async move {
                let file = open(&local, &path).await;
                run(&local, &file, DiskOp::Discard(range(0, 256 << 10))).await.result.unwrap();
                assert_eq!((allocated(&path), file.len_bytes(&*local).await.unwrap()), (0, 128 << 10));
            }
        });
    }
}

#[test]
fn a_file_grows_with_the_space_that_was_asked_for_and_shrinks() {
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let path = folder.file("disk", b"");
            async move {
                use Preallocation::{Falloc, Full, Metadata, Off};
                let file = open(&local, &path).await;
                set_length(&local, &file, 64 << 10, Off).await.unwrap();
                let start = allocated(&path);
                assert!((1..=64 << 10).contains(&start), "the first block: {start}");
                set_length(&local, &file, 128 << 10, Falloc).await.unwrap();
                assert_eq!(allocated(&path), start + (64 << 10));
                set_length(&local, &file, 192 << 10, Full).await.unwrap();
                assert_eq!(allocated(&path), start + (128 << 10));
                set_length(&local, &file, 100, Off).await.unwrap();
                assert_eq!(fs::read(&path).unwrap(), [0; 100]);
                for mode in [Falloc, Full] {
                    let error = set_length(&local, &file, 10, mode).await.unwrap_err();
                    assert_eq!(error.kind(), Kind::InvalidInput);
                }
                assert_eq!(
                    set_length(&local, &file, 200, Metadata).await.unwrap_err().kind(),
                    Kind::InvalidInput
                );
            }
        });
    }
}

#[test]
fn extents_are_the_file_s_data_and_holes() {
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let path = folder.file("disk", b"");
            async move {
                let file = open(&local, &path).await;
                write(&local, &file, 1 << 20, &[1; 64 << 10]).await.unwrap();
                set_length(&local, &file, 2 << 20, Preallocation::Off).await.unwrap();
                let mut extents = Vec::new();
                let mut at = 0;
                while let Some(extent) = file.next_extent(&*local, at).await.unwrap() {
                    extents.push((extent.range.start().get(), extent.range.len(), extent.is_data));
                    at = extent.range.end().get();
                }
                let data_end = (1 << 20) + (64 << 10);
                let rest = (2 << 20) - data_end;
                assert_eq!(
                    extents,
                    [(0, 1 << 20, false), (1 << 20, 64 << 10, true), (data_end, rest, false)]
                );
                let inside = file.next_extent(&*local, (1 << 20) + 100).await.unwrap().unwrap();
                assert_eq!((inside.range.len(), inside.is_data), ((64 << 10) - 100, true));
            }
        });
    }
}

/// A file system of one mebibyte, if this user may mount one.
struct Small(Folder);

impl Small {
    fn mount() -> Option<Self> {
        let folder = Folder::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path(""));
        let mounted = output(&mut mount).is_ok_and(|output| output.status.success());
        mounted.then(|| Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg("-l").arg(self.0.path("")));
    }
}

#[test]
fn a_full_device_says_so_and_takes_the_request_when_there_is_space_again() {
    let Some(small) = Small::mount() else { return eprintln!("skipped: mounting is not allowed here") };
    here_on_each_engine(|local| {
        let path = small.0.file("disk", b"");
        let ballast = small.0.file("ballast", &[1; 512 << 10]);
        async move {
            let file = open(&local, &path).await;
            let bytes = vec![2; 768 << 10];
            let error = write(&local, &file, 0, &bytes).await.unwrap_err();
            assert_eq!((error.kind(), error.errno()), (Kind::NoSpace, 28));
            let grown = set_length(&local, &file, 4 << 20, Preallocation::Falloc).await.unwrap_err();
            assert_eq!(grown.kind(), Kind::NoSpace);
            assert!(file.len_bytes(&*local).await.unwrap() <= 768 << 10);
            fs::remove_file(ballast).unwrap();
            write(&local, &file, 0, &bytes).await.unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    });
}

#[test]
fn a_write_that_the_kernel_cuts_short_reports_why() {
    // The limit is the process's, so the test runs again in a process of its own.
    const MARK: &str = "DRYSTONE_TEST_FILE_LIMIT";
    let name = "file_space::a_write_that_the_kernel_cuts_short_reports_why";
    if std::env::var_os(MARK).is_none() {
        let limited = "ulimit -f 64; trap '' XFSZ; exec \"$@\"";
        let exe = std::env::current_exe().unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", limited, "bash"]).arg(exe).args(["--exact", name, "--nocapture"]).env(MARK, "1");
        let ran = output(&mut bash).unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        return;
    }
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let path = folder.file("disk", b"");
            async move {
                let file = open(&local, &path).await;
                let error = write(&local, &file, 0, &[1; 100 << 10]).await.unwrap_err();
                assert_eq!((error.kind(), error.errno()), (Kind::NoSpace, 27));
                assert_eq!(file.len_bytes(&*local).await.unwrap(), 64 << 10);
            }
        });
    }
}

#[test]
fn a_file_gets_what_another_has_without_a_buffer() {
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let mut bytes = noise(200_000);
            bytes[70_000..140_000].fill(0);
            let from = folder.file("from", &bytes);
            let to = folder.file("to", &[9; 100_000]);
            async move {
                let (source, file) = (open(&local, &from).await, open(&local, &to).await);
                match file.copy_from(&*local, &source, 1000, range(500, 150_000)).await {
                    Err(error) if error.kind() == Kind::Unsupported => return,
                    done => done.unwrap(),
                }
                assert_eq!(read(&local, &file, 0, 500).await, [9; 500]);
                assert_eq!(read(&local, &file, 500, 150_000).await, bytes[1000..151_000]);
                assert_eq!(file.len_bytes(&*local).await.unwrap(), 150_500);
                let refused = file.copy_from(&*local, &source, 190_000, range(0, 20_000)).await;
                assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported, "the source ends before that");
                let reading = OpenOptions { writable: false, direct: false, create: Create::No };
                let only_read = File::open(&*local, &to, reading).await.unwrap();
                let refused = only_read.copy_from(&*local, &source, 0, range(0, 10)).await;
                assert_eq!(refused.unwrap_err().kind(), Kind::ReadOnly);
            }
        });
    }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}
