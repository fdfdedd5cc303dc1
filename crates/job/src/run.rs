//! A job's code and what it is lent: pause points with their states, progress, the rate limit, errors.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{PlainData, Task};
use drystone_core::job::{Interrupt, JobCtx, JobHandle};
use drystone_core::lane::Lane;
use drystone_core::runtime::{Local, LocalRef};

use crate::event::{ErrorAction, Happening, Operation};
use crate::policy::{IoStatus, OnError};
use crate::state::Status;
use crate::table::{Asked, JobKey, Shared, cancelled};

/// A job that is in the table and has not begun. Dropped, it is gone again; whoever made it cleans up.
#[must_use = "a job that is not launched is dropped"]
pub struct Created {
    shared: Arc<Shared>,
    key: JobKey,
    handle: JobHandle,
    lanes: usize,
    launched: bool,
}

impl Created {
    pub(crate) fn new(shared: Arc<Shared>, key: JobKey, handle: JobHandle, lanes: usize) -> Self {
        Self { shared, key, handle, lanes, launched: false }
    }

    /// Starts the job: `work` is its code, and runs on an I/O thread after a first pause point.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if the job was cancelled before; its last step aborts, or has.
    pub fn launch<F>(mut self, work: F) -> Result<()>
    where
        F: for<'a, 'c> AsyncFnOnce(&'a mut Running<'c>) -> Result<()> + Send + 'static,
    {
        self.launched = true;
        let shared = Arc::clone(&self.shared);
        let begun = shared.with(self.key, |entry| {
            let may_begin = entry.status == Status::Created && !entry.handle.is_cancelled();
            if may_begin {
                (entry.started, entry.busy) = (true, true);
                shared.go(entry, Status::Running);
            }
            may_begin
        });
        if begun != Some(true) {
            return Err(cancelled());
        }
        let report = EndReport(Some((Arc::clone(&shared), self.key)));
        let (handle, key, lanes) = (self.handle.clone(), self.key, self.lanes);
        let run = move |local: LocalRef| {
            let ctx = JobCtx::with_handle(&handle, local, lanes, shared.control.clone());
            let code = async move {
                let result = ctx
                    .run(async |ctx: &mut JobCtx| {
                        let mut running = Running { ctx, meter: Meter { shared, key } };
                        running.pause_point().await?;
                        work(&mut running).await
                    })
                    .await;
                report.send(result);
            };
            Box::pin(code) as drystone_core::runtime::LocalFuture<'static, ()>
        };
        // Work that is dropped reports the end of the job.
        let _ = self.shared.threads.spawn(Box::new(run));
        Ok(())
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        // What was cancelled meanwhile ends by itself.
        if !self.launched && table.find(self.key).is_some_and(|entry| entry.status == Status::Created) {
            self.shared.forget(&mut table, self.key);
        }
    }
}

/// Reports the end of a job's code, whatever becomes of it.
struct EndReport(Option<(Arc<Shared>, JobKey)>);

impl EndReport {
    fn send(mut self, result: Result<()>) {
        if let Some((shared, key)) = self.0.take() {
            shared.code_ended(key, result);
        }
    }
}

impl Drop for EndReport {
    fn drop(&mut self) {
        if let Some((shared, key)) = self.0.take() {
            shared.code_ended(key, Err(Error::new(Kind::Io, "the I/O thread of the job has ended")));
        }
    }
}

/// A job, for its own code.
pub struct Running<'c> {
    ctx: &'c mut JobCtx,
    meter: Meter,
}

/// What workers of a job count with. Clones belong to the same job.
#[derive(Clone)]
pub struct Meter {
    shared: Arc<Shared>,
    key: JobKey,
}

