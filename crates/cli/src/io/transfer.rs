//! The commands that move bytes: reading, writing, zeroing, discarding; waiting for it or not.
//!
//! What is wrong with the arguments of a command is told before anything is done, in the order of the C tool.

use std::path::Path;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, Mode, ReadWrite};
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::lane::Lane;

use super::flight::Flights;
use super::number::{REQUEST_BYTES_MAX, parse_len, parse_parts, parse_pattern, parse_request_len};
use super::print::{Done, Style, dump, print};
use super::session::{Fault, Session};
use super::words::Words;

/// What is written if nothing else was said.
const FILL: u8 = 0xcd;
/// What machine states are addressed in.
const SECTOR_BYTES: u64 = 512;

/// A part of the disk, or of what a user says of it.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: u64,
    len_bytes: u64,
}

impl Span {
    fn range(self) -> Result<GuestRange> {
        GuestRange::checked(self.at, self.len_bytes)
            .ok_or_else(|| Error::new(Kind::OutOfRange, "the request ends past the largest possible disk"))
    }

    /// In a disk of `len` bytes: a user that may change the length writes inside of it all the same.
    fn inside(self, len: u64) -> Result<GuestRange> {
        let range = self.range()?;
        if range.end().get() > len {
            return Err(Error::new(Kind::OutOfRange, "the request leaves the disk"));
        }
        Ok(range)
    }

    fn offset(self) -> Result<GuestOffset> {
        self.range().map(GuestRange::start)
    }

    fn buf_len(self) -> Result<usize> {
        usize::try_from(self.len_bytes).map_err(|_| Error::new(Kind::TooLarge, "the request is too large"))
    }
}

/// What a command reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Disk,
    /// `-b`: what the image keeps of a machine.
    State,
}

impl Of {
    fn asked(words: &Words) -> Self {
        if words.has('b') { Self::State } else { Self::Disk }
    }
}

/// What is done with bytes that were read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    of: Of,
    span: Span,
    style: Style,
    /// The byte that is expected, and where, from the start of what was read.
    expected: Option<(u8, Span)>,
    dumps: bool,
}

/// What is written.
enum Payload {
    Bytes(Buf, WriteFlags),
    /// Into the state of a machine; whether it is on stable storage then.
    State(Buf, bool),
    Zeroes(ZeroFlags),
}

pub(super) async fn read(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    let expected = words.value('P').map(parse_pattern).transpose()?;
    let part_len = words.value('l').map(parse_len).transpose()?;
    let part_at = words.value('s').map(parse_len).transpose()?;
    let [at, len] = &words.free[..] else { return Err(Fault::Usage) };
    let span = Span { at: parse_len(at)?, len_bytes: parse_request_len(len, "")? };
    if expected.is_none() && (part_len.is_some() || part_at.is_some()) {
        return Err(Fault::Usage);
    }
    let part_at = part_at.unwrap_or(0);
    let part_len = part_len.or_else(|| span.len_bytes.checked_sub(part_at)).unwrap_or(u64::MAX);
    if part_at.checked_add(part_len).is_none_or(|end| end > span.len_bytes) {
        return Err(Fault::Print("pattern verification range exceeds end of read data\n".into()));
    }
    let of = Of::asked(words);
    if of == Of::State {
        demand_sectors(span)?;
    }
    let part = Span { at: part_at, len_bytes: part_len };
    let expected = expected.map(|byte| (byte, part));
    let reading = Reading { of, span, style: style(words), expected, dumps: words.has('v') };
    read_now(session, reading, "read").await
}

pub(super) async fn readv(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    read_now(session, parts_to_read(words)?, "readv").await
}

