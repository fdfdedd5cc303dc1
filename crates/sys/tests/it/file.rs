//! Reading, writing, flushing, reopening; many operations at once; ends with operations under way.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use drystone_base::{GuestRange, Kind};
use drystone_buf::Buf;
use drystone_core::disk::{Disk, DiskOp, Preallocation};
use drystone_core::runtime::{Local, LocalFuture, LocalRef, Shard, yield_now};
use drystone_sys::{Create, File, OpenOptions, Threads};

use crate::common::{
    Arrivals, Folder, WRITABLE, here_on_each_engine, on_each_engine, open, output, read, run, write,
};

#[test]
fn what_is_written_is_read_again_and_the_rest_of_the_device_reads_as_zeroes() {
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let path = folder.path("disk");
            async move {
                let file = open(&local, &path).await;
                write(&local, &file, 10, b"abc").await.unwrap();
                assert_eq!(read(&local, &file, 8, 10).await, b"\0\0abc\0\0\0\0\0");
                assert_eq!(read(&local, &file, 1 << 40, 3).await, b"\0\0\0");
                assert_eq!(file.len_bytes(&*local).await.unwrap(), 13);
            }
        });
    }
}

#[test]
fn a_large_write_arrives_whole() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.path("disk");
        async move {
            let bytes: Vec<u8> = (0..9_000_001_u32).map(|i| i.to_le_bytes()[(i % 3) as usize]).collect();
            let file = open(&local, &path).await;
            write(&local, &file, 77, &bytes).await.unwrap();
            assert_eq!(fs::read(&path).unwrap()[77..], bytes);
            assert_eq!(read(&local, &file, 77, bytes.len()).await, bytes);
        }
    });
}

#[test]
fn fua_and_flush_succeed_and_give_the_buffer_back() {
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let path = folder.path("disk");
            async move {
                let file = open(&local, &path).await;
                let done =
                    run(&local, &file, DiskOp::Write { at: 0, buf: Buf::copy_of(b"x"), fua: true }).await;
                done.result.unwrap();
                assert_eq!(done.buf.unwrap().as_slice(), b"x");
                run(&local, &file, DiskOp::Flush).await.result.unwrap();
                assert_eq!(read(&local, &file, 0, 1).await, b"x");
            }
        });
    }
}

#[test]
fn direct_io_serves_badly_aligned_buffers_and_files_that_end_within_a_block() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", &[7; 5000]);
        async move {
            let options = OpenOptions { direct: true, ..WRITABLE };
            let file = match File::open(&*local, &path, options).await {
                Err(error) if error.kind() == Kind::Unsupported => return eprintln!("{}", error.report()),
                file => file.unwrap(),
            };
            let align = file.align_request_bytes();
            assert!(align.is_power_of_two() && align >= 512, "{align}");
            let mut head = Buf::copy_of(&vec![9; 8193]);
            let odd = head.split_off(1);
            assert_eq!(odd.len(), 8192);
            let done = run(&local, &file, DiskOp::Read { at: 0, buf: odd }).await;
            done.result.unwrap();
            let mut odd = done.buf.unwrap();
            assert_eq!(odd.as_slice()[..5000], [7; 5000]);
            assert_eq!(odd.as_slice()[5000..], [0; 3192]);
            odd.as_mut_slice().fill(8);
            run(&local, &file, DiskOp::Write { at: 8192, buf: odd, fua: false }).await.result.unwrap();
            assert_eq!(fs::read(&path).unwrap()[8192..], [8; 8192]);
        }
    });
}

#[test]
fn a_file_that_is_open_for_reading_refuses_changes() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"old");
        async move {
            let file = File::open(&*local, &path, OpenOptions::default()).await.unwrap();
            let range = GuestRange::checked(0, 1).unwrap();
            let truncate = DiskOp::Truncate { len: 0, preallocation: Preallocation::Off };
            let write = DiskOp::Write { at: 0, buf: Buf::copy_of(b"new"), fua: false };
            for op in [write, DiskOp::Discard(range), truncate] {
                let error = run(&local, &file, op).await.result.unwrap_err();
                assert_eq!(error.kind(), Kind::ReadOnly);
                assert_eq!(error.path(), Some(&*path));
            }
            run(&local, &file, DiskOp::Flush).await.result.unwrap();
            assert_eq!(read(&local, &file, 0, 3).await, b"old");
        }
    });
}

