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
use drystone_sys::ThreadHandle;

use super::conn::{Conn, Stage};
use super::crowd::{Of, Place};
use super::export::{Export, View};
use super::handshake::{self, Agreed};
use super::inbound::Inbound;
use super::peer::{Sink, Source, unless};
use super::reader::{End, Reader};
use super::server::{Shared, shards};

/// How long a client that has said goodbye, or whose export goes, may take to take its last replies.
const LINGER_NS: u64 = 1_000_000_000;

/// Serves a client: the handshake on the thread of `local`, the rest on one that its export wants.
pub(super) async fn serve(
    local: LocalRef,
    (mut source, sink): (impl Source + Send, impl Sink + Send),
    shared: Arc<Shared>,
    place: Place,
) {
    let mut inbound = Inbound::new(shared.pool(local.shard()));
    let mut connection = Connection::on(local, shared, place);
    let Some(entered) = connection.handshake((&mut source, &sink), &mut inbound).await else {
        return sink.close();
    };
    let Some(thread) = connection.moves_to(&entered.1) else {
        return connection.run((source, sink), inbound, entered).await;
    };
    let Connection { shared, place, .. } = connection;
    // A thread that has ended drops the connection.
    let _ = thread.spawn(async move |local| {
        Connection::on(local, shared, place).run((source, sink), inbound, entered).await;
    });
}

struct Connection {
    lane: Lane,
    local: LocalRef,
    shared: Arc<Shared>,
    place: Place,
}

impl Connection {
    fn on(local: LocalRef, shared: Arc<Shared>, place: Place) -> Self {
        Self { lane: Lane::new(local.clone()), local, shared, place }
    }

    /// The thread that the rest of the connection belongs on, if it is not this one.
    fn moves_to(&self, export: &Export) -> Option<ThreadHandle> {
        let threads = &export.options().threads;
        let thread = self.place.move_to(&shards(threads))?;
        threads.iter().find(|handle| handle.shard() == thread).cloned()
    }

    async fn run(
        mut self,
        (source, sink): (impl Source, impl Sink),
        inbound: Inbound,
        entered: (Session, Arc<Export>),
    ) {
        let limits = self.shared.options().limits;
        let pool = self.shared.pool(self.local.shard());
        let conn = Conn::new(sink, entered, (pool, limits), self.local.clone());
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
