//! [`Threads`]: the I/O threads of one process or one graph, from start to end.
//!
//! Thread 0 is the thread that called [`Threads::start`]: it runs only while it is in [`Threads::run_here`]. The others
//! are spawned and run all the time: some at the start, and more by a [`ThreadStarter`] while it goes on, up to a number
//! that is fixed at the start because the graph counts per thread.
//!
//! Invariant: `Threads` is gone only after every thread has ended, and a thread ends only when its tasks and operations
//! have. Whoever wants a thread to end lets its tasks end first.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use drystone_base::{Error, Kind, Result};
use drystone_core::answer::answer;
use drystone_core::runtime::{LocalFuture, LocalRef, Shard};

use crate::engine::{Engine, EngineKind};
use crate::inbox::Inbox;
use crate::local::SysLocal;
#[cfg(feature = "sim")]
use crate::played::PlayedThread;
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
    starting: Arc<Starting>,
}

/// Starts further threads beside those of [`Threads`], from any of them. Clones start the same ones.
#[derive(Clone)]
pub struct ThreadStarter(Starter);

#[derive(Clone)]
enum Starter {
    Os(Arc<Starting>),
    /// Threads that are there and not in use yet.
    #[cfg(feature = "sim")]
    Played(Arc<Mutex<Vec<ThreadHandle>>>),
}

/// What starting a thread takes, and what has been started.
struct Starting {
    kind: EngineKind,
    pool: Pool,
    count_max: u16,
    started: Mutex<Started>,
}

#[derive(Default)]
struct Started {
    /// Nothing is started any more.
    is_over: bool,
    others: Vec<(ThreadHandle, JoinHandle<ThreadEnd>)>,
}

/// Places work on a thread, from anywhere. Clones stand for the same thread, and do not keep it from ending.
#[derive(Clone)]
pub struct ThreadHandle(Home);

/// Where work for a thread goes.
#[derive(Clone)]
enum Home {
    Os(Arc<Inbox>),
    #[cfg(feature = "sim")]
    Played(Arc<PlayedThread>),
}

impl Threads {
    /// Starts `count - 1` threads beside the calling one.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] if `count` is 0 or above [`Shard::COUNT_MAX`]; [`Kind::Unsupported`] if `kind` is `Uring`
    /// and the kernel does not have or allow it; those of the operating system.
    pub fn start(count: u16, kind: EngineKind) -> Result<Self> {
        Self::start_with_room(count, count, kind)
    }

    /// As [`Self::start`], with room for [`Self::starter`] to start more, until there are `count_max` in all. A graph for
    /// them is made for `count_max` threads.
    ///
    /// # Errors
    /// As for [`Self::start`]; [`Kind::InvalidInput`] also if `count_max` is less than `count` or above
    /// [`Shard::COUNT_MAX`].
    pub fn start_with_room(count: u16, count_max: u16, kind: EngineKind) -> Result<Self> {
        if count == 0 || count_max < count || count_max > Shard::COUNT_MAX {
            let text = format!("{count} to {count_max} I/O threads: there can be 1 to {}", Shard::COUNT_MAX);
            return Err(Error::new(Kind::InvalidInput, text));
        }
        match Self::start_as((count, count_max), Engine::choose(kind)?) {
            // One ring could be made, but not as many as there are threads.
            Err(_) if matches!(kind, EngineKind::Auto | EngineKind::Batch) => {
                Self::start_as((count, count_max), EngineKind::Pool)
            }
            started => started,
        }
    }

    fn start_as((count, count_max): (u16, u16), kind: EngineKind) -> Result<Self> {
        let pool = if kind == EngineKind::InPlace { Pool::Here } else { Pool::new() };
        let first = Arc::new(Inbox::new(Shard::new(0))?);
        let here = SysLocal::new(&first, kind, &pool)?;
        let starting = Arc::new(Starting { kind, pool, count_max, started: Mutex::default() });
        // From here on, dropping the value ends what was started.
        let mut threads = Self { here, handles: vec![ThreadHandle(Home::Os(first))], starting };
        for _ in 1..count {
            threads.handles.push(threads.starting.start()?);
        }
        Ok(threads)
    }

    /// What starts more threads.
    #[must_use]
    pub fn starter(&self) -> ThreadStarter {
        ThreadStarter(Starter::Os(Arc::clone(&self.starting)))
    }

