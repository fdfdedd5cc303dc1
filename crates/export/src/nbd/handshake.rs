//! The handshake of a connection: from the greeting to the first request, within a time.

use std::io::IoSlice;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_nbd::Exports;
use drystone_nbd::server::{Negotiated, ServerHandshake, Step};

use super::inbound::Inbound;
use super::peer::{Sink, Source};

/// What a handshake has led to.
pub(super) struct Agreed {
    pub(super) negotiated: Negotiated,
    /// What the client is waiting to hear: it is inside.
    pub(super) last_words: Vec<u8>,
}

/// Negotiates until `until_ns`. `None`: the client has said goodbye. What was received behind the handshake stays in
/// `inbound`.
///
/// # Errors
/// Of any kind: the connection is to be closed without another word.
pub(super) async fn run(
    (source, sink): (&mut impl Source, &impl Sink),
    lane: &mut Lane,
    inbound: &mut Inbound,
    exports: &dyn Exports,
    until_ns: u64,
) -> Result<Option<Agreed>> {
    let mut output = Vec::new();
    let mut handshake = ServerHandshake::new(&mut output);
    loop {
        send(sink, lane, &mut output, until_ns).await?;
        while !inbound.unread().is_empty() {
            let (used, step) = handshake.receive(exports, inbound.unread(), &mut output)?;
            inbound.consume(used);
            if let Step::Transmission(negotiated) = step {
                return Ok(Some(Agreed { negotiated, last_words: output }));
            }
            // Each answer is sent before the next question is looked at: a client that does not listen gets no more.
            send(sink, lane, &mut output, until_ns).await?;
            if step == Step::Aborted {
                return Ok(None);
            }
        }
        let received = source.recv(lane, inbound.space(), Some(until_ns)).await?;
        if received == 0 {
            return Err(Error::new(Kind::Disconnected, "the client hung up during the handshake"));
        }
        inbound.received(received);
    }
}

/// Sends all of `output`.
pub(super) async fn send(
    sink: &impl Sink,
    lane: &mut Lane,
    output: &mut Vec<u8>,
    until_ns: u64,
) -> Result<()> {
    let mut rest = &output[..];
    while !rest.is_empty() {
        match sink.try_send(&[IoSlice::new(rest)])? {
            Some(sent_bytes) => rest = rest.get(sent_bytes..).unwrap_or_default(),
            None => sink.writable(lane, Some(until_ns)).await?,
        }
    }
    output.clear();
    Ok(())
}
