//! [`Threads`]: the I/O threads of one process or one graph, from start to end.
//!
//! Thread 0 is the thread that called [`Threads::start`]: it runs only while it is in [`Threads::run_here`]. The others
//! are spawned and run all the time.
//!
//! Invariant: `Threads` is gone only after every thread has ended, and a thread ends only when its tasks and operations
//! have. Whoever wants a thread to end lets its tasks end first.

use std::any::Any;
use std::future::Future;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::{LocalRef, Shard};

use crate::engine::{Engine, EngineKind};
use crate::inbox::Inbox;
use crate::local::SysLocal;
use crate::pool::Pool;
use crate::task::Task;

/// A thread's first panic, if a task of it panicked.
type ThreadEnd = Option<Box<dyn Any + Send>>;

/// I/O threads, numbered from 0. Stays on the thread that started it, which is number 0.
///
/// Dropping it ends the threads as soon as they have no tasks and no operations left, and waits for that. If the calling
/// thread is panicking, tasks are dropped where they stand instead. A panic of a task ends that task, and is raised
/// again here at the end.
pub struct Threads {
    here: Rc<SysLocal>,
    handles: Vec<ThreadHandle>,
    others: Vec<JoinHandle<ThreadEnd>>,
}

/// Places work on a thread, from anywhere. Clones stand for the same thread, and do not keep it from ending.
#[derive(Clone)]
pub struct ThreadHandle {
    inbox: Arc<Inbox>,
}

impl Threads {
    /// Starts `count - 1` threads beside the calling one.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if `count` is 0 or above [`Shard::COUNT_MAX`]; [`Kind::Unsupported`] if `kind` is `Uring`
    /// and the kernel does not have or allow it; those of the operating system.
    pub fn start(count: u16, kind: EngineKind) -> Result<Self> {
        if count == 0 || count > Shard::COUNT_MAX {
            let text = format!("{count} I/O threads: there can be 1 to {}", Shard::COUNT_MAX);
            return Err(Error::new(Kind::InvalidInput, text));
        }
        match Self::start_with(count, Engine::choose(kind)?) {
            // One ring could be made, but not as many as there are threads.
            Err(_) if kind == EngineKind::Auto => Self::start_with(count, EngineKind::Pool),
            started => started,
        }
    }

    fn start_with(count: u16, kind: EngineKind) -> Result<Self> {
        let pool = Pool::new();
        let inboxes: Vec<_> =
            (0..count).map(|index| Inbox::new(Shard::new(index)).map(Arc::new)).collect::<Result<_>>()?;
        let handles: Vec<_> = inboxes.iter().map(|inbox| ThreadHandle { inbox: Arc::clone(inbox) }).collect();
        let Some((first, rest)) = inboxes.split_first() else { unreachable!("at least one") };
        // From here on, dropping the value ends what was started.
        let mut threads = Self { here: SysLocal::new(first, kind, &pool)?, handles, others: Vec::new() };
        for inbox in rest {
            threads.others.push(spawn_thread(inbox, kind, &pool)?);
        }
        Ok(threads)
    }

    /// The engine in use: `Uring` or `Pool`.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        self.here.engine()
    }

    /// All threads, number 0 first.
    #[must_use]
    pub fn handles(&self) -> &[ThreadHandle] {
        &self.handles
    }

    /// Runs the future that `make` makes on the calling thread, as thread 0, together with the tasks that are there,
    /// until it ends.
    pub fn run_here<F: Future>(&mut self, make: impl FnOnce(LocalRef) -> F) -> F::Output {
        let local: LocalRef = Rc::<SysLocal>::clone(&self.here);
        let future = make(local);
        self.here.block_on(future)
    }

    fn end(&mut self) -> ThreadEnd {
        let give_up = thread::panicking();
        for handle in &self.handles {
            handle.inbox.stop(give_up);
            handle.wake();
        }
        let mut first_panic = end_thread(&self.here);
        for other in self.others.drain(..) {
            let end = other.join().unwrap_or_else(Some);
            first_panic = first_panic.or(end);
        }
        first_panic
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(panic) = self.end()
            && !thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

impl ThreadHandle {
    /// Which thread it is.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.inbox.shard
    }

    /// Runs the future that `make` makes, on the thread. Never blocks. A thread that is ending at this moment may drop
    /// `make` instead.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if the thread has ended; `make` is dropped then.
    pub fn spawn<F, T>(&self, make: F) -> Result<()>
    where
        F: FnOnce(LocalRef) -> T + Send + 'static,
        T: Future<Output = ()> + 'static,
    {
        let task = Task::starting(&self.inbox, Box::new(|local| Box::pin(make(local))));
        if task.wake_ref() { Ok(()) } else { Err(Error::new(Kind::Cancelled, "the I/O thread has ended")) }
    }

    /// Makes the thread look at what it was told.
    fn wake(&self) {
        let _ = self.spawn(|_| async {});
    }
}

fn spawn_thread(inbox: &Arc<Inbox>, kind: EngineKind, pool: &Pool) -> Result<JoinHandle<ThreadEnd>> {
    let name = format!("drystone-io-{}", inbox.shard.index());
    let (inbox, pool) = (Arc::clone(inbox), pool.clone());
    let (started, is_up) = mpsc::sync_channel(1);
    let body = move || {
        let local = match SysLocal::new(&inbox, kind, &pool) {
            Ok(local) => local,
            Err(error) => {
                let _ = started.send(Err(error));
                return None;
            }
        };
        let _ = started.send(Ok(()));
        local.run_out();
        end_thread(&local)
    };
    let os = |cause: std::io::Error| {
        Error::os(cause.raw_os_error().unwrap_or(libc::EAGAIN), "start an I/O thread")
    };
    let thread = thread::Builder::new().name(name).spawn(body).map_err(os)?;
    match is_up.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(Kind::Cancelled, "an I/O thread did not come up")),
    }
}

/// The end of a thread, on it.
fn end_thread(local: &Rc<SysLocal>) -> ThreadEnd {
    if local.inbox().gives_up() {
        local.abandon();
    } else {
        local.run_out();
    }
    local.close()
}
