//! The vandal: a client of NBD that breaks every rule of the protocol and changes nothing.
//!
//! ```text
//!   connect ─► nonsense instead of a handshake ─► stay a while, or go
//!          └─► enter ─► broken, cut, oversized, refused requests; reads that it does not take ─► stay a while, or go
//! ```
//! No request of its asks for a change that could be made: a write comes without all of its bytes, or is past the end, or
//! says something that nobody understands. So the models of the others hold.

use std::io::IoSlice;
use std::rc::Rc;

use drystone_base::Result;
use drystone_base::rng::Rng;
use drystone_core::lane::Lane;
use drystone_nbd::client::{ClientHandshake, Goal, Step};
use drystone_nbd::wire::{self, REQUEST_EXTENDED_BYTES, cmd, opt};
use drystone_nbd::{CommandFlags, RequestHeader, Session, Style};
use drystone_sys::{Receiver, Sender};

use super::PAUSE_NS;
use super::people::Person;
use crate::daemon::address;
use crate::wait::unless;

/// Most broken things of one visit.
const DEEDS_MAX: u64 = 6;
/// Longest data that are sent in vain.
const DATA_BYTES_MAX: u64 = 20_000;
/// A length that no server takes.
const HUGE_BYTES: u64 = 33 << 20;

/// Its end of a connection.
struct Door {
    lane: Lane,
    receiver: Receiver,
    sender: Sender,
}

/// What it sends, and whether it goes on after it.
struct Deed {
    bytes: Vec<u8>,
    goes_on: bool,
}

impl Person {
    /// Comes again and again.
    pub(super) async fn be_vandal(mut self) {
        while !self.run.is_over.get() {
            let until_ns = self.local.now_ns() + self.rng.below(3 * PAUSE_NS);
            let late = self.local.sleep_until(until_ns);
            let visit = self.vandalise();
            let came = unless(visit, late).await;
            let what = if matches!(came, Some(Err(_))) { "vandals thrown out" } else { "vandals" };
            self.run.counts.event(what, 1);
            self.pause().await;
        }
    }

    /// One visit. Dropped at any moment, it goes without a word.
    async fn vandalise(&mut self) -> Result<()> {
        let mut lane = Lane::new(Rc::clone(&self.local));
        let stream = self.run.access.network.connect(&mut lane, &address("nbd"), None).await?;
        let (receiver, sender) = stream.split();
        let mut door = Door { lane, receiver, sender };
        if self.rng.one_in(3) {
            let bytes = nonsense(&mut self.rng);
            door.say(&bytes).await?;
        } else {
            let name = self.run.disks.get(self.rng.index(self.run.disks.len())).map_or('?', |disk| disk.name);
            let style = match self.rng.below(3) {
                0 => Style::Simple,
                1 => Style::Structured,
                _ => Style::Extended,
            };
            let session = door.enter(&name.to_string(), style).await?;
            for _ in 0..=self.rng.below(DEEDS_MAX) {
                let deed = deed(&session, &mut self.rng);
                door.say(&deed.bytes).await?;
                // What came next would be the rest of it.
                if !deed.goes_on {
                    break;
                }
            }
        }
        match self.rng.below(3) {
            0 => Ok(()),
            1 => door.listen().await,
            _ => std::future::pending().await,
        }
    }
}

impl Door {
    async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.sender.send(&mut self.lane, &mut [IoSlice::new(bytes)]).await
    }

    /// Takes whatever comes, to the end.
    async fn listen(&mut self) -> Result<()> {
        while self.receiver.fill(&mut self.lane, 1).await? {
            let count = self.receiver.buffered().len();
            self.receiver.consume(count);
        }
        Ok(())
    }

    /// Negotiates as one should.
    async fn enter(&mut self, export: &str, style: Style) -> Result<Session> {
        let contexts = vec!["base:allocation".to_owned()];
        let mut handshake = ClientHandshake::new(Goal::Enter { export: export.to_owned(), contexts }, style)?;
        loop {
            let mut output = Vec::new();
            let step = if self.receiver.fill(&mut self.lane, 1).await? {
                let (used, step) = handshake.receive(self.receiver.buffered(), &mut output)?;
                self.receiver.consume(used);
                step
            } else {
                handshake.closed()?
            };
            self.say(&output).await?;
            if let Step::Entered(transmission) = step {
                return Ok(*transmission.session());
            }
        }
    }
}

