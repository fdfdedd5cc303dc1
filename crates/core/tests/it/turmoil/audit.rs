//! [`Audited`]: a driver that watches over another one: whether requests reach it when they must not, and phases that fail
//! when the test says so.
//!
//! The test says which nodes are quiet and which devices are frozen; whatever an I/O thread does to one of those is a bug
//! of the core and stops the run. What the control thread does is private I/O of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Completion, Disk, DiskOp, Preallocation};
use drystone_core::driver::{
    Access, BufResult, Driver, Extent, Publish, StageRequest, Staged, Status, WriteFlags, ZeroFlags,
};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef, Shard};
use drystone_testkit::disk::{Image, SimDisk};

/// In which phase a driver fails next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fails {
    Stage,
    Settle,
    Store,
}

/// What the whole run knows of its drivers. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Audit(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// In how many quiet sections a node is.
    quiet: BTreeMap<String, u32>,
    /// Devices that nobody may change any more.
    frozen: BTreeSet<String>,
    /// How many calls of I/O threads are inside a driver.
    inside: BTreeMap<String, u32>,
    disks: BTreeMap<String, SimDisk>,
    fails: BTreeSet<(Fails, String)>,
    /// Phases in progress, staged minus ended: nothing staged is forgotten.
    staged: i64,
    closed: BTreeSet<String>,
}

/// The text of every error that the test asked for.
pub(super) const ASKED_FOR: &str = "the test lets it fail";

fn is_user(shard: Shard) -> bool {
    shard != Shard::new(0)
}

impl Audit {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// From now on until [`Self::end_quiet`], no request may be at any of `nodes`; none is now.
    pub(super) fn begin_quiet(&self, nodes: &[String]) {
        let mut state = self.state();
        for node in nodes {
            let inside = state.inside.get(node).copied().unwrap_or(0);
            assert_eq!(inside, 0, "requests are inside '{node}', which is quiet");
            if let Some(disk) = state.disks.get(node) {
                let busy =
                    disk.trace().into_iter().find(|op| op.ended.is_none() && op.shard != Shard::new(0));
                assert!(busy.is_none(), "an operation is in flight below '{node}', which is quiet: {busy:?}");
            }
            *state.quiet.entry(node.clone()).or_insert(0) += 1;
        }
    }

    pub(super) fn end_quiet(&self, nodes: &[String]) {
        let mut state = self.state();
        for node in nodes {
            *state.quiet.get_mut(node).unwrap() -= 1;
        }
    }

    /// From now on, no user may change the device `name`.
    pub(super) fn freeze(&self, name: &str) {
        self.state().frozen.insert(name.to_owned());
    }

    pub(super) fn fail(&self, phase: Fails, node: &str) {
        self.state().fails.insert((phase, node.to_owned()));
    }

    pub(super) fn mend(&self) {
        self.state().fails.clear();
    }

    /// What the device `name` holds.
    pub(super) fn image(&self, name: &str) -> Image {
        self.state().disks[name].image()
    }

    /// Nothing is left over.
    pub(super) fn assert_balanced(&self) {
        let state = self.state();
        assert_eq!(state.staged, 0, "something was staged and neither committed nor undone");
        assert!(state.inside.values().all(|count| *count == 0), "somebody is inside for ever");
        assert!(state.quiet.values().all(|count| *count == 0));
    }

    pub(super) fn is_closed(&self, node: &str) -> bool {
        self.state().closed.contains(node)
    }

    fn arrive(&self, name: &str, shard: Shard) {
        let state = self.state();
        assert!(!state.closed.contains(name), "a request is at node '{name}', which was closed");
        let quiet = state.quiet.get(name).copied().unwrap_or(0);
        assert!(quiet == 0 || !is_user(shard), "a request reached node '{name}', which is quiet");
    }

    fn pass(&self, phase: Fails, name: &str) -> Result<()> {
        match self.state().fails.contains(&(phase, name.to_owned())) {
            true => Err(Error::new(Kind::Io, ASKED_FOR)),
            false => Ok(()),
        }
    }
}

