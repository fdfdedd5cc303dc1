//! An actor as an NBD client: it has an export of its own, and its requests go through the server.
//!
//! A client that stalls asks for more than lies between the server and it, takes nothing, and wants a quiet section of the
//! disk meanwhile: nobody may wait for a client who is inside.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use drystone_base::{GuestOffset, GuestRange, Kind, Result};
use drystone_core::control::Task;
use drystone_export::nbd::{ExportOptions, Removal};
use drystone_nbd::{Command, CommandFlags};
use drystone_played::nbd::NbdClient;
use drystone_testkit::client::Watched;

use super::change::{is_at_head, node_of};
use super::{Player, graph, submit};
use crate::step::{Peer, Request, Target};

/// A client's connection.
pub(super) struct Guest {
    export: String,
    client: NbdClient,
    watched: Watched<NbdClient>,
}

/// How a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Goodbye,
    WithoutAWord,
}

/// How many reads a client asks for that stalls.
const READS: u64 = 12;
/// The longest of them.
const READ_BYTES_MAX: u64 = 64 << 10;

impl Guest {
    pub(super) async fn submit(&mut self, request: Request) -> Result<()> {
        let done = self.client.while_connected(submit(&mut self.watched, request)).await;
        done.unwrap_or_else(|| panic!("the server hung up during {request}"))
    }
}

impl Player {
    pub(super) async fn peer(&mut self, step: Peer) {
        let result = match step {
            Peer::Connect => self.connect().await,
            Peer::Stall => self.stall().await,
            Peer::Disconnect => return self.go(Manner::Goodbye).await,
            Peer::Vanish => return self.go(Manner::WithoutAWord).await,
        };
        if let Some(result) = result {
            // Somebody changes the length, works on the image, or it is read-only.
            self.note(step.name(), &[Kind::InUse, Kind::ReadOnly, Kind::NotFound], result);
        }
    }

    async fn connect(&mut self) -> Option<Result<()>> {
        self.go(Manner::Goodbye).await;
        let hall = self.stage.hall.as_ref()?;
        let (server, export, main) = (Arc::clone(&hall.server), hall.next_name(), self.disk.main.id());
        let name = export.clone();
        let work = async move |task: &mut Task<'_>| {
            let top = task.gs().with(|graph| graph.node(node_of(graph, main)?));
            let Some(top) = top else { return Ok(false) };
            let options = ExportOptions { node: top.name, name, writable: true, ..ExportOptions::default() };
            server.add_export(task, options).await?;
            Ok(task.gs().with(|graph| is_at_head(graph, main, top.id)))
        };
        match self.stage.on_control(work).await {
            Ok(true) => {}
            // A snapshot has come between, and the client would see what is under it.
            Ok(false) => {
                self.remove(export).await;
                return None;
            }
            Err(error) => return Some(Err(error)),
        }
        let client = match hall.enter(&export, &self.local).await {
            Ok(client) => client,
            Err(error) => panic!("'{export}' cannot be entered: {}", error.report()),
        };
        let watched = Watched::new(client.clone(), &self.disk.model);
        self.guest = Some(Guest { export, client, watched });
        Some(Ok(()))
    }

    /// Asks, listens to nothing until the disk was quiet, and then to everything.
    async fn stall(&self) -> Option<Result<()>> {
        let guest = self.guest.as_ref()?;
        let len = self.disk.model.borrow().len().min(READ_BYTES_MAX);
        let range = GuestRange::new(GuestOffset::ZERO, len);
        guest.client.stall();
        let asking = async {
            let mut asked = Vec::new();
            for _ in 0..READS {
                let read = self.disk.model.borrow_mut().begin_read(range);
                let sent = guest.client.send(Command::Read, range, CommandFlags::NONE, &[]).await;
                match sent {
                    Ok(cookie) => asked.push((read, cookie)),
                    // It knows the new length before the model does.
                    Err(_) if self.disk.was_shortened() => self.disk.model.borrow_mut().abandon_read(read),
                    Err(fault) => panic!("a read cannot be sent: {fault:?}"),
                }
            }
            asked
        };
        let draining = async {
            let drain = async move |task: &mut Task<'_>, desk: &graph::Desk| {
                Some(graph::drain(task, desk, Target::Image(0), 0).await)
            };
            let result = self.command(drain).await;
            guest.client.listen();
            result
        };
        let (asked, result) = join(asking, draining).await;
        for (read, cookie) in asked {
            let reply = guest.client.reply(cookie).await;
            let mut model = self.disk.model.borrow_mut();
            match reply {
                Ok(reply) => model
                    .end_read(read, &reply.data)
                    .unwrap_or_else(|wrong| panic!("read of {range} by a client that stalled: {wrong}")),
                Err(fault) => {
                    model.abandon_read(read);
                    let is_excused = self.stage.common.is_troubled() || self.stage.common.is_damaged();
                    assert!(is_excused, "a read failed: {fault:?}");
                }
            }
        }
        result
    }

    /// The client goes, if there is one, and its export.
    pub(super) async fn go(&mut self, manner: Manner) {
        let Some(Guest { export, client, watched }) = self.guest.take() else { return };
        drop(watched);
        match manner {
            Manner::Goodbye => client.leave().await.unwrap_or_else(|fault| panic!("no goodbye: {fault:?}")),
            Manner::WithoutAWord => client.vanish(),
        }
        self.remove(export).await;
    }

    /// An export goes.
    async fn remove(&self, export: String) {
        let Some(hall) = &self.stage.hall else { return };
        let server = Arc::clone(&hall.server);
        // It goes also when its last flush fails.
        let work =
            async move |task: &mut Task<'_>| Ok(server.remove_export(task, &export, Removal::Hard).await);
        let result = self.stage.on_control(work).await.and_then(|removed| removed);
        self.note("export goes", &[], result);
    }
}

/// Both outputs.
async fn join<A, B>(one: impl Future<Output = A>, two: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut two) = (pin!(one), pin!(two));
    let (mut a, mut b) = (None, None);
    poll_fn(|cx| {
        if a.is_none()
            && let Poll::Ready(done) = one.as_mut().poll(cx)
        {
            a = Some(done);
        }
        if b.is_none()
            && let Poll::Ready(done) = two.as_mut().poll(cx)
        {
            b = Some(done);
        }
        match (a.take(), b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (left, right) => {
                (a, b) = (left, right);
                Poll::Pending
            }
        }
    })
    .await
}
