//! What the tools (`img`, `io`, `nbd`) share: images opened through the block graph, threads, signals, progress.
//!
//! ```text
//!  tool::run(Start, work)
//!    thread 0: control and I/O      work(&Tool) ── open ─> Disk<ReadOnly | ReadWrite> ── lanes, tickets ...
//!    threads 1..: I/O, on demand                    Tool::io_threads
//!  end or error or signal ─> every disk that is still open is stored and closed ─> what went wrong first
//! ```
//! | module | what |
//! |---|---|
//! | [`image`] | which image and how, as command lines say it |
//! | [`disk`] | opening and closing it |
//! | [`copy`] | whole disks |
//! | [`object`] | `--object` |
//! | [`snapshot`] | `-l` |
//! | [`progress`] | `-p`, and SIGUSR1 |
//!
//! A first SIGINT, SIGTERM or SIGHUP drops `work` where it waits: requests that are under way end, nothing new begins (a
//! worker on an I/O thread finds that its backend has gone), the disks are closed, and the status is the one that the
//! shell knows. A second one ends the process at once.
//!
//! Invariant: status 0 means that every disk was stored and closed. Not here: what a command does with its disks.

pub(crate) mod copy;
pub(crate) mod disk;
pub(crate) mod image;
pub(crate) mod object;
pub(crate) mod progress;
pub(crate) mod snapshot;

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};

use drystone_base::Result;
use drystone_blockdev::open::Opener;
use drystone_core::control::{Control, ControlThread, PlainData, Task};
use drystone_core::lane::Lane;
use drystone_core::runtime::{LocalFuture, LocalRef};
use drystone_sys::{EngineKind, Patience, Signal, Signals, ThreadHandle, ThreadStarter, Threads};

use self::progress::Progress;
use crate::console;

/// The most threads that a tool uses, the control thread among them.
const THREADS_MAX: usize = 16;

/// How a tool is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// What the program was called: in front of warnings.
    pub(crate) name: &'static str,
    /// How much it is going to do.
    pub(crate) load: Load,
}

/// What is done about signals.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// How long servers of disks may take to answer once the end was asked for.
    patience: Patience,
    /// Whether SIGUSR1 asks how far it is.
    has_progress: bool,
}

/// A command.
const COMMAND: Manner = Manner { patience: Patience::OF_COMMANDS, has_progress: true };
/// A server, whose clients' data may be under way.
const SERVER: Manner = Manner { patience: Patience::OF_SERVICES, has_progress: false };

/// How much a tool is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// One question after the other, to be answered as soon as it can be: no thread beside this one is started.
    Look,
    /// A few requests: starting a ring would take longer.
    Small,
    /// Whole disks.
    Heavy,
    /// What clients ask for, each of whom waits for an answer.
    Serve,
}

/// A running tool. On the control thread.
pub(crate) struct Tool {
    name: &'static str,
    local: LocalRef,
    control: Control,
    opener: Opener,
    starter: ThreadStarter,
    io_threads: RefCell<Vec<ThreadHandle>>,
    progress: Arc<Progress>,
}

/// Runs `work` to its end, closes what it has left open, and returns what went wrong first.
///
/// # Errors
/// Those of the work, of starting threads, and of storing and closing disks.
pub(crate) fn run<T>(start: Start, work: impl AsyncFnOnce(&Tool) -> Result<T>) -> Result<T> {
    run_asked(start, COMMAND, async |tool: &Tool, asked: &Asked| match asked.unless(work(tool)).await {
        Some(done) if asked.number.get().is_none() => Ok(done),
        _ => Err(asked.number.get().unwrap_or(INTERRUPT)),
    })
}

/// As [`run`], for a server: `work` itself looks whether it is asked to end ([`Asked::asked`]), and that is no failure.
///
/// # Errors
/// As for [`run`].
pub(crate) fn serve(start: Start, work: impl AsyncFnOnce(&Tool, &Asked) -> Result<()>) -> Result<()> {
    run_asked(start, SERVER, async |tool: &Tool, asked: &Asked| Ok(work(tool, asked).await))
}

/// Runs `work`, which says how the command ends, or by which signal.
fn run_asked<T>(
    start: Start,
    manner: Manner,
    work: impl AsyncFnOnce(&Tool, &Asked) -> std::result::Result<Result<T>, i32>,
) -> Result<T> {
    let signals = Signals::take()?;
    let kind = match start.load {
        Load::Look => EngineKind::InPlace,
        Load::Small => EngineKind::Pool,
        Load::Heavy => EngineKind::Batch,
        Load::Serve => EngineKind::Auto,
    };
    let shards = u16::try_from(THREADS_MAX).unwrap_or(u16::MAX);
    let mut threads = Threads::start_with_room(1, shards, kind)?;
    let starter = threads.starter();
    let ended = threads.run_here(|local| async move {
        let (thread, control) = ControlThread::new(local.clone(), shards);
        local.spawn(Box::pin(thread.run()));
        let tool = Tool {
            name: start.name,
            local: local.clone(),
            control,
            opener: Opener::trusting(),
            starter,
            io_threads: RefCell::default(),
            progress: Arc::new(Progress::new()),
        };
        let asked = Asked::default();
        let watch =
            asked.watch(signals, Lane::new(local), manner.has_progress.then(|| Arc::clone(&tool.progress)));
        let main = async {
            let done = work(&tool, &asked).await;
            let closed = tool.close_all().await.and(tool.opener.network.demand_answered());
            tool.progress.end();
            done.map(|done| done.and_then(|value| closed.map(|()| value)))
        };
        let main = beside(main, tool.mind_servers(&asked, manner.patience));
        beside(main, watch).await
    });
    // Workers that nobody waits for any more may still be there: they are not waited for either.
    ended.unwrap_or_else(|number| std::process::exit(128 + number))
}