pub(super) async fn aio_read(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    if words.has('i') && words.free.len() >= 2 {
        print("injecting invalid read request\n");
        return Ok(());
    }
    let reading = parts_to_read(words)?;
    let (reader, local) = (session.image()?.reader.clone(), session.tool.local().clone());
    let (mut lane, flights) = (session.tool.lane(), session.flights.clone());
    session
        .flights
        .begin(&local, async move {
            match fetch(&mut lane, &reader, reading).await {
                Ok((buf, ns)) => drop(reading.tell(&buf, ns)),
                Err(error) => tell(&flights, Fault::request("readv", &error)),
            }
        })
        .await;
    Ok(())
}

fn parts_to_read(words: &Words) -> Result<Reading, Fault> {
    let expected = words.value('P').map(parse_pattern).transpose()?;
    let Some((at, parts)) = words.free.split_first().filter(|(_, parts)| !parts.is_empty()) else {
        return Err(Fault::Usage);
    };
    let span = Span { at: parse_len(at)?, len_bytes: parse_parts(parts)? };
    let expected = expected.map(|byte| (byte, Span { at: 0, ..span }));
    Ok(Reading { of: Of::Disk, span, style: style(words), expected, dumps: words.has('v') })
}

async fn read_now(session: &mut Session<'_>, reading: Reading, what: &str) -> Result<(), Fault> {
    let reader = session.image()?.reader.clone();
    let done = fetch(&mut session.lane, &reader, reading).await;
    let (buf, ns) = done.map_err(|error| Fault::request(what, &error))?;
    if reading.tell(&buf, ns) { Ok(()) } else { Err(Fault::Silent) }
}

/// Reads; also says how many nanoseconds it took.
async fn fetch<M: Mode>(lane: &mut Lane, reader: &Backend<M>, reading: Reading) -> Result<(Buf, u64)> {
    let Span { at, len_bytes } = reading.span;
    let buf_len = reading.span.buf_len()?;
    let begin_ns = lane.local().now_ns();
    let mut ticket = lane.enter(reader).await;
    if reading.of == Of::State {
        let (result, buf) = ticket.read_state(at, Buf::zeroed(buf_len)).await;
        drop(ticket);
        return result.map(|()| (buf, lane.local().now_ns().saturating_sub(begin_ns)));
    }
    let offset = reading.span.offset()?;
    // What leaves the disk needs no memory.
    if at.saturating_add(len_bytes) > ticket.len() {
        return Err(Error::new(Kind::OutOfRange, "the request leaves the disk"));
    }
    let (result, buf) = ticket.read(offset, Buf::zeroed(buf_len)).await;
    drop(ticket);
    result.map(|()| (buf, lane.local().now_ns().saturating_sub(begin_ns)))
}

impl Reading {
    /// Compares, dumps and reports; whether the bytes are as expected.
    fn tell(&self, buf: &Buf, ns: u64) -> bool {
        let Span { at, len_bytes } = self.span;
        let bytes = buf.as_slice();
        let mut is_expected = true;
        if let Some((byte, part)) = self.expected {
            let index = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
            let compared = bytes.get(index(part.at)..index(part.at + part.len_bytes)).unwrap_or_default();
            is_expected = compared.iter().all(|read| *read == byte);
            if !is_expected {
                let from = at + part.at;
                let len = part.len_bytes;
                print(&format!("Pattern verification failed at offset {from}, {len} bytes\n"));
            }
        }
        if self.style != Style::Quiet {
            if self.dumps {
                print(&dump(bytes, at));
            }
            print(&Done { verb: "read", at, len_bytes, ns }.report(self.style));
        }
        is_expected
    }
}

