//! What the tests share: both engines, places for files, disk operations as one call each.

use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::Result;
use drystone_buf::Buf;
use drystone_core::disk::{Disk, DiskDone, DiskOp};
use drystone_core::runtime::LocalRef;
use drystone_sys::{Create, EngineKind, File, OpenOptions, Threads};

/// Runs `test` with `count` threads on each engine.
pub(crate) fn on_each_engine(count: u16, mut test: impl FnMut(&mut Threads)) {
    for kind in [EngineKind::Uring, EngineKind::Pool, EngineKind::Batch] {
        let mut threads = match Threads::start(count, kind) {
            Ok(threads) => threads,
            Err(error) if kind == EngineKind::Uring => {
                eprintln!("no io_uring here: {}", error.report());
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(threads.engine(), kind);
        eprintln!("engine {kind:?}");
        test(&mut threads);
    }
}

/// Runs `test` on the calling thread, on each engine.
pub(crate) fn here_on_each_engine<F: Future<Output = ()>>(mut test: impl FnMut(LocalRef) -> F) {
    on_each_engine(1, |threads| threads.run_here(&mut test));
}

/// Held while processes are started, and by tests that look at what closing a file ends: between fork and exec a child
/// has all descriptors of its parent, and with them the locks.
pub(crate) fn no_other_forks() -> MutexGuard<'static, ()> {
    static FORKS: Mutex<()> = Mutex::new(());
    FORKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a command to its end.
pub(crate) fn output(command: &mut Command) -> std::io::Result<Output> {
    let _alone = no_other_forks();
    command.output()
}

/// A folder that is gone after the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// On whatever file system temporary files are.
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// In memory.
    pub(crate) fn in_memory() -> Self {
        Self::below(Path::new("/dev/shm"))
    }

    fn below(parent: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("drystone-sys-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A new file with these contents.
    pub(crate) fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Counts tasks, on any thread, that have come to some point.
#[derive(Clone, Default)]
pub(crate) struct Arrivals(Arc<Mutex<(usize, Option<Waker>)>>);

impl Arrivals {
    pub(crate) fn arrive(&self) {
        let mut state = self.0.lock().unwrap();
        state.0 += 1;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().0
    }

    /// For one waiter at a time.
    pub(crate) async fn wait_for(&self, count: usize) {
        poll_fn(|cx| {
            let mut state = self.0.lock().unwrap();
            state.1 = Some(cx.waker().clone());
            if state.0 >= count { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

pub(crate) const WRITABLE: OpenOptions =
    OpenOptions { writable: true, direct: false, create: Create::IfMissing };

pub(crate) async fn open(local: &LocalRef, path: &Path) -> File {
    File::open(&**local, path, WRITABLE).await.unwrap()
}

pub(crate) async fn run(local: &LocalRef, file: &File, op: DiskOp) -> DiskDone {
    file.submit(local, op).await
}

pub(crate) async fn write(local: &LocalRef, file: &File, at: u64, bytes: &[u8]) -> Result<()> {
    run(local, file, DiskOp::Write { at, buf: Buf::copy_of(bytes), fua: false }).await.result
}

pub(crate) async fn read(local: &LocalRef, file: &File, at: u64, len: usize) -> Vec<u8> {
    let done = run(local, file, DiskOp::Read { at, buf: Buf::copy_of(&vec![0xee; len]) }).await;
    done.result.unwrap();
    done.buf.unwrap().as_slice().to_vec()
}
