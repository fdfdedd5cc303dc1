//! [`Scripted`]: a driver that fails, waits and refuses as a test says, and a [`Script`] that remembers what it was asked.
//!
//! | made by | its bytes are |
//! |---|---|
//! | [`Scripted::device`] | on a simulated disk |
//! | [`Scripted::filter`] | those of its child `file`, at the same place |
//!
//! All drivers of a test share one script. Its log reads like `stage top`, `commit base`, `close base`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use drystone_base::{Error, GuestRange, HostOffset, Kind, Result};
use drystone_core::disk::{Disk, Preallocation};
use drystone_core::driver::{
    Access, Driver, Extent, NodeMode, Place, Publish, StageRequest, Staged, Tail, ZeroFlags,
};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::{ParentState, Role, default_grant};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef};
use drystone_testkit::disk::SimDisk;

/// What a driver is asked during a change, in the words of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Stage,
    Store,
    Settle,
    Commit,
    Undo,
    Close,
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Store => "store",
            Self::Settle => "settle",
            Self::Commit => "commit",
            Self::Undo => "undo",
            Self::Close => "close",
        }
    }
}

/// What all scripted drivers of a test have in common. Clones are the same script.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    log: Vec<String>,
    failing: BTreeSet<(Phase, String)>,
    held: BTreeSet<(Phase, String)>,
    wakers: Vec<Waker>,
    requests: BTreeMap<String, u64>,
    modes: BTreeMap<String, NodeMode>,
}

impl Script {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Everything that drivers were asked so far, apart from requests.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// The log so far; it begins anew.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// How often the log says so.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.state().log.iter().filter(|known| *known == line).count()
    }

    /// From now on, `phase` of driver `name` fails (those that can).
    pub(crate) fn fail(&self, phase: Phase, name: &str) {
        self.state().failing.insert((phase, name.to_owned()));
    }

    /// Nothing fails any more.
    pub(crate) fn mend(&self) {
        self.state().failing.clear();
    }

    /// From now on, `phase` of driver `name` stands still (those that can).
    pub(crate) fn hold(&self, phase: Phase, name: &str) {
        self.state().held.insert((phase, name.to_owned()));
    }

    /// Lets go what [`Self::hold`] keeps.
    pub(crate) fn release(&self, phase: Phase, name: &str) {
        let mut state = self.state();
        state.held.remove(&(phase, name.to_owned()));
        state.wakers.drain(..).for_each(Waker::wake);
    }

    /// Waits until the log says so.
    pub(crate) async fn reached(&self, line: &str) {
        poll_fn(|cx| {
            let mut state = self.state();
            if state.log.iter().any(|known| known == line) {
                return Poll::Ready(());
            }
            state.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// How many requests have asked driver `name` where bytes are.
    pub(crate) fn requests(&self, name: &str) -> u64 {
        self.state().requests.get(name).copied().unwrap_or(0)
    }

    /// How driver `name` is used, as of its last commit.
    pub(crate) fn mode(&self, name: &str) -> Option<NodeMode> {
        self.state().modes.get(name).copied()
    }

    fn note(&self, phase: Phase, name: &str) {
        let mut state = self.state();
        state.log.push(format!("{} {name}", phase.word()));
        state.wakers.drain(..).for_each(Waker::wake);
    }

    async fn pass(&self, phase: Phase, name: &str) -> Result<()> {
        self.note(phase, name);
        let key = (phase, name.to_owned());
        poll_fn(|cx| {
            let mut state = self.state();
            if !state.held.contains(&key) {
                return Poll::Ready(());
            }
            state.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        match self.state().failing.contains(&key) {
            true => Err(Error::new(Kind::Io, format!("the test lets {} fail", phase.word()))),
            false => Ok(()),
        }
    }
}

/// New options for a scripted driver.
#[derive(Clone, Copy, Default)]
pub(crate) struct NewOptions {
    pub(crate) request_alignment: Option<u32>,
    pub(crate) len: Option<u64>,
}

type GrantRule = fn(ParentState) -> Grant;
type CheckRule = fn(NodeMode) -> Result<()>;

/// See the module.
pub(crate) struct Scripted {
    name: String,
    script: Script,
    disk: Option<SimDisk>,
    grant: Option<GrantRule>,
    check: Option<CheckRule>,
}

impl Scripted {
    pub(crate) fn device(name: &str, script: &Script, disk: SimDisk) -> Self {
        Self { disk: Some(disk), ..Self::filter(name, script) }
    }

    pub(crate) fn filter(name: &str, script: &Script) -> Self {
        Self { name: name.to_owned(), script: script.clone(), disk: None, grant: None, check: None }
    }

    /// Computes what it wants of its children by a rule of its own.
    pub(crate) fn granting(self, rule: GrantRule) -> Self {
        Self { grant: Some(rule), ..self }
    }

    /// Refuses users by a rule of its own.
    pub(crate) fn checking(self, rule: CheckRule) -> Self {
        Self { check: Some(rule), ..self }
    }
}

struct ScriptedStage {
    name: String,
    script: Script,
    mode: NodeMode,
    options: NewOptions,
}

impl Staged for ScriptedStage {
    fn settle<'a>(&'a mut self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { self.script.pass(Phase::Settle, &self.name).await })
    }

    fn commit(&mut self, publish: &Publish<'_>) {
        self.script.note(Phase::Commit, &self.name);
        self.script.state().modes.insert(self.name.clone(), self.mode);
        if let Some(bytes) = self.options.request_alignment {
            publish.request_alignment(bytes);
        }
        if let Some(len) = self.options.len {
            publish.len(len);
        }
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {
            let _ = self.script.pass(Phase::Undo, &self.name).await;
        })
    }
}

impl Driver for Scripted {
    fn format_name(&self) -> &'static str {
        "scripted"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        *self.script.state().requests.entry(self.name.clone()).or_insert(0) += 1;
        let at = range.start().get();
        let place = match self.disk {
            Some(_) => Place::Device { at },
            None => Place::Child {
                child: ChildKey::File,
                at: HostOffset::new(at),
                tail: Tail::Zeroes,
                transparent: true,
            },
        };
        Ok(Extent { len: range.len(), place })
    }

    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.write_zeroes(range, flags).await })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }

    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.resize(len, preallocation).await })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        self.disk.as_ref().map(|disk| disk as &dyn Disk)
    }

    fn grant(&self, _child: ChildKey, role: Role, parent: ParentState) -> Grant {
        self.grant.map_or_else(|| default_grant(role, parent), |rule| rule(parent))
    }

    fn check(&self, mode: NodeMode) -> Result<()> {
        self.check.map_or(Ok(()), |rule| rule(mode))
    }

    fn stage<'a>(&'a self, request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        let options = request.options.and_then(|options| options.downcast_ref()).copied();
        let staged = ScriptedStage {
            name: self.name.clone(),
            script: self.script.clone(),
            mode: request.new,
            options: options.unwrap_or_default(),
        };
        Box::pin(async move {
            self.script.pass(Phase::Stage, &self.name).await?;
            Ok(Box::new(staged) as Box<dyn Staged>)
        })
    }

    fn store<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.script.pass(Phase::Store, &self.name).await?;
            io.flush().await
        })
    }

    fn close<'a>(&'a self, _local: &'a LocalRef) -> LocalFuture<'a, ()> {
        Box::pin(async {
            let _ = self.script.pass(Phase::Close, &self.name).await;
        })
    }
}
