//! The writer of a connection: sends the replies that no slot has sent, and waits for a client that is slow to take them.

use std::rc::Rc;

use drystone_base::planted::{Mistake, is_planted};
use drystone_core::lane::Lane;

use super::conn::{Conn, Stage};
use super::peer::Sink;

pub(super) async fn run<S: Sink>(conn: Rc<Conn<S>>, mut lane: Lane) {
    while conn.something_to_send().await {
        if conn.is_blocked() {
            // Planted: one lane cannot hold a ticket here, so whoever wants to takes a second one.
            let mut second =
                is_planted(Mistake::TicketHeldOutside).then(|| Lane::new(lane.local_ref().clone()));
            let _inside = match &mut second {
                Some(second) => Some(second.enter(&conn.export.reader).await),
                None => None,
            };
            match conn.sink.writable(&mut lane, None).await {
                Ok(()) => conn.unblock(),
                Err(_) => conn.advance(Stage::Over),
            }
        }
        conn.flush();
    }
}
