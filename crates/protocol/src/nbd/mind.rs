//! [`mind`]: whether a server that owes an answer still says something.
//!
//! ```text
//!   request ──► look ── moved ──► look ── silent ──► probe: a short read ──► answered: it takes its time over something
//!               1 s               1 s                                  └──► silent, silent, ... : it is mute
//! ```
//! A flush of a slow disk takes minutes, and looks like a server that has died. So once nothing has moved for a second, the
//! server is asked for something else. A server that does one thing after the other cannot be told from a mute one.
//!
//! Nobody is cut off for being silent: users wait for a disk as long as they like. Whoever wants to change the graph, or to
//! end, asks [`is_mute`], or sees it at the socket.
//!
//! Invariants: one probe at a time; nothing happens while nothing is under way, nor once the server counts as mute.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::Poll;

use drystone_buf::Buf;
use drystone_core::runtime::LocalRef;
use drystone_nbd::{Command, CommandFlags, Request};

use super::conn::{Conn, Job, Reply};
use super::traffic::Flight;

/// From one look to the next.
const LOOK_NS: u64 = 1_000_000_000;
/// A server that was silent at so many looks in a row is mute.
const MUTE_LOOKS: u32 = 10;

/// Whether the server has said and taken nothing for long, though something was asked. Any thread.
pub(super) fn is_mute(conn: &Conn) -> bool {
    conn.silences.load(Ordering::Relaxed) >= MUTE_LOOKS
}

/// Looks after a connection on its thread. Never ends.
pub(super) async fn mind(conn: &Conn, flight: &RefCell<Flight>, local: &LocalRef) {
    let mut seen = conn.moves();
    let mut silences = 0;
    loop {
        until(flight, |flight| flight.count() > 0 && (silences < MUTE_LOOKS || conn.moves() != seen)).await;
        local.sleep_until(local.now_ns().saturating_add(LOOK_NS)).await;
        let now = conn.moves();
        let is_silent = now == seen && flight.borrow().count() > 0;
        silences = if is_silent { silences + 1 } else { 0 };
        seen = now;
        conn.silences.store(silences, Ordering::Relaxed);
        if silences == 1 && !flight.borrow().is_probing() {
            probe(conn);
        }
    }
}

/// Waits until `holds`, which is asked now and whenever a request begins or ends.
async fn until(flight: &RefCell<Flight>, holds: impl Fn(&Flight) -> bool) {
    poll_fn(|cx| {
        let mut flight = flight.borrow_mut();
        if holds(&flight) {
            return Poll::Ready(());
        }
        flight.set_minder(cx.waker());
        Poll::Pending
    })
    .await;
}

/// Asks for the start of the disk.
fn probe(conn: &Conn) {
    let min_bytes = conn.session.block.min_bytes;
    let Ok(room) = usize::try_from(min_bytes) else { return };
    let (len_bytes, command, flags) = (u64::from(min_bytes), Command::Read, CommandFlags::NONE);
    if len_bytes > conn.session.len_bytes {
        return;
    }
    let request = Request { cookie: 0, offset_bytes: 0, len_bytes, command, flags };
    // A connection that has ended meanwhile needs none.
    let _ = conn.push(Job { request, buf: Some(Buf::zeroed(room)), reply: Reply::Nobody });
}
