//! The least an NBD server must do: the floor that a block layer's cost is compared with.
//!
//! ```text
//!  read(socket) -> [request][request+data][request]...
//!                     pread     pwrite      pread        one system call a request, on the file, into `out`
//!  write(socket) <- [reply+data][reply][reply+data]      one call for all that one read brought
//! ```
//! Fixed newstyle, one export under any name, one thread a connection, buffers that are used again. Replies are structured
//! if the client asks for that, as every client here does: libnbd then takes four reads for the reply to a `READ` instead of
//! two, a microsecond that no server can spare it.
//! Replies go out early when [`BATCH`] bytes of data have gathered: past that they would leave the processor's cache.
//! Not here: anything that a careful server needs. It trusts its client's timing and serves whoever connects.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// Largest request that is served (NBD "Size constraints" asks for no more).
const REQUEST_MAX: usize = 32 << 20;
/// Data gathered before replies are sent although more requests are at hand.
const BATCH: usize = 256 << 10;
/// How much is read from the socket at once.
const INPUT: usize = 4 << 20;
const REQUEST_LEN: usize = 28;
/// The longest head of a reply: a chunk with an offset.
const HEAD_MAX: usize = 28;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// HAS_FLAGS, SEND_FLUSH, CAN_MULTI_CONN.
const EXPORT_FLAGS: u16 = 0x0105;

/// Serves `file` on a unix socket until the process is ended.
pub(crate) fn serve(socket: &Path, file: &Path) -> Result<(), String> {
    let disk = File::options().read(true).write(true).open(file).and_then(Disk::new);
    let disk = disk.map_err(|error| format!("{}: {error}", file.display()))?;
    let served = UnixListener::bind(socket).and_then(|listener| accept(&listener, &Arc::new(disk)));
    served.map_err(|error| format!("{}: {error}", socket.display()))
}

/// What is served.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    len: u64,
}

impl Disk {
    /// A file as a disk.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }

    fn holds(&self, offset: u64, len: usize) -> bool {
        len <= REQUEST_MAX && offset.checked_add(len as u64).is_some_and(|end| end <= self.len)
    }
}

/// One thread for each client that connects; ends with the listener.
pub(crate) fn accept(listener: &UnixListener, disk: &Arc<Disk>) -> io::Result<()> {
    for stream in listener.incoming() {
        let (stream, disk) = (stream?, Arc::clone(disk));
        // A client that goes away or breaks the protocol ends its own thread and nothing else.
        thread::spawn(move || {
            handshake(&stream, &disk)
                .and_then(|go| go.map_or(Ok(()), |style| transmit(&stream, &disk, style)))
        });
    }
    Ok(())
}

/// How replies look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Simple,
    Structured,
}

/// NBD "Fixed newstyle negotiation"; how transmission goes, if it follows.
fn handshake(mut stream: &UnixStream, disk: &Disk) -> io::Result<Option<Style>> {
    let mut style = Style::Simple;
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags)?;
    loop {
        let magic = u64::from_be_bytes(read_array(stream)?);
        let option = u32::from_be_bytes(read_array(stream)?);
        let len = u32::from_be_bytes(read_array(stream)?);
        if magic != OPTION_MAGIC || len > 8192 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        io::copy(&mut stream.take(u64::from(len)), &mut io::sink())?;
        match option {
            2 => {
                reply_option(stream, option, 1, &[])?;
                return Ok(None);
            }
            8 => {
                style = Style::Structured;
                reply_option(stream, option, 1, &[])?;
            }
            6 | 7 => {
                let info = [&[0, 0][..], &disk.len.to_be_bytes(), &EXPORT_FLAGS.to_be_bytes()].concat();
                reply_option(stream, option, 3, &info)?;
                reply_option(stream, option, 1, &[])?;
                if option == 7 {
                    return Ok(Some(style));
                }
            }
            _ => reply_option(stream, option, 0x8000_0001, &[])?,
        }
    }
}

fn read_array<const N: usize>(mut stream: &UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn reply_option(mut stream: &UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let len = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let head = [option.to_be_bytes(), kind.to_be_bytes(), len.to_be_bytes()].concat();
    stream.write_all(&[&OPTION_REPLY_MAGIC.to_be_bytes()[..], &head, data].concat())
}

/// NBD "Request message".
struct Request {
    kind: u16,
    cookie: [u8; 8],
    offset: u64,
    len: usize,
}

impl Request {
    /// The request at the start of the bytes; `None` if it is not complete yet.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(head) = bytes.first_chunk::<REQUEST_LEN>() else { return Ok(None) };
        let [m0, m1, m2, m3, _, _, k0, k1, c0, c1, c2, c3, c4, c5, c6, c7, rest @ ..] = *head;
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        if u32::from_be_bytes([m0, m1, m2, m3]) != REQUEST_MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Some(Self {
            kind: u16::from_be_bytes([k0, k1]),
            cookie: [c0, c1, c2, c3, c4, c5, c6, c7],
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            len: usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?,
        }))
    }
}