/// A call that is inside a driver.
struct Inside<'a>(&'a Audited, bool);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.1 {
            *self.0.audit.state().inside.get_mut(&self.0.name).unwrap() -= 1;
        }
    }
}

/// A device that is watched.
struct AuditedDisk {
    name: String,
    audit: Audit,
    disk: SimDisk,
}

impl Disk for AuditedDisk {
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion {
        self.audit.arrive(&self.name, local.shard());
        let changes = !matches!(op, DiskOp::Read { .. } | DiskOp::Flush);
        let is_frozen = self.audit.state().frozen.contains(&self.name);
        assert!(
            !(is_frozen && changes && is_user(local.shard())),
            "'{}' is frozen and written: {op:?}",
            self.name
        );
        self.disk.submit(local, op)
    }
}

/// See the module.
pub(super) struct Audited {
    name: String,
    audit: Audit,
    inner: Box<dyn Driver>,
    disk: Option<AuditedDisk>,
}

impl Audited {
    pub(super) fn new(name: &str, audit: &Audit, inner: Box<dyn Driver>) -> Self {
        Self { name: name.to_owned(), audit: audit.clone(), inner, disk: None }
    }

    pub(super) fn device(name: &str, audit: &Audit, disk: SimDisk) -> Self {
        audit.state().disks.insert(name.to_owned(), disk.clone());
        let inner = Box::new(crate::fixture::Device(disk.clone()));
        let disk = Some(AuditedDisk { name: name.to_owned(), audit: audit.clone(), disk });
        Self { disk, ..Self::new(name, audit, inner) }
    }

    fn enter(&self, io: Io<'_>) -> Inside<'_> {
        self.audit.arrive(&self.name, io.shard());
        let counts = is_user(io.shard());
        if counts {
            *self.audit.state().inside.entry(self.name.clone()).or_insert(0) += 1;
        }
        Inside(self, counts)
    }
}

/// What was staged, counted until it is committed or undone.
struct AuditedStage {
    name: String,
    audit: Audit,
    over: bool,
}

impl AuditedStage {
    fn end(&mut self) {
        assert!(!self.over, "'{}' was committed or undone twice", self.name);
        self.over = true;
        self.audit.state().staged -= 1;
    }
}

impl Staged for AuditedStage {
    fn settle<'a>(&'a mut self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { self.audit.pass(Fails::Settle, &self.name) })
    }

    fn commit(&mut self, _publish: &Publish<'_>) {
        self.end();
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async { self.end() })
    }
}

impl Driver for Audited {
    fn format_name(&self) -> &'static str {
        "audited"
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        self.audit.arrive(&self.name, io.shard());
        self.inner.locate(io, range, access)
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let _inside = self.enter(io);
            self.inner.read(io, at, buf).await
        })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let _inside = self.enter(io);
            self.inner.write(io, at, buf, flags).await
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let _inside = self.enter(io);
            self.inner.write_zeroes(io, range, flags).await
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let _inside = self.enter(io);
            self.inner.flush(io).await
        })
    }

    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let _inside = self.enter(io);
            self.inner.resize(io, len, preallocation).await
        })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        self.disk.as_ref().map(|disk| disk as &dyn Disk)
    }

    fn device_status<'a>(
        &'a self,
        io: Io<'a>,
        local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        self.inner.device_status(io, local, range)
    }

    fn stage<'a>(&'a self, _request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        Box::pin(async move {
            self.audit.pass(Fails::Stage, &self.name)?;
            self.audit.state().staged += 1;
            let staged = AuditedStage { name: self.name.clone(), audit: self.audit.clone(), over: false };
            Ok(Box::new(staged) as Box<dyn Staged>)
        })
    }

    fn store<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.audit.pass(Fails::Store, &self.name)?;
            io.flush().await
        })
    }

    fn close<'a>(&'a self, _local: &'a LocalRef) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            assert!(self.audit.state().closed.insert(self.name.clone()), "'{}' was closed twice", self.name);
        })
    }
}