impl Running<'_> {
    /// The thread that the job runs on.
    #[must_use]
    pub fn local(&self) -> &dyn Local {
        self.ctx.local()
    }

    /// The job's lanes, what tells workers to stop, and what they count with.
    pub fn workers(&mut self) -> (&mut [Lane], Interrupt, Meter) {
        let (lanes, interrupt) = self.ctx.workers();
        (lanes, interrupt, self.meter.clone())
    }

    /// What the job counts with.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Waits while the job is paused, which is visible as a state of its own. No ticket is alive here.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once the job is cancelled.
    pub async fn pause_point(&mut self) -> Result<()> {
        if !self.ctx.interrupt().is_set() {
            return Ok(());
        }
        let parked = self.meter.park();
        let result = self.ctx.pause_point().await;
        self.meter.unpark(parked);
        result
    }

    /// Waits until the rate limit lets more be copied. A pause is noticed at once, and so is another speed.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once the job is cancelled.
    pub async fn pace(&mut self) -> Result<()> {
        loop {
            self.pause_point().await?;
            let Some(at_ns) = self.meter.blocked_until(self.ctx.local().now_ns()) else { return Ok(()) };
            self.meter.set_busy(false);
            self.ctx.rest_until(at_ns).await;
            self.meter.set_busy(true);
        }
    }

    /// Waits until `at_ns` of [`Local::now_ns`]. A pause is noticed at once and does not shorten the sleep.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once the job is cancelled.
    pub async fn sleep_until(&mut self, at_ns: u64) -> Result<()> {
        loop {
            self.pause_point().await?;
            if self.ctx.local().now_ns() >= at_ns {
                return Ok(());
            }
            self.meter.set_busy(false);
            self.ctx.rest_until(at_ns).await;
            self.meter.set_busy(true);
        }
    }

    /// Runs `work` as a control task and returns the plain data that it returns.
    ///
    /// # Errors
    /// If the control thread has ended.
    pub async fn on_control<T, F>(&mut self, work: F) -> Result<T>
    where
        T: PlainData,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> T + Send + 'static,
    {
        self.ctx.on_control(work).await
    }

    /// A request failed: tells what `policy` does about it. If that is to stop, the next pause point waits for a user.
    pub fn failed(&mut self, policy: OnError, operation: Operation, error: &Error) -> ErrorAction {
        let action = policy.action(error);
        let shared = &self.meter.shared;
        shared.with(self.meter.key, |entry| {
            shared.tell(entry, Happening::Error(operation, action));
            if action == ErrorAction::Stop {
                entry.io_status = IoStatus::after(error);
                if !std::mem::replace(&mut entry.user_paused, true) {
                    entry.handle.pause();
                }
            }
        });
        action
    }

    /// All is copied: the job is ready to complete.
    pub fn ready(&mut self) {
        let shared = &self.meter.shared;
        shared.with(self.meter.key, |entry| {
            shared.go(entry, Status::Ready);
            shared.tell(entry, Happening::Ready(entry.progress()));
        });
    }

    /// Waits until a job that is ready is told what to do.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once the job is cancelled.
    pub async fn asked(&mut self) -> Result<Asked> {
        loop {
            self.pause_point().await?;
            let interrupt = self.ctx.interrupt();
            let (shared, key) = (&self.meter.shared, self.meter.key);
            let asked = poll_fn(|cx| {
                let asked = shared.with(key, |entry| {
                    entry.asker = Some(cx.waker().clone());
                    entry.asked
                });
                match asked.flatten() {
                    Some(asked) => Poll::Ready(Some(asked)),
                    None => interrupt.poll_set(cx).map(|()| None),
                }
            })
            .await;
            if let Some(asked) = asked {
                return Ok(asked);
            }
        }
    }
}

impl Meter {
    /// Sets how much work there is in all.
    pub fn set_total(&self, total: u64) {
        self.shared.with(self.key, |entry| entry.total = total);
    }

    /// So much more of it is done.
    pub fn advance(&self, by: u64) {
        self.shared.with(self.key, |entry| entry.current = entry.current.saturating_add(by));
    }

    /// `bytes` were copied at `now_ns`. `true` if the rate limit allows no more now: see [`Running::pace`].
    #[must_use]
    pub fn spend(&self, bytes: u64, now_ns: u64) -> bool {
        self.shared.with(self.key, |entry| entry.limit.spend(bytes, now_ns).is_some()).unwrap_or(false)
    }

    /// The most bytes that one request should copy, between `least` and `most`.
    #[must_use]
    pub fn step_bytes(&self, least: u64, most: u64) -> u64 {
        self.shared.with(self.key, |entry| entry.limit.step_bytes(least, most)).unwrap_or(most)
    }

    fn blocked_until(&self, now_ns: u64) -> Option<u64> {
        self.shared.with(self.key, |entry| entry.limit.blocked_until(now_ns)).flatten()
    }

    fn set_busy(&self, busy: bool) {
        self.shared.with(self.key, |entry| entry.busy = busy);
    }

    /// Shows that the job stands still; returns the state that it comes back to.
    fn park(&self) -> Option<Status> {
        let shared = &self.shared;
        shared
            .with(self.key, |entry| {
                let (back, parked) = match entry.status {
                    Status::Running => (Status::Running, Status::Paused),
                    Status::Ready => (Status::Ready, Status::Standby),
                    _ => return None,
                };
                if entry.handle.is_cancelled() || !(entry.user_paused || entry.internal_pauses > 0) {
                    return None;
                }
                entry.busy = false;
                shared.go(entry, parked);
                Some(back)
            })
            .flatten()
    }

    fn unpark(&self, back: Option<Status>) {
        let Some(back) = back else { return };
        let mut table = self.shared.table();
        if let Some(entry) = table.find(self.key) {
            entry.busy = true;
            self.shared.go(entry, back);
        }
        table.wake_watchers();
    }
}