fn transmit(mut stream: &UnixStream, disk: &Disk, style: Style) -> io::Result<()> {
    let mut input = vec![0; INPUT];
    let mut have = 0;
    let mut replies = Replies { bytes: vec![0; BATCH + HEAD_MAX], len: 0, style };
    loop {
        let space = input.get_mut(have..).unwrap_or_default();
        let got = stream.read(space)?;
        if got == 0 {
            return Ok(());
        }
        have += got;
        let mut done = 0;
        let mut missing = 0;
        while let Some(request) = Request::parse(input.get(done..have).unwrap_or_default())? {
            let payload = if request.kind == 1 { request.len } else { 0 };
            if payload > REQUEST_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let end = done + REQUEST_LEN + payload;
            if end > have {
                missing = end - done;
                break;
            }
            if request.kind == 2 {
                return Ok(());
            }
            replies.serve(&request, input.get(done + REQUEST_LEN..end).unwrap_or_default(), disk, stream)?;
            done = end;
        }
        replies.send(stream)?;
        input.copy_within(done..have, 0);
        have -= done;
        if missing > input.len() {
            input.resize(missing, 0);
        }
    }
}

/// Replies that wait to be sent, in one piece.
struct Replies {
    bytes: Vec<u8>,
    len: usize,
    style: Style,
}

impl Replies {
    /// Does what the request asks and puts its reply behind those that wait.
    fn serve(
        &mut self,
        request: &Request,
        payload: &[u8],
        disk: &Disk,
        stream: &UnixStream,
    ) -> io::Result<()> {
        let data = if request.kind == 0 && disk.holds(request.offset, request.len) { request.len } else { 0 };
        if self.len > 0 && self.len + HEAD_MAX + data > BATCH {
            self.send(stream)?;
        }
        let end = self.len + HEAD_MAX + data;
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        let data_at = if self.style == Style::Simple { 16 } else { HEAD_MAX };
        let free = self.bytes.get_mut(self.len..end).unwrap_or_default();
        let body = free.get_mut(data_at..data_at + data).unwrap_or_default();
        let outcome = match request.kind {
            _ if !disk.holds(request.offset, request.len) => Err(22),
            0 => disk.file.read_exact_at(body, request.offset).map_err(|_| 5),
            1 => disk.file.write_all_at(payload, request.offset).map_err(|_| 5),
            3 => disk.file.sync_data().map_err(|_| 5),
            _ => Err(22_u32),
        };
        let (head, head_len) = head(self.style, request, outcome);
        if let (Some(to), Some(from)) = (free.get_mut(..head_len), head.get(..head_len)) {
            to.copy_from_slice(from);
        }
        self.len += head_len + if outcome.is_ok() { data } else { 0 };
        Ok(())
    }

    /// Sends what waits.
    fn send(&mut self, mut stream: &UnixStream) -> io::Result<()> {
        stream.write_all(self.bytes.get(..self.len).unwrap_or_default())?;
        self.len = 0;
        Ok(())
    }
}

/// NBD "Simple reply message" or "Structured reply chunk message" without the data, and how long it is.
fn head(style: Style, request: &Request, outcome: Result<(), u32>) -> ([u8; HEAD_MAX], usize) {
    let start = |magic: u32, kind: u32| {
        let head = u128::from(magic) << 96 | u128::from(kind) << 64;
        (head | u128::from(u64::from_be_bytes(request.cookie))).to_be_bytes()
    };
    // The only chunk of its reply; what it holds.
    let chunk = |kind: u32, len: usize| (start(CHUNK_MAGIC, 1 << 16 | kind), u32::try_from(len).unwrap_or(0));
    let ((start, len), end) = match (style, outcome) {
        (Style::Simple, _) => return whole(&[&start(REPLY_MAGIC, outcome.err().unwrap_or(0))]),
        (Style::Structured, Err(errno)) => (chunk(0x8001, 6), u64::from(errno) << 32),
        (Style::Structured, Ok(())) if request.kind == 0 => (chunk(1, 8 + request.len), request.offset),
        (Style::Structured, Ok(())) => (chunk(0, 0), 0),
    };
    let end_len = len.min(8) as usize;
    whole(&[&start, &len.to_be_bytes(), end.to_be_bytes().get(..end_len).unwrap_or_default()])
}

fn whole(parts: &[&[u8]]) -> ([u8; HEAD_MAX], usize) {
    let mut head = [0; HEAD_MAX];
    let bytes = parts.iter().flat_map(|part| part.iter());
    let len = head.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count();
    (head, len)
}

#[cfg(test)]
mod tests;