pub(super) async fn write(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    let pattern = words.value('P').map(parse_pattern).transpose()?;
    let has = |letter| words.has(letter);
    let [at, len] = &words.free[..] else { return Err(Fault::Usage) };
    let clash = |text: &str| Err(Fault::Print(format!("{text}\n")));
    if has('b') && has('z') {
        return clash("-b and -z cannot be specified at the same time");
    }
    if has('f') && (has('b') || has('c')) {
        return clash("-f and -b or -c cannot be specified at the same time");
    }
    if has('n') && !has('z') {
        return clash("-n requires -z to be specified");
    }
    if has('u') && !has('z') {
        return clash("-u requires -z to be specified");
    }
    if usize::from(has('z')) + usize::from(has('P')) + usize::from(has('s')) > 1 {
        return clash("Only one of -z, -P, and -s can be specified at the same time");
    }
    let at = parse_len(at)?;
    let len_bytes = if has('n') { parse_len(len)? } else { parse_request_len(len, " without -n")? };
    let span = Span { at, len_bytes };
    if has('b') || has('c') {
        demand_sectors(span)?;
    }
    let flags = session.image()?.flags();
    let fua = flags.fua || has('f');
    let payload = if has('z') {
        Payload::Zeroes(ZeroFlags { may_unmap: has('u'), fast_only: has('n'), fua, unchanged: false })
    } else {
        let fill = match words.value('s') {
            Some(file) => load_pattern(file)?,
            None => vec![pattern.unwrap_or(FILL)],
        };
        let buf = filled(span, &fill)?;
        match Of::asked(words) {
            Of::State => Payload::State(buf, fua),
            Of::Disk => Payload::Bytes(buf, WriteFlags { fua, compressed: has('c'), ..flags }),
        }
    };
    write_now(session, span, payload, (style(words), "write")).await
}

pub(super) async fn writev(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    let pattern = words.value('P').map(parse_pattern).transpose()?;
    let span = parts_to_write(words)?;
    let flags = session.image()?.flags();
    let payload = bytes_to_write(words, span, pattern, flags)?;
    write_now(session, span, payload, (style(words), "writev")).await
}

pub(super) async fn aio_write(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    let pattern = words.value('P').map(parse_pattern).transpose()?;
    if words.has('i') && words.free.len() >= 2 {
        print("injecting invalid write request\n");
        return Ok(());
    }
    if words.free.len() < 2 {
        return Err(Fault::Usage);
    }
    if words.has('z') && words.free.len() != 2 {
        return Err(Fault::Print("-z supports only a single length parameter\n".into()));
    }
    if words.has('u') && !words.has('z') {
        return Err(Fault::Print("-u requires -z to be specified\n".into()));
    }
    let flags = session.image()?.flags();
    let (span, payload) = match &words.free[..] {
        [at, len] if words.has('z') => {
            let span = Span { at: parse_len(at)?, len_bytes: parse_len(len)? };
            let (may_unmap, fua) = (words.has('u'), flags.fua || words.has('f'));
            (span, Payload::Zeroes(ZeroFlags { may_unmap, fast_only: false, fua, unchanged: false }))
        }
        _ => {
            let span = parts_to_write(words)?;
            (span, bytes_to_write(words, span, pattern, flags)?)
        }
    };
    let (writer, local, style) = (session.writer()?, session.tool.local().clone(), style(words));
    let (mut lane, flights) = (session.tool.lane(), session.flights.clone());
    session
        .flights
        .begin(&local, async move {
            match store(&mut lane, &writer, span, payload).await {
                Ok(ns) => span.report_write(ns, style),
                Err(error) => tell(&flights, Fault::request("aio_write", &error)),
            }
        })
        .await;
    Ok(())
}

fn parts_to_write(words: &Words) -> Result<Span, Fault> {
    match words.free.split_first() {
        Some((at, parts)) if !parts.is_empty() => {
            Ok(Span { at: parse_len(at)?, len_bytes: parse_parts(parts)? })
        }
        _ => Err(Fault::Usage),
    }
}

fn bytes_to_write(words: &Words, span: Span, pattern: Option<u8>, flags: WriteFlags) -> Result<Payload> {
    let flags = WriteFlags { fua: flags.fua || words.has('f'), ..flags };
    Ok(Payload::Bytes(filled(span, &[pattern.unwrap_or(FILL)])?, flags))
}