#[test]
fn errors_name_the_path_and_the_operation() {
    here_on_each_engine(|local| async move {
        // Nothing is mapped at address 0.
        let file = File::open(&*local, "/proc/self/mem", OpenOptions::default()).await.unwrap();
        let done = run(&local, &file, DiskOp::Read { at: 0, buf: Buf::zeroed(512) }).await;
        let error = done.result.unwrap_err();
        assert_eq!(done.buf.unwrap().len(), 512);
        assert_eq!((error.kind(), error.errno()), (Kind::Io, 5));
        let report = error.report();
        assert!(report.starts_with("'/proc/self/mem': cannot read 512 bytes at 0x0: "), "{report}");
    });
}

#[test]
fn opening_says_what_is_wrong() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let (dir, old, none) = (folder.path(""), folder.file("old", b""), folder.path("none"));
        async move {
            let kind =
                async |path: &Path, options| File::open(&*local, path, options).await.unwrap_err().kind();
            assert_eq!(kind(&none, OpenOptions::default()).await, Kind::NotFound);
            assert_eq!(kind(&dir, OpenOptions::default()).await, Kind::InvalidInput);
            assert_eq!(kind(Path::new("/dev/null"), WRITABLE).await, Kind::InvalidInput);
            let new = OpenOptions { create: Create::New, ..WRITABLE };
            assert_eq!(kind(&old, new).await, Kind::AlreadyExists);
        }
    });
}

#[test]
fn opening_a_pipe_without_a_writer_does_not_hang() {
    let folder = Folder::new();
    let path = folder.path("pipe");
    assert!(output(std::process::Command::new("mkfifo").arg(&path)).unwrap().status.success());
    here_on_each_engine(|local| {
        let path = path.clone();
        async move {
            let error = File::open(&*local, path, OpenOptions::default()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput);
        }
    });
}

#[test]
fn ten_thousand_operations_are_under_way_at_once() {
    const COUNT: u64 = 10_000;
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.path("disk");
        async move {
            let file = open(&local, &path).await;
            let bytes = |index: u64| [index.to_le_bytes(), (!index).to_le_bytes()].concat();
            let writes: Vec<_> = (0..COUNT)
                .map(|i| {
                    file.submit(
                        &local,
                        DiskOp::Write { at: i * 16, buf: Buf::copy_of(&bytes(i)), fua: false },
                    )
                })
                .collect();
            let flush = file.submit(&local, DiskOp::Flush);
            for write in writes {
                write.await.result.unwrap();
            }
            flush.await.result.unwrap();
            let reads: Vec<_> = (0..COUNT)
                .map(|i| file.submit(&local, DiskOp::Read { at: i * 16, buf: Buf::zeroed(16) }))
                .collect();
            for (index, read) in (0..).zip(reads) {
                assert_eq!(read.await.buf.unwrap().as_slice(), bytes(index));
            }
        }
    });
}

#[test]
fn operations_whose_answer_nobody_awaits_are_done_before_the_thread_ends() {
    let folder = Folder::new();
    on_each_engine(1, |threads| {
        let path = folder.file("disk", b"");
        let mut inner = Threads::start(1, threads.engine()).unwrap();
        inner.run_here(|local| {
            let path = path.clone();
            async move {
                let file = open(&local, &path).await;
                for at in 0..1000 {
                    drop(file.submit(&local, DiskOp::Write { at, buf: Buf::copy_of(b"w"), fua: false }));
                }
            }
        });
        drop(inner);
        assert_eq!(fs::read(&path).unwrap(), [b'w'; 1000]);
    });
}

#[test]
fn a_reference_to_an_ended_thread_starts_nothing() {
    let folder = Folder::new();
    on_each_engine(1, |threads| {
        let path = folder.file("disk", b"old");
        let mut inner = Threads::start(1, threads.engine()).unwrap();
        let (file, local): (File, LocalRef) =
            inner.run_here(|local| async { (File::open(&*local, &path, WRITABLE).await.unwrap(), local) });
        drop(inner);
        let mut flush = file.submit(&local, DiskOp::Flush);
        assert_eq!(flush.try_take().unwrap().result.unwrap_err().kind(), Kind::Cancelled);
    });
}

#[test]
fn reads_that_never_wait_let_other_tasks_run() {
    let folder = Folder::in_memory();
    here_on_each_engine(|local| {
        let path = folder.file("disk", &[1; 4096]);
        async move {
            let file = open(&local, &path).await;
            let turns = Rc::new(std::cell::Cell::new(0));
            let (count, other) = (Rc::clone(&turns), Rc::clone(&turns));
            local.spawn(Box::pin(async move {
                while count.get() < 10 {
                    count.set(count.get() + 1);
                    yield_now().await;
                }
            }));
            let mut reads = 0;
            while other.get() < 10 {
                read(&local, &file, 0, 4096).await;
                reads += 1;
                assert!(reads < 100_000, "the other task was starved");
            }
        }
    });
}

