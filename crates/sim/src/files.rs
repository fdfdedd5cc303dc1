//! [`AuditedFile`]: a protocol node on a simulated disk that watches over who uses it.
//!
//! ```text
//!   stage   -> what users will be allowed to       union of old and new until the change is over
//!   submit  -> a change of the bytes needs WRITE, a change of the length RESIZE; nothing comes from I/O threads while the
//!              node is quiet, and nothing at all once it is closed
//! ```
//! What the real file driver asserts by image locks, this one asserts by panics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drystone_base::{GuestRange, Result};
use drystone_core::control::NewNode;
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{Access, Driver, Extent, Publish, StageRequest, Staged, Status};
use drystone_core::graph::permission::Perm;
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef, Shard};
use drystone_testkit::disk::SimDisk;
use drystone_testkit::graph::SimDriver;

use crate::audit::WRITES;

/// What is known of the users of one file. Clones are of the same file.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What users may do.
    now: Perm,
    /// What they will be allowed to, for each change that is being prepared.
    staged: Vec<(u64, Perm)>,
    changes: u64,
    /// In how many quiet sections it is.
    quiet: u32,
    is_closed: bool,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on until [`Self::end_quiet`], no request may be at the file; none is now.
    pub(crate) fn begin_quiet(&self, name: &str, disk: &SimDisk) {
        let is_busy = |op: &drystone_testkit::disk::OpRecord| op.ended.is_none() && is_user(op.shard);
        let busy = disk.trace().into_iter().find(is_busy);
        assert!(busy.is_none(), "'{name}' is quiet, and an operation is in flight: {busy:?}");
        self.lock().quiet += 1;
    }

    pub(crate) fn end_quiet(&self) {
        self.lock().quiet -= 1;
    }

    fn arrive(&self, name: &str, op: &DiskOp, shard: Shard) {
        let state = self.lock();
        assert!(!state.is_closed, "'{name}' was closed, and is asked for {op:?}");
        assert!(state.quiet == 0 || !is_user(shard), "'{name}' is quiet, and is asked for {op:?}");
        let needs = match op {
            DiskOp::Read { .. } | DiskOp::Flush => return,
            DiskOp::Truncate { .. } => Perm::RESIZE,
            DiskOp::Write { .. } | DiskOp::WriteZeroes { .. } | DiskOp::Discard(_) => WRITES,
        };
        let has = state.staged.iter().fold(state.now, |all, (_, perm)| all.with(*perm));
        assert!(has.has_any(needs), "users of '{name}' may only do {has:?}, and it is asked for {op:?}");
    }
}

fn is_user(shard: Shard) -> bool {
    shard != Shard::new(0)
}

/// See the module.
pub(crate) struct AuditedFile {
    device: AuditedDisk,
    inner: Box<dyn Driver>,
}

struct AuditedDisk {
    name: String,
    watch: Watch,
    disk: SimDisk,
}

impl AuditedFile {
    /// A node called `name` on `disk`, which goes with its last user.
    pub(crate) fn node(name: &str, disk: &SimDisk, watch: &Watch, read_only: bool) -> NewNode {
        let mut node = SimDriver::node(name, disk);
        node.owned = false;
        node.facts.read_only = read_only;
        watch.lock().is_closed = false;
        let device = AuditedDisk { name: name.to_owned(), watch: watch.clone(), disk: disk.clone() };
        NewNode { driver: Box::new(Self { device, inner: node.driver }), ..node }
    }
}

impl Disk for AuditedDisk {
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion {
        self.watch.arrive(&self.name, &op, local.shard());
        self.disk.submit(local, op)
    }

    fn read_now(&self, local: &LocalRef, at: u64, bytes: &mut [u8]) -> bool {
        let state = self.watch.lock();
        let is_let_in = !state.is_closed && (state.quiet == 0 || !is_user(local.shard()));
        assert!(is_let_in, "'{}' is quiet or closed, and is read at {at}", self.name);
        drop(state);
        self.disk.read_now(local, at, bytes)
    }

    fn can_grow(&self) -> bool {
        self.disk.can_grow()
    }
}

impl Driver for AuditedFile {
    fn format_name(&self) -> &'static str {
        self.inner.format_name()
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        self.inner.locate(io, range, access)
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        self.inner.flush(io)
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.device)
    }

    fn device_status<'a>(
        &'a self,
        io: Io<'a>,
        local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        self.inner.device_status(io, local, range)
    }

    fn stage<'a>(&'a self, request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        let perm = request.new.users.perm;
        let mut state = self.device.watch.lock();
        state.changes += 1;
        let change = state.changes;
        state.staged.push((change, perm));
        let staged = StagedUse { watch: self.device.watch.clone(), change, perm, is_over: false };
        Box::pin(async move { Ok(Box::new(staged) as Box<dyn Staged>) })
    }

    fn close<'a>(&'a self, _local: &'a LocalRef) -> LocalFuture<'a, ()> {
        Box::pin(async {
            let name = &self.device.name;
            let mut state = self.device.watch.lock();
            assert!(!std::mem::replace(&mut state.is_closed, true), "'{name}' is closed twice");
        })
    }
}

/// What was prepared for a change.
struct StagedUse {
    watch: Watch,
    change: u64,
    perm: Perm,
    is_over: bool,
}

impl StagedUse {
    fn end(&mut self, now: Option<Perm>) {
        assert!(!std::mem::replace(&mut self.is_over, true), "a change ended twice");
        let mut state = self.watch.lock();
        state.staged.retain(|(change, _)| *change != self.change);
        if let Some(now) = now {
            state.now = now;
        }
    }
}

impl Staged for StagedUse {
    fn commit(&mut self, _publish: &Publish<'_>) {
        self.end(Some(self.perm));
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async { self.end(None) })
    }
}
