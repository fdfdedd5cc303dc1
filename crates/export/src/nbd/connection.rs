//! One connection from its greeting to its end.
//!
//! ```text
//!   handshake ──► transmission ──► nothing running ──► replies sent, or LINGER_NS over ──► closed, tasks gone
//!   (10 s)        reader, slots,    what has entered       only after an orderly end
//!                 writer            the graph ends by itself
//! ```
//! Whatever ends a connection, it is over only when nothing of it is left in the graph: whoever waits for that (the removal
//! of an export, the end of a server) waits for devices, never for a client.

use std::rc::Rc;
use std::sync::Arc;

use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_nbd::Session;
use drystone_nbd::server::Negotiated;

use super::conn::{Conn, Stage};
use super::crowd::{Of, Place};
use super::export::{Export, View};
use super::handshake::{self, Agreed};
use super::inbound::Inbound;
use super::peer::{Sink, Source, unless};
use super::reader::{End, Reader};
use super::server::Shared;

/// How long a client that has said goodbye, or whose export goes, may take to take its last replies.
const LINGER_NS: u64 = 1_000_000_000;

/// Serves a client on the thread of `local`, the server's thread number `thread`.
pub(super) async fn serve(
    local: LocalRef,
    (source, sink): (impl Source, impl Sink),
    (shared, thread): (Arc<Shared>, usize),
    place: Place,
) {
    let mut connection = Connection { lane: Lane::new(local.clone()), local, shared, thread, place };
    connection.run(source, sink).await;
}

struct Connection {
    lane: Lane,
    local: LocalRef,
    shared: Arc<Shared>,
    thread: usize,
    place: Place,
}

impl Connection {
    async fn run(&mut self, mut source: impl Source, sink: impl Sink) {
        let pool = self.shared.pool(self.thread);
        let mut inbound = Inbound::new(pool.clone());
        let Some((session, export)) = self.handshake((&mut source, &sink), &mut inbound).await else {
            return sink.close();
        };
        let limits = self.shared.options().limits;
        let conn = Conn::new(sink, (session, export), (pool, limits), self.local.clone());
        self.transmission(&conn, Reader { conn: Rc::clone(&conn), source, inbound }).await;
    }

    /// `None` if it came to nothing.
    async fn handshake(
        &mut self,
        (source, sink): (&mut impl Source, &impl Sink),
        inbound: &mut Inbound,
    ) -> Option<(Session, Arc<Export>)> {
        let until_ns = self.local.now_ns().saturating_add(self.shared.options().handshake_ns);
        let Self { lane, local, shared, place, .. } = self;
        let has_room = |export: &Export| {
            let max = usize::try_from(export.options().connections_max).unwrap_or(usize::MAX);
            max == 0 || shared.crowd.count(Of::Export(export.id())) < max
        };
        let view =
            View { registry: &shared.registry, lane: Lane::new(local.clone()).into(), has_room: &has_room };
        let negotiating = handshake::run((source, sink), lane, inbound, &view, until_ns);
        let agreed = unless(negotiating, place.told_to_go()).await?.ok()?;
        let Agreed { negotiated, mut last_words } = agreed?;
        // Before the client hears that it is inside, so that whoever comes after that finds it counted.
        let export = self.enter(&negotiated)?;
        let sending = handshake::send(sink, &mut self.lane, &mut last_words, until_ns);
        unless(sending, self.place.told_to_go()).await?.ok()?;
        Some((negotiated.session, export))
    }

    /// Takes a place among the connections of the export; `None` if it is full or has gone.
    fn enter(&self, negotiated: &Negotiated) -> Option<Arc<Export>> {
        // In this order: whoever removes the export takes it off the offer first, and tells its connections then.
        let export = self.shared.registry.by_id(negotiated.export)?;
        if !self.place.enter(export.id(), export.options().connections_max) {
            return None;
        }
        self.shared.registry.by_id(negotiated.export)
    }

    async fn transmission<R: Source, S: Sink>(&mut self, conn: &Rc<Conn<S>>, reader: Reader<R, S>) {
        let reading = reader.run(&mut self.lane);
        let end = unless(reading, self.place.told_to_go()).await;
        conn.pause();
        match end {
            // The client can still take replies.
            Some(End::Orderly) => {}
            Some(End::Broken) => conn.advance(Stage::Over),
            None => conn.advance(Stage::Ending),
        }
        if unless(conn.idle(), self.place.told_to_go()).await.is_none() {
            conn.advance(Stage::Ending);
            conn.idle().await;
        }
        let until_ns = self.local.now_ns().saturating_add(LINGER_NS);
        unless(conn.all_sent(), self.local.sleep_until(until_ns)).await;
        conn.advance(Stage::Over);
        conn.tasks_gone().await;
    }
}
