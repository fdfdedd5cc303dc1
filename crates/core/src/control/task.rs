//! [`Task`]: one control task, and the only way to wait on the control thread.

use std::future::Future;
use std::rc::Rc;

use drystone_base::Result;

use crate::backend::{Backend, Mode, ReadWrite, RootId};
use crate::control::change::{Admission, Change, StagedPlan};
use crate::control::commit::After;
use crate::control::gs::{Gs, Inner};
use crate::control::patience::hurrying;
use crate::control::plan::{Checked, Plan};
use crate::control::quiet::{OWN_SECTION, Quiet, Sections};
use crate::graph::node::NodeId;
use crate::graph::shape::Place;
use crate::lane::{Lane, Ticket};
use crate::runtime::{Local, LocalRef};

/// One control task: a command, a change. Not `Clone`.
///
/// Whatever waits takes `&mut Task`, and so does entering the graph, whose ticket borrows the task: no ticket is alive while
/// its task drains, is admitted, or sleeps.
pub struct Task<'r> {
    gs: &'r Gs,
    lane: Lane,
    pub(crate) sections: Sections,
}

impl<'r> Task<'r> {
    pub(crate) fn new(gs: &'r Gs) -> Self {
        Self { gs, lane: Lane::new(gs.inner.local.clone()), sections: Sections::default() }
    }

    /// The global state. The reference ends with the borrow of the task.
    #[must_use]
    pub fn gs(&self) -> &Gs {
        self.gs
    }

    fn inner(&self) -> &Rc<Inner> {
        &self.gs.inner
    }

    /// The control thread.
    #[must_use]
    pub fn local(&self) -> &dyn Local {
        &*self.gs.inner.local
    }

    /// A counted handle of the control thread.
    #[must_use]
    pub fn local_ref(&self) -> &LocalRef {
        &self.gs.inner.local
    }

    /// Enters the graph on the control thread. Below a quiet section of this task it would wait for itself: every operation
    /// of the ticket fails then, with [`drystone_base::Kind::InvalidInput`].
    pub async fn enter<M: Mode>(&mut self, backend: &Backend<M>) -> Ticket<'_, M> {
        match self.sections.demand_open(&self.gs.inner, backend.root().gate()) {
            Ok(()) => self.lane.enter(backend).await,
            Err(_) => self.lane.refuse(OWN_SECTION),
        }
    }

    /// Enters the graph and flushes, with the patience of who changes it: see [`crate::driver::Driver::hurry`].
    ///
    /// # Errors
    /// As for any flush.
    pub async fn flush(&mut self, backend: &Backend<ReadWrite>) -> Result<()> {
        let (gs, id) = (self.gs, backend.id());
        let flush = async { self.enter(backend).await.flush().await };
        hurrying(&gs.inner.local, flush, || gs.inner.shape.borrow().nodes_behind(&[id])).await
    }

    /// Waits for `work`, for which requests of `roots` have to end, with the same patience.
    pub async fn attend<T>(&mut self, roots: &[RootId], work: impl Future<Output = T>) -> T {
        let inner = self.inner();
        hurrying(&inner.local, work, || inner.shape.borrow().nodes_behind(roots)).await
    }

    /// Waits until `at_ns` of [`Local::now_ns`].
    pub async fn sleep_until(&mut self, at_ns: u64) {
        self.gs.inner.local.sleep_until(at_ns).await;
    }

    /// Waits until no request is in flight below any root that reaches `nodes`, and keeps new ones out. Does not flush.
    /// Other disks do not notice.
    pub async fn drain(&mut self, nodes: &[NodeId]) -> Quiet {
        let places = nodes.iter().map(|id| Place::Node(*id)).collect();
        Quiet::begin_listed(self.inner(), places, &self.sections).await
    }

    /// As [`Self::drain`], for every node that there is and every one that comes before the section ends.
    pub async fn drain_all(&mut self) -> Quiet {
        Quiet::begin_listed(self.inner(), vec![Place::Everything], &self.sections).await
    }

    /// Asks the drivers of a checked plan to prepare. The gates are open.
    pub async fn stage(&mut self, checked: Checked) -> Result<StagedPlan> {
        StagedPlan::prepare(self.inner(), checked).await
    }

    /// Waits for the right to change and for a drain of what is written. If the graph has changed since the plan was
    /// checked, it is checked and staged again.
    pub async fn admit(&mut self, staged: StagedPlan) -> Result<Change<'_>> {
        let inner = Rc::clone(self.inner());
        let mut staged = staged;
        loop {
            match staged.admit().await? {
                Admission::Go(change) => return Ok(*change),
                Admission::Again(plan) => {
                    let checked = self.check(plan).await?;
                    staged = StagedPlan::prepare(&inner, checked).await?;
                }
            }
        }
    }

    /// Runs a plan through all its phases. On an error, nothing has changed and what the plan had opened is closed.
    pub async fn apply(&mut self, plan: Plan) -> Result<()> {
        let after = self.commit(plan).await?;
        after.finish().await;
        Ok(())
    }

    /// As [`Self::apply`], up to the commit: what is left is to close removed nodes.
    pub async fn commit(&mut self, plan: Plan) -> Result<After> {
        let checked = self.check(plan).await?;
        let staged = self.stage(checked).await?;
        let change = self.admit(staged).await?;
        Ok(change.settle().await?.commit())
    }

    /// Checks a plan; closes what a refused one would have brought in.
    async fn check(&self, plan: Plan) -> Result<Checked> {
        match plan.check(self.gs) {
            Ok(checked) => Ok(checked),
            Err((plan, error)) => {
                plan.close().await;
                Err(error)
            }
        }
    }
}
