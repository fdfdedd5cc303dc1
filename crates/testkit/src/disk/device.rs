//! The device's side of an operation: a task of the thread that submitted it.

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drystone_base::{GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Completion, Disk, DiskOp, Finisher};
use drystone_core::runtime::{LocalFuture, LocalRef, yield_now};

use super::SimDisk;
use super::hold::Released;
use super::op::{OpIndex, Request};
use super::state::{Pace, State};
use crate::sim::SimLocal;

/// A disk's state. Locked for a moment at a time and never across an await.
pub(super) struct Shared(pub(super) Mutex<State>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings an operation to its end.
    async fn carry_out(
        self: Arc<Self>,
        local: LocalRef,
        op: OpIndex,
        pace: Pace,
        mut buf: Option<Buf>,
        end: Finisher,
    ) {
        Released { shared: &self, op }.await;
        if let Pace::Later { delay_ns, yields, is_split } = pace {
            if delay_ns > 0 {
                local.sleep_until(local.now_ns().saturating_add(delay_ns)).await;
            }
            for _ in 0..yields {
                yield_now().await;
            }
            if is_split {
                self.lock().transfer_some(op, buf.as_mut());
                yield_now().await;
            }
        }
        let result = self.lock().finish(op, buf.as_mut());
        end.finish(result, buf);
    }
}

impl Disk for SimDisk {
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion {
        let (request, mut buf) = Request::new(op);
        let begun = self.shared().lock().begin(local.shard(), request);
        match begun {
            Err(error) => Completion::ready(Err(error), buf),
            Ok((op, Pace::Now)) => {
                let result = self.shared().lock().finish(op, buf.as_mut());
                Completion::ready(result, buf)
            }
            Ok((op, pace)) => {
                let (completion, end) = Completion::pending();
                let task = Arc::clone(self.shared()).carry_out(Rc::clone(local), op, pace, buf, end);
                self.spawn(local, op, Box::pin(task));
                completion
            }
        }
    }

    fn read_now(&self, _local: &LocalRef, at: u64, bytes: &mut [u8]) -> bool {
        self.shared().lock().read_now(at, bytes)
    }

    /// A read of the other disk and a write to this one.
    fn copy_from<'a>(
        &'a self,
        local: &'a LocalRef,
        source: &'a dyn Disk,
        from: u64,
        to: GuestRange,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let len = usize::try_from(to.len()).unwrap_or(usize::MAX);
            let read = source.submit(local, DiskOp::Read { at: from, buf: Buf::zeroed(len) }).await;
            read.result?;
            let buf = read.buf.unwrap_or_else(Buf::empty);
            self.submit(local, DiskOp::Write { at: to.start().get(), buf, fua: false }).await.result
        })
    }

    fn can_grow(&self) -> bool {
        self.shared().lock().options.can_grow
    }
}

impl SimDisk {
    /// Under a [`crate::sim::Sim`], the task is named after the operation.
    fn spawn(&self, local: &LocalRef, op: OpIndex, task: LocalFuture<'static, ()>) {
        match local.as_any().downcast_ref::<SimLocal>() {
            None => local.spawn(task),
            Some(sim) => {
                let state = self.shared().lock();
                let record = state.trace.iter().rev().find(|record| record.op == op);
                let shown = record.map_or_else(String::new, ToString::to_string);
                let name = format!("disk '{}' {shown}", state.options.name);
                drop(state);
                sim.spawn_named(name, task);
            }
        }
    }
}