/// Number of the signal that ctrl-C makes.
const INTERRUPT: i32 = 2;

/// Whether a signal has asked for the end.
#[derive(Default)]
pub(crate) struct Asked {
    number: Cell<Option<i32>>,
    waiting: Cell<Option<Waker>>,
}

impl Asked {
    /// Takes signals for as long as it is polled. The second one ends the process.
    async fn watch(&self, mut signals: Signals, mut lane: Lane, progress: Option<Arc<Progress>>) {
        while let Ok(signal) = signals.wait(&mut lane).await {
            let number = match signal {
                Signal::Explain => {
                    progress.iter().for_each(|progress| progress.ask());
                    continue;
                }
                Signal::HangUp => 1,
                Signal::Interrupt => INTERRUPT,
                Signal::Terminate => 15,
            };
            if self.number.replace(Some(number)).is_some() {
                std::process::exit(128 + number);
            }
            if let Some(waiting) = self.waiting.take() {
                waiting.wake();
            }
        }
    }

    /// Waits until the end is asked for.
    pub(crate) async fn asked(&self) {
        self.unless(std::future::pending::<()>()).await;
    }

    /// Runs `work` to its end, or drops it where it waits once the end is asked for.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if self.number.get().is_some() {
                return Poll::Ready(None);
            }
            self.waiting.set(Some(cx.waker().clone()));
            work.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// Runs `main` to its end, and `side` as long.
async fn beside<T>(main: impl Future<Output = T>, side: impl Future<Output = ()>) -> T {
    let (mut main, mut side) = (pin!(main), pin!(side));
    let mut is_over = false;
    poll_fn(|cx| {
        is_over = is_over || side.as_mut().poll(cx).is_ready();
        main.as_mut().poll(cx)
    })
    .await
}

impl Tool {
    /// What the program was called.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The control thread, which runs I/O as well.
    pub(crate) fn local(&self) -> &LocalRef {
        &self.local
    }

    /// A new lane on the control thread.
    pub(crate) fn lane(&self) -> Lane {
        Lane::new(self.local.clone())
    }

    /// Tells of servers that do not answer; ends connections to them some time after a signal.
    async fn mind_servers(&self, asked: &Asked, patience: Patience) {
        let servers = &self.opener.network;
        let tell =
            |peer: &str| console::note(format_args!("{}: {peer} has not answered for a while", self.name));
        let patience = async {
            asked.asked().await;
            let text = "the connections to servers that have not answered are ended";
            let tell = || console::note(format_args!("{}: {text}", self.name));
            servers.lose_patience(&self.local, patience, tell).await;
        };
        beside(patience, servers.watch(&self.local, tell)).await;
    }

    /// What opens images.
    pub(crate) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// How far the tool is: `-p` and SIGUSR1.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Prints a warning.
    pub(crate) fn warn(&self, text: impl Display) {
        console::note(format_args!("{}: warning: {text}", self.name));
    }

    /// I/O threads beside the control thread: `count` of them, or as many as there can be. They are started when they are
    /// asked for, and stay.
    ///
    /// # Errors
    /// Those of starting threads.
    pub(crate) fn io_threads(&self, count: usize) -> Result<Vec<ThreadHandle>> {
        let mut threads = self.io_threads.borrow_mut();
        while threads.len() < count.min(THREADS_MAX - 1) {
            threads.push(self.starter.start()?);
        }
        Ok(threads.iter().take(count).cloned().collect())
    }

    /// Runs `count` workers at the same time, each in a lane of its own, spread over as many threads as there are
    /// processors, this one among them; until all have ended.
    ///
    /// # Errors
    /// Those of starting threads; [`drystone_base::Kind::Cancelled`] if a worker has not come to its end.
    pub(crate) async fn workers<F, W>(&self, count: usize, work: F) -> Result<()>
    where
        F: Fn(Lane) -> W + Clone + Send + 'static,
        W: Future<Output = ()> + 'static,
    {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let others = self.io_threads(processors.min(count).saturating_sub(1))?;
        let places = others.len() + 1;
        let mut running: Vec<LocalFuture<'_, Result<()>>> = Vec::with_capacity(count);
        for index in 0..count {
            match others.get(index % places) {
                Some(thread) => {
                    let work = work.clone();
                    running.push(Box::pin(thread.call(move |local| work(Lane::new(local)))));
                }
                None => {
                    let here = work(self.lane());
                    running.push(Box::pin(async move {
                        here.await;
                        Ok(())
                    }));
                }
            }
        }
        let mut result = Ok(());
        poll_fn(|cx| {
            running.retain_mut(|worker| match worker.as_mut().poll(cx) {
                Poll::Ready(ended) => {
                    result = std::mem::replace(&mut result, Ok(())).and(ended);
                    false
                }
                Poll::Pending => true,
            });
            if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        result
    }

    /// Runs `work` as a control task.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) async fn on_control<T: PlainData>(
        &self,
        work: impl for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.control.call(work).await.and_then(|done| done)
    }
}

#[cfg(test)]
mod tests;
