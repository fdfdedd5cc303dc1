//! [`Player`]: an actor at work: its requests on a lane of its own, and its changes through the control thread.
//!
//! What may fail, and how, is said in one place ([`Player::excuse`]); any other failure ends the run.

mod change;

use std::rc::Rc;

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::graph::permission::Perm;
use drystone_core::runtime::LocalRef;
use drystone_testkit::client::{BackendClient, Watched};
use drystone_testkit::model::DiscardRule;
use drystone_testkit::sim::abandon_after;

use crate::script::Actor;
use crate::stage::{Disk, Stage};
use crate::step::{Request, Step, VisitKind};

type Client = Watched<BackendClient>;

/// An actor at work.
pub(crate) struct Player {
    stage: Rc<Stage>,
    disk: Rc<Disk>,
    local: LocalRef,
    client: Client,
    /// The user through which requests go, if it is not the one that stays.
    visit: Option<Visit>,
}

struct Visit {
    backend: Backend<ReadWrite>,
    kind: VisitKind,
}

impl Player {
    /// An actor of `disk` on the thread `local`.
    pub(crate) fn new(stage: &Rc<Stage>, disk: &Rc<Disk>, local: LocalRef) -> Self {
        let client = Watched::new(BackendClient::new(&disk.main, &local), &disk.model);
        Self { stage: Rc::clone(stage), disk: Rc::clone(disk), local, client, visit: None }
    }

    /// Does one thing after the other.
    pub(crate) async fn play(mut self, actor: Actor) {
        for step in actor.steps {
            self.perform(step).await;
        }
        self.leave().await;
    }

    async fn perform(&mut self, step: Step) {
        match step {
            Step::Wait(ns) => self.local.sleep_until(self.local.now_ns().saturating_add(ns)).await,
            Step::Request(request) => self.request(request).await,
            Step::Abandon(polls, request) => self.abandon(polls, request).await,
            Step::Change(change) => self.change(change).await,
        }
    }

    async fn request(&mut self, request: Request) {
        let Some(request) = self.fit(request) else { return };
        let _busy = match request {
            Request::Resize(_) => match self.disk.front.try_take() {
                None => return,
                busy => busy,
            },
            _ => None,
        };
        let result = submit(&mut self.client, request).await;
        self.stage.common.counts().request(request.name(), result.is_ok());
        if let Err(error) = result {
            self.excuse(request, &error);
        }
    }

    /// A request that nobody waits for any more after some polls.
    async fn abandon(&mut self, polls: u64, request: Request) {
        // Whoever resizes has to know when that is over.
        let Some(request) = self.fit(request).filter(|one| !matches!(one, Request::Resize(_))) else {
            return;
        };
        let result = abandon_after(polls, submit(&mut self.client, request)).await;
        match result {
            None => self.stage.common.counts().event("abandoned requests", 1),
            Some(result) => {
                self.stage.common.counts().request(request.name(), result.is_ok());
                if let Err(error) = result {
                    self.excuse(request, &error);
                }
            }
        }
    }

    /// The request, as far as it is inside of the disk.
    fn fit(&self, request: Request) -> Option<Request> {
        let len = self.disk.model.borrow().len();
        let inside = |range: GuestRange| {
            let fitting = range.take(len.saturating_sub(range.start().get()));
            (!fitting.is_empty()).then_some(fitting)
        };
        Some(match request {
            Request::Read(range) => Request::Read(inside(range)?),
            Request::Write(range, fua) => Request::Write(inside(range)?, fua),
            Request::Zero(range, may_unmap) => Request::Zero(inside(range)?, may_unmap),
            Request::Discard(range) => Request::Discard(inside(range)?),
            Request::Status(range) => Request::Status(inside(range)?),
            Request::Flush => Request::Flush,
            // Disks only grow.
            Request::Resize(to) => Request::Resize(len.saturating_add(to)),
        })
    }

    /// Whether a request may fail like this now.
    ///
    /// # Panics
    /// If not.
    fn excuse(&self, request: Request, error: &Error) {
        let is_change = !matches!(request, Request::Read(_) | Request::Status(_) | Request::Flush);
        let is_excused = match error.kind() {
            // What the user was not granted.
            Kind::PermissionDenied | Kind::ReadOnly => {
                is_change && self.visit.as_ref().is_some_and(|visit| visit.kind != VisitKind::Writer)
            }
            _ => false,
        };
        assert!(is_excused, "{request} of disk {} failed: {}", self.disk.number, error.report());
    }
}

/// Makes a request and waits for it.
async fn submit(client: &mut Client, request: Request) -> Result<()> {
    match request {
        Request::Read(range) => client.read(range).await.map(drop),
        Request::Write(range, fua) => client.write(range, fua).await,
        Request::Zero(range, may_unmap) => client.write_zeroes(range, may_unmap).await,
        Request::Discard(range) => client.discard(range, DiscardRule::OldOrZero).await,
        Request::Status(range) => client.status(range).await.map(drop),
        Request::Flush => client.flush().await,
        Request::Resize(len) => client.resize(len).await,
    }
}

/// What a user wants and shares.
fn grant_of(kind: VisitKind) -> drystone_core::graph::permission::Grant {
    let reads = Perm::CONSISTENT_READ;
    let (perm, shared) = match kind {
        VisitKind::Writer => (reads.with(Perm::WRITE), Perm::ALL),
        VisitKind::Reader => (reads, Perm::ALL),
        VisitKind::Jealous => (reads, Perm::ALL.without(Perm::WRITE)),
    };
    drystone_core::graph::permission::Grant { perm, shared }
}