/// Something instead of a handshake.
fn nonsense(rng: &mut Rng) -> Vec<u8> {
    let mut bytes =
        if rng.one_in(4) { (rng.next_u64() as u32).to_be_bytes() } else { 3_u32.to_be_bytes() }.to_vec();
    for _ in 0..=rng.below(DEEDS_MAX) {
        if rng.one_in(6) {
            let mut noise = vec![0; 1 + rng.index(200)];
            rng.fill(&mut noise);
            bytes.extend(noise);
            continue;
        }
        let known = [opt::EXPORT_NAME, opt::LIST, opt::STARTTLS, opt::INFO, opt::GO, opt::STRUCTURED_REPLY];
        let known = known.get(rng.index(known.len() + 1)).copied().unwrap_or(opt::SET_META_CONTEXT);
        let option = if rng.one_in(4) { u32::try_from(rng.below(40)).unwrap_or(0) } else { known };
        let mut data = vec![0; rng.index(64)];
        rng.fill(&mut data);
        let said = match rng.below(4) {
            0 => u32::MAX,
            1 => u32::try_from(rng.below(70_000)).unwrap_or(0),
            _ => u32::try_from(data.len()).unwrap_or(0),
        };
        bytes.extend(wire::MAGIC_OPTION.to_be_bytes());
        bytes.extend(option.to_be_bytes());
        bytes.extend(said.to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

/// A request that nothing can come of.
fn deed(session: &Session, rng: &mut Rng) -> Deed {
    let len_disk = session.len_bytes;
    let near = rng.below(len_disk.max(1)) & !511;
    let len = 512 * (1 + rng.below(DATA_BYTES_MAX / 512));
    let none = CommandFlags::NONE;
    let header = |command: u16, flags: CommandFlags, offset_bytes: u64, len_bytes: u64| RequestHeader {
        cookie: len_bytes % 3,
        offset_bytes,
        len_bytes,
        command,
        flags,
    };
    let payload = if session.style == Style::Extended { CommandFlags::PAYLOAD_LEN } else { none };
    let junk = |bytes: u64| vec![0xee; usize::try_from(bytes).unwrap_or(0)];
    let whole = |head: RequestHeader, data: u64| {
        let bytes = [encoded(head, session.style), junk(data)].concat();
        Deed { bytes, goes_on: true }
    };
    match rng.below(12) {
        0 => {
            let mut bytes = encoded(header(cmd::READ, none, 0, len), session.style);
            if let Some(magic) = bytes.get_mut(rng.index(4)) {
                *magic ^= 1 << rng.below(8);
            }
            Deed { bytes, goes_on: false }
        }
        1 => {
            let mut bytes = encoded(header(cmd::READ, none, 0, len), session.style);
            bytes.truncate(rng.index(bytes.len()));
            Deed { bytes, goes_on: false }
        }
        2 => Deed { goes_on: false, ..whole(header(cmd::WRITE, payload, near, len), rng.below(len)) },
        3 => whole(
            header(cmd::WRITE, payload, len_disk + 512 - len.min(len_disk), len.min(len_disk)),
            len.min(len_disk),
        ),
        4 => Deed { goes_on: false, ..whole(header(cmd::WRITE, payload, 0, HUGE_BYTES), len) },
        5 => whole(header(100 + u16::try_from(rng.below(1000)).unwrap_or(0), none, near, len), 0),
        6 => whole(header(cmd::READ, none, rng.next_u64() >> rng.below(40), rng.next_u64() >> 33), 0),
        7 => {
            let command = if rng.one_in(2) { cmd::TRIM } else { cmd::WRITE_ZEROES };
            whole(header(command, none, len_disk - len_disk.min(512), 1024), 0)
        }
        8 => whole(header(cmd::WRITE, payload.with(CommandFlags::from_wire(1 << 14)), near, len), len),
        9 => {
            let one = encoded(header(cmd::READ, none, 0, len_disk), session.style);
            Deed { bytes: one.repeat(1 + rng.index(12)), goes_on: true }
        }
        10 => whole(header(cmd::BLOCK_STATUS, CommandFlags::REQ_ONE, near, rng.below(3) * 512), 0),
        _ => {
            let mut bytes = vec![0; 1 + rng.index(100)];
            rng.fill(&mut bytes);
            Deed { bytes, goes_on: false }
        }
    }
}

fn encoded(header: RequestHeader, style: Style) -> Vec<u8> {
    let mut out = [0; REQUEST_EXTENDED_BYTES];
    header.encode(style, &mut out).unwrap_or_default().to_vec()
}