#[test]
fn a_reopen_changes_what_the_file_may_do_and_never_which_file_it_is() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let (path, other) = (folder.file("disk", b"old"), folder.file("other", b"other"));
        async move {
            let file = File::open(&*local, &path, OpenOptions::default()).await.unwrap();
            let clone = file.clone();
            // The name may stand for something else by now.
            fs::rename(&other, &path).unwrap();
            let reopened = file.reopen(&*local, WRITABLE).await.unwrap();
            assert!(!file.is_writable());
            reopened.commit();
            assert!(clone.is_writable());
            write(&local, &clone, 0, b"new").await.unwrap();
            assert_eq!(read(&local, &file, 0, 3).await, b"new");
            assert_eq!(fs::read(&path).unwrap(), b"other");
            file.reopen(&*local, OpenOptions::default()).await.unwrap().commit();
            assert_eq!(write(&local, &file, 0, b"x").await.unwrap_err().kind(), Kind::ReadOnly);
        }
    });
}

#[test]
fn a_dropped_reopen_changes_nothing() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"old");
        async move {
            let file = File::open(&*local, &path, OpenOptions::default()).await.unwrap();
            drop(file.reopen(&*local, WRITABLE).await.unwrap());
            assert!(!file.is_writable());
            assert_eq!(read(&local, &file, 0, 3).await, b"old");
        }
    });
}

#[test]
fn a_file_in_use_on_many_threads_serves_them_all() {
    let folder = Folder::new();
    on_each_engine(4, |threads| {
        let path = folder.path("disk");
        fs::write(&path, vec![0; 4 * 64 * 512]).unwrap();
        let file = threads.run_here(|local| {
            let path = path.clone();
            async move { open(&local, &path).await }
        });
        let arrivals = Arrivals::default();
        for handle in threads.handles() {
            let (file, arrivals, index) = (file.clone(), arrivals.clone(), handle.shard().index());
            handle
                .spawn(move |local| async move {
                    for block in 0..64 {
                        let at = (block * 4 + index as u64) * 512;
                        write(&local, &file, at, &[index as u8 + 1; 512]).await.unwrap();
                        assert_eq!(read(&local, &file, at, 512).await, [index as u8 + 1; 512]);
                    }
                    arrivals.arrive();
                })
                .unwrap();
        }
        threads.run_here(|_| arrivals.wait_for(4));
        let whole = fs::File::open(&path).unwrap();
        let mut block = [0; 512];
        for index in 0..256_u64 {
            whole.read_exact_at(&mut block, index * 512).unwrap();
            assert_eq!(block, [(index % 4) as u8 + 1; 512]);
        }
    });
}

/// A runtime that is not ours.
struct Foreign;

impl Local for Foreign {
    fn shard(&self) -> Shard {
        Shard::new(0)
    }
    fn spawn(&self, _task: LocalFuture<'static, ()>) {}
    fn now_ns(&self) -> u64 {
        0
    }
    fn sleep_until(&self, _at_ns: u64) -> LocalFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[test]
fn another_runtime_is_told_that_it_cannot_use_files() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("disk", b"abc");
        async move {
            let file = open(&local, &path).await;
            let foreign: LocalRef = Rc::new(Foreign);
            let mut read = file.submit(&foreign, DiskOp::Read { at: 0, buf: Buf::zeroed(3) });
            let done = read.try_take().unwrap();
            assert_eq!(done.result.unwrap_err().kind(), Kind::Unsupported);
            assert_eq!(done.buf.unwrap().len(), 3);
        }
    });
}

#[test]
fn what_memory_has_is_read_at_once_and_nothing_else() {
    for folder in [Folder::new(), Folder::in_memory()] {
        here_on_each_engine(|local| {
            let path = folder.file("disk", &[7; 5000]);
            async move {
                let file = open(&local, &path).await;
                // It was just written, so the page cache has it.
                let mut bytes = [0; 4096];
                assert!(file.read_now(&local, 900, &mut bytes));
                assert_eq!(bytes, [7; 4096]);
                assert!(!file.read_now(&local, 1000, &mut bytes), "past the end");
                assert!(!file.read_now(&local, 0, &mut vec![0; 2 << 20]), "long");
            }
        });
    }
}