    /// The engine in use: never `Auto`.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        self.here.engine()
    }

    /// The threads that were there from the start, number 0 first.
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
        let others = self.starting.end();
        for handle in others.iter().map(|(handle, _)| handle).chain(self.handles.first()) {
            handle.stop(give_up);
        }
        let mut first_panic = end_thread(&self.here);
        for (_, other) in others {
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

impl ThreadStarter {
    /// A starter that gives out `threads`, the last one first.
    #[cfg(feature = "sim")]
    pub(crate) fn played(threads: Vec<ThreadHandle>) -> Self {
        Self(Starter::Played(Arc::new(Mutex::new(threads))))
    }

    /// Starts one more thread, which runs until [`Threads`] ends. Waits until it is there.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if there are as many as there can be; [`Kind::Cancelled`] if they are ending; those of the
    /// operating system.
    pub fn start(&self) -> Result<ThreadHandle> {
        match &self.0 {
            Starter::Os(starting) => starting.start(),
            #[cfg(feature = "sim")]
            Starter::Played(threads) => {
                let next = threads.lock().unwrap_or_else(PoisonError::into_inner).pop();
                next.ok_or_else(|| Error::new(Kind::TooLarge, "there are no I/O threads left"))
            }
        }
    }
}

impl Starting {
    fn start(&self) -> Result<ThreadHandle> {
        let Self { kind, pool, count_max, .. } = self;
        let mut started = self.started();
        if started.is_over {
            return Err(Error::new(Kind::Cancelled, "the I/O threads are ending"));
        }
        let index = u16::try_from(started.others.len() + 1).unwrap_or(u16::MAX);
        if index >= *count_max {
            return Err(Error::new(Kind::TooLarge, format!("there are {count_max} I/O threads already")));
        }
        let inbox = Arc::new(Inbox::new(Shard::new(index))?);
        let thread = spawn_thread(&inbox, *kind, pool)?;
        let handle = ThreadHandle(Home::Os(inbox));
        started.others.push((handle.clone(), thread));
        Ok(handle)
    }

    fn started(&self) -> MutexGuard<'_, Started> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> Vec<(ThreadHandle, JoinHandle<ThreadEnd>)> {
        let mut started = self.started();
        started.is_over = true;
        std::mem::take(&mut started.others)
    }
}

impl PartialEq for ThreadHandle {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Home::Os(own), Home::Os(other)) => Arc::ptr_eq(own, other),
            #[cfg(feature = "sim")]
            (Home::Played(own), Home::Played(other)) => Arc::ptr_eq(own, other),
            #[cfg(feature = "sim")]
            (Home::Os(_), Home::Played(_)) | (Home::Played(_), Home::Os(_)) => false,
        }
    }
}

impl Eq for ThreadHandle {}

impl fmt::Debug for ThreadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I/O thread {}", self.shard().index())
    }
}

impl ThreadHandle {
    #[cfg(feature = "sim")]
    pub(crate) fn played(thread: PlayedThread) -> Self {
        Self(Home::Played(Arc::new(thread)))
    }

    /// Which thread it is.
    #[must_use]
    pub fn shard(&self) -> Shard {
        match &self.0 {
            Home::Os(inbox) => inbox.shard,
            #[cfg(feature = "sim")]
            Home::Played(thread) => thread.shard(),
        }
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
        let work = Box::new(|local| Box::pin(make(local)) as LocalFuture<'static, ()>);
        let is_there = match &self.0 {
            Home::Os(inbox) => Task::starting(inbox, work).wake_ref(),
            #[cfg(feature = "sim")]
            Home::Played(thread) => thread.start(work),
        };
        if is_there { Ok(()) } else { Err(Error::new(Kind::Cancelled, "the I/O thread has ended")) }
    }

    /// Runs the future that `make` makes, on the thread, and returns what came of it. It goes on if nobody waits for it.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if the thread has ended.
    pub fn call<F, T, R>(&self, make: F) -> impl Future<Output = Result<R>> + use<F, T, R>
    where
        F: FnOnce(LocalRef) -> T + Send + 'static,
        T: Future<Output = R> + 'static,
        R: Send + 'static,
    {
        let (sender, answer) = answer();
        let spawned = self.spawn(move |local| {
            let work = make(local);
            async move { sender.send(work.await) }
        });
        async move {
            spawned?;
            answer.wait().await.ok_or_else(|| Error::new(Kind::Cancelled, "the I/O thread has ended"))
        }
    }

    /// Lets a thread of [`Threads`] end.
    fn stop(&self, give_up: bool) {
        match &self.0 {
            Home::Os(inbox) => inbox.stop(give_up),
            #[cfg(feature = "sim")]
            Home::Played(_) => {}
        }
        // It looks at what it was told.
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