async fn write_now(
    session: &mut Session<'_>,
    span: Span,
    payload: Payload,
    (style, what): (Style, &str),
) -> Result<(), Fault> {
    let writer = session.writer()?;
    let done = store(&mut session.lane, &writer, span, payload).await;
    span.report_write(done.map_err(|error| Fault::request(what, &error))?, style);
    Ok(())
}

/// Writes; says how many nanoseconds it took.
async fn store(lane: &mut Lane, writer: &Backend<ReadWrite>, span: Span, payload: Payload) -> Result<u64> {
    let begin_ns = lane.local().now_ns();
    let mut ticket = lane.enter(writer).await;
    match payload {
        Payload::State(buf, fua) => {
            ticket.write_state(span.at, buf).await.0?;
            if fua {
                ticket.flush().await?;
            }
        }
        Payload::Bytes(buf, flags) => {
            let range = span.inside(ticket.len())?;
            ticket.write(range.start(), buf, flags).await.0?;
        }
        Payload::Zeroes(flags) => ticket.write_zeroes(span.inside(ticket.len())?, flags).await?,
    }
    drop(ticket);
    Ok(lane.local().now_ns().saturating_sub(begin_ns))
}

impl Span {
    fn report_write(self, ns: u64, style: Style) {
        let Self { at, len_bytes } = self;
        print(&Done { verb: "wrote", at, len_bytes, ns }.report(style));
    }
}

pub(super) async fn discard(session: &mut Session<'_>, words: &Words) -> Result<(), Fault> {
    let [at, len] = &words.free[..] else { return Err(Fault::Usage) };
    let (at, len_bytes) = (parse_len(at)?, parse_request_len(len, "")?);
    let writer = session.writer()?;
    let begin_ns = session.lane.local().now_ns();
    let done = match (Span { at, len_bytes }).range() {
        Ok(range) => session.lane.enter(&writer).await.discard(range).await,
        Err(error) => Err(error),
    };
    done.map_err(|error| Fault::request("discard", &error))?;
    let ns = session.lane.local().now_ns().saturating_sub(begin_ns);
    print(&Done { verb: "discard", at, len_bytes, ns }.report(style(words)));
    Ok(())
}

/// Prints what became of a request that nobody waits for.
fn tell(flights: &Flights, fault: Fault) {
    match fault {
        Fault::Print(text) => print(&text),
        Fault::End(text) => flights.end(text),
        Fault::Usage | Fault::Complain(_) | Fault::Silent => {}
    }
}

fn style(words: &Words) -> Style {
    match (words.has('q'), words.has('C')) {
        (true, _) => Style::Quiet,
        (false, true) => Style::Machine,
        (false, false) => Style::Words,
    }
}

/// A buffer full of `fill`, again and again.
fn filled(span: Span, fill: &[u8]) -> Result<Buf> {
    let mut buf = Buf::zeroed(span.buf_len()?);
    let bytes = buf.as_mut_slice();
    match fill {
        [0] => {}
        [byte] => bytes.fill(*byte),
        fill => {
            for piece in bytes.chunks_mut(fill.len().max(1)) {
                let (part, _) = fill.split_at(piece.len().min(fill.len()));
                piece.copy_from_slice(part);
            }
        }
    }
    Ok(buf)
}

fn load_pattern(file: &str) -> Result<Vec<u8>> {
    let path = Path::new(file);
    let limit = usize::try_from(REQUEST_BYTES_MAX).unwrap_or(usize::MAX);
    let bytes = drystone_sys::load_file(path, limit)?;
    if bytes.is_empty() {
        return Err(Error::new(Kind::InvalidInput, "the file is empty").at_path(path));
    }
    Ok(bytes)
}

fn demand_sectors(span: Span) -> Result<(), Fault> {
    for (value, name) in [(span.at, "offset"), (span.len_bytes, "count")] {
        if value % SECTOR_BYTES != 0 {
            return Err(Fault::Print(format!("{value} is not a sector-aligned value for '{name}'\n")));
        }
    }
    Ok(())
}
