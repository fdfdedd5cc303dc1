//! [`Player`]: an actor at work: its requests on a lane of its own, and its changes through the control thread.
//!
//! What may fail, and how, is said in one place for requests ([`Player::excuse`]) and in one for commands (`change`); any
//! other failure ends the run.

mod bitmap;
mod change;
mod graph;
mod job;
mod keep;
mod peer;
mod trouble;

use std::rc::Rc;

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::runtime::LocalRef;
use drystone_testkit::client::{BackendClient, Target, Watched};
use drystone_testkit::model::DiscardRule;
use drystone_testkit::sim::abandon_after;

use crate::script::Actor;
use crate::stage::{Disk, Stage};
use crate::step::{Request, Step};

use self::peer::Guest;

type Client = Watched<BackendClient>;

/// Compressed writes are made of pieces of so many bytes: some clusters, one, or a part of one, which is refused.
const PRESS_BYTES: u64 = 4096;

/// An actor at work.
pub(crate) struct Player {
    stage: Rc<Stage>,
    disk: Rc<Disk>,
    local: LocalRef,
    client: Client,
    /// The user through which requests go, if it is not the one that stays.
    visit: Option<Visit>,
    /// Its connection, if it is an NBD client.
    guest: Option<Guest>,
}

struct Visit {
    backend: Backend<ReadWrite>,
}

impl Player {
    /// An actor of `disk` on the thread `local`.
    pub(crate) fn new(stage: &Rc<Stage>, disk: &Rc<Disk>, local: LocalRef) -> Self {
        let client = Watched::new(BackendClient::new(&disk.main, &local), &disk.model);
        Self { stage: Rc::clone(stage), disk: Rc::clone(disk), local, client, visit: None, guest: None }
    }

    /// Does one thing after the other.
    pub(crate) async fn play(mut self, actor: Actor) {
        for step in actor.steps {
            match step {
                Step::Abandon(polls, step) if self.guest.is_none() && may_abandon(&step) => {
                    if abandon_after(polls, self.perform(*step)).await.is_none() {
                        self.stage.common.counts().event("callers that went away", 1);
                    }
                }
                Step::Abandon(_, step) => self.perform(*step).await,
                step => self.perform(step).await,
            }
        }
        self.leave().await;
        self.go(peer::Manner::Goodbye).await;
    }

    async fn perform(&mut self, step: Step) {
        match step {
            Step::Wait(ns) => self.local.sleep_until(self.local.now_ns().saturating_add(ns)).await,
            Step::Request(request) => self.request(request).await,
            Step::Change(change) => self.change(change).await,
            Step::Job(step) => self.job(step).await,
            Step::Peer(step) => self.peer(step).await,
            Step::Trouble(trouble) => self.trouble(&trouble),
            Step::Abandon(..) => {}
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
        let result = match (&mut self.guest, request) {
            (None, Request::Status(range)) => self.client.status(range).await.map(drop),
            (None, Request::Press(range)) => self.client.write_compressed(range).await,
            (None, request) => submit(&mut self.client, request).await,
            (Some(_), Request::Status(_)) => return,
            (Some(guest), request) => guest.submit(request).await,
        };
        self.stage.common.counts().request(request.name(), result.is_ok());
        if let Err(error) = result {
            self.excuse(request, &error);
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
            Request::Press(range) => Request::Press(inside(range.align_out(PRESS_BYTES))?),
            Request::Zero(range, may_unmap) => Request::Zero(inside(range)?, may_unmap),
            Request::Discard(range) => Request::Discard(inside(range)?),
            Request::Status(range) => Request::Status(inside(range)?),
            Request::Flush => Request::Flush,
            Request::Resize(_) if !self.may_resize() => return None,
            Request::Resize(by) => Request::Resize(len.saturating_add(by)),
        })
    }

    fn may_resize(&self) -> bool {
        self.disk.resizes && self.visit.is_none() && self.guest.is_none()
    }

    /// Whether a request may fail like this now.
    ///
    /// # Panics
    /// If not.
    fn excuse(&self, request: Request, error: &Error) {
        let is_change = !matches!(request, Request::Read(_) | Request::Status(_) | Request::Flush);
        let is_excused = self.disk.is_forgotten()
            || match error.kind() {
                // What the user was not granted.
                Kind::PermissionDenied | Kind::ReadOnly => {
                    is_change && (self.visit.is_some() || self.disk.front.was_frozen())
                }
                Kind::Io | Kind::NoSpace => self.stage.common.is_troubled(),
                // Version 2 of the format cannot hide a longer image behind a new part.
                // Not every format compresses, and not every cluster is as small as what is asked for.
                // Nor can it say how long the disk of an internal snapshot was.
                Kind::Unsupported => matches!(request, Request::Resize(_) | Request::Press(_)),
                // Who came while the disk was short knows that length.
                Kind::InvalidInput => {
                    matches!(request, Request::Press(_)) || self.guest.is_some() && self.disk.was_shortened()
                }
                Kind::OutOfRange => self.disk.was_shortened(),
                _ => false,
            };
        assert!(is_excused, "{request} of disk {} failed: {}", self.disk.number, error.report());
    }
}

/// The length of a disk that is shorter by `by`: something is left, and something goes.
fn shorter(len: u64, by: u64) -> Option<u64> {
    let left = len.saturating_sub(by).max(LEN_LEAST);
    (left < len).then_some(left)
}

/// Disks do not become shorter than this.
const LEN_LEAST: u64 = 4096;

/// Whether nobody has to know how it ended: whoever changes the length of a disk or keeps it does, and whoever gets a user.
fn may_abandon(step: &Step) -> bool {
    use crate::step::Change as C;
    match step {
        Step::Request(Request::Resize(_)) => false,
        Step::Change(C::Grow(_) | C::Shorten(_) | C::Keep(..) | C::Visit(_) | C::Leave) => false,
        Step::Wait(_) | Step::Request(_) | Step::Change(_) | Step::Job(_) => true,
        Step::Peer(_) | Step::Trouble(_) | Step::Abandon(..) => false,
    }
}

/// Makes a request and waits for it.
async fn submit<T: Target>(client: &mut Watched<T>, request: Request) -> Result<()> {
    match request {
        Request::Read(range) => client.read(range).await.map(drop),
        Request::Write(range, fua) => client.write(range, fua).await,
        // Who comes from outside cannot ask for more.
        Request::Press(range) => client.write(range, false).await,
        Request::Zero(range, may_unmap) => client.write_zeroes(range, may_unmap).await,
        Request::Discard(range) => client.discard(range, DiscardRule::OldOrZero).await,
        Request::Status(_) => Ok(()),
        Request::Flush => client.flush().await,
        Request::Resize(len) => client.resize(len).await,
    }
}
