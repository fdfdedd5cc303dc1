//! The reader of a connection: takes requests off the stream and gives them to slots.
//!
//! It stops reading while what requests occupy is at its bound, so a client that sends and never takes replies is
//! stopped by its own socket.

use std::rc::Rc;

use drystone_buf::Buf;
use drystone_core::lane::Lane;
use drystone_nbd::{Admitted, Command, ReplyTo, Request, RequestHeader};

use super::conn::Conn;
use super::inbound::Inbound;
use super::load::Cost;
use super::mailbox::Job;
use super::peer::{Sink, Source};
use super::slot::{cost, refused};

/// Why no more requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client said goodbye or hung up, or the server is ending: what runs is finished and answered.
    Orderly,
    /// What came was no request, or the connection broke: nothing more is sent.
    Broken,
}

/// The reader's state.
pub(super) struct Reader<R, S> {
    pub(super) source: R,
    pub(super) conn: Rc<Conn<S>>,
    pub(super) inbound: Inbound,
}

impl<R: Source, S: Sink> Reader<R, S> {
    /// Takes requests until there will be no more.
    pub(super) async fn run(mut self, lane: &mut Lane) -> End {
        loop {
            if let Err(end) = self.take_one(lane).await {
                return end;
            }
        }
    }

    /// Takes one request with what belongs to it, and runs or refuses it.
    async fn take_one(&mut self, lane: &mut Lane) -> Result<(), End> {
        let (header, Admitted { payload_bytes, request }) = self.header(lane).await?;
        let payload_bytes = usize::try_from(payload_bytes).unwrap_or(usize::MAX);
        match request {
            Ok(Request { command: Command::Disconnect, .. }) => Err(End::Orderly),
            Ok(request) => {
                let cost = cost(&request);
                self.room(cost).await?;
                let payload = self.payload(lane, payload_bytes).await;
                let payload = payload.inspect_err(|_| self.conn.give_back(cost))?;
                self.conn.dispatch(Job { request, payload, cost });
                Ok(())
            }
            Err(refusal) => {
                self.skip(lane, payload_bytes).await?;
                let cost = Cost::request(0);
                self.room(cost).await?;
                let to = ReplyTo::new(self.conn.session.style, header.cookie, header.offset_bytes);
                self.conn.reply(refused(to, refusal, cost));
                self.conn.push_out();
                Ok(())
            }
        }
    }

    /// The next header, and what the session says to it.
    async fn header(&mut self, lane: &mut Lane) -> Result<(RequestHeader, Admitted), End> {
        let session = &Rc::clone(&self.conn).session;
        loop {
            let header = RequestHeader::parse(session.style, self.inbound.unread());
            match header.map_err(|_| End::Broken)? {
                Some((header, used)) => {
                    self.inbound.consume(used);
                    let admitted = session.admit(&header).map_err(|_| End::Broken)?;
                    return Ok((header, admitted));
                }
                None => self.receive(lane).await?,
            }
        }
    }

    async fn room(&self, cost: Cost) -> Result<(), End> {
        if self.conn.room(cost).await { Ok(()) } else { Err(End::Orderly) }
    }

    async fn payload(&mut self, lane: &mut Lane, len_bytes: usize) -> Result<Option<Buf>, End> {
        if len_bytes == 0 {
            return Ok(None);
        }
        loop {
            match self.inbound.payload(len_bytes) {
                Some(payload) => return Ok(Some(payload)),
                None => self.receive(lane).await?,
            }
        }
    }

    async fn skip(&mut self, lane: &mut Lane, len_bytes: usize) -> Result<(), End> {
        let mut left = self.inbound.skip(len_bytes);
        while left > 0 {
            self.receive(lane).await?;
            left = self.inbound.skip(left);
        }
        Ok(())
    }

    async fn receive(&mut self, lane: &mut Lane) -> Result<(), End> {
        self.conn.pause();
        let received = self.source.recv(lane, self.inbound.space(), None).await;
        self.conn.resume();
        match received {
            Err(_) => Err(End::Broken),
            Ok(0) => Err(End::Orderly),
            Ok(len_bytes) => {
                self.inbound.received(len_bytes);
                Ok(())
            }
        }
    }
}
