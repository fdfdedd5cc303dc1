//! An NBD server of a few lines, on threads of its own, that can be told to do odd things.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use drystone_nbd::server::{ServerHandshake, Step};
use drystone_nbd::wire::context::{BASE_ALLOCATION, STATE_HOLE, STATE_ZERO};
use drystone_nbd::{
    BlockSizes, Command, ExportInfo, NbdError, ReplyTo, Request, RequestHeader, Session, StatusChunk,
    TransmissionFlags,
};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Serve,
    /// The connection ends.
    Hang,
    /// These bytes are the answer, and the connection ends.
    Say(Vec<u8>),
    /// An error with a text.
    Fail(NbdError, &'static str),
}

/// Decides, by the number of the request since the server started.
type Decide = dyn Fn(usize, &Request) -> Act + Send + Sync;

pub(crate) struct Peer {
    pub(crate) socket: PathBuf,
    pub(crate) disk: Arc<Mutex<Vec<u8>>>,
    /// Requests so far: command, offset, length.
    pub(crate) seen: Arc<Mutex<Vec<(Command, u64, u64)>>>,
}

/// A disk of `len` bytes; writable, with everything that there is.
pub(crate) fn export(len: u64, block: BlockSizes) -> ExportInfo {
    let flags = TransmissionFlags::from_wire(0b1_1001_1110_1101).without(TransmissionFlags::READ_ONLY);
    let info = ExportInfo::new(0, "", len).unwrap().with_flags(flags).with_block(block).unwrap();
    info.with_context(BASE_ALLOCATION).unwrap()
}

impl Peer {
    /// Serves until the process ends.
    pub(crate) fn start(
        folder: &Path,
        info: ExportInfo,
        decide: impl Fn(usize, &Request) -> Act + Send + Sync + 'static,
    ) -> Self {
        let socket = folder.join("peer.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let disk = Arc::new(Mutex::new(vec![0; usize::try_from(info.len_bytes()).unwrap()]));
        let peer = Self { socket, disk, seen: Arc::default() };
        let (info, decide): (_, Arc<Decide>) = (Arc::new(info), Arc::new(decide));
        let (disk, seen) = (Arc::clone(&peer.disk), Arc::clone(&peer.seen));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (info, disk, seen, decide) =
                    (Arc::clone(&info), Arc::clone(&disk), Arc::clone(&seen), Arc::clone(&decide));
                thread::spawn(move || {
                    Connection { stream, input: Vec::new(), disk, seen }.serve(&info, &*decide)
                });
            }
        });
        peer
    }
}

struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    disk: Arc<Mutex<Vec<u8>>>,
    seen: Arc<Mutex<Vec<(Command, u64, u64)>>>,
}

impl Connection {
    fn more(&mut self) -> Option<()> {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        self.input.extend_from_slice(&bytes[..count]);
        Some(())
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.input.len() < count {
            self.more()?;
        }
        Some(self.input.drain(..count).collect())
    }

    fn serve(mut self, exports: &Arc<ExportInfo>, decide: &Decide) -> Option<()> {
        let session = self.handshake(exports)?;
        loop {
            let head = self.take(session.style.request_bytes())?;
            let (header, _) = RequestHeader::parse(session.style, &head).unwrap()?;
            let admitted = session.admit(&header).unwrap();
            let payload = self.take(admitted.payload_bytes as usize)?;
            let request = admitted.request.unwrap();
            if request.command == Command::Disconnect {
                return None;
            }
            let number = {
                let mut seen = self.seen.lock().unwrap();
                seen.push((request.command, request.offset_bytes, request.len_bytes));
                seen.len() - 1
            };
            let answer = match decide(number, &request) {
                Act::Hang => return None,
                Act::Say(bytes) => {
                    let _ = self.stream.write_all(&bytes);
                    return None;
                }
                Act::Fail(error, text) => {
                    let to = ReplyTo::new(session.style, request.cookie, request.offset_bytes);
                    to.error(&mut [0; drystone_nbd::reply::ERROR_BYTES_MAX], error, None, text).to_vec()
                }
                Act::Serve => self.run(&session, &request, &payload),
            };
            self.stream.write_all(&answer).ok()?;
        }
    }

    fn handshake(&mut self, exports: &Arc<ExportInfo>) -> Option<Session> {
        let mut output = Vec::new();
        let mut handshake = ServerHandshake::new(&mut output);
        loop {
            self.stream.write_all(&std::mem::take(&mut output)).ok()?;
            let (used, step) = handshake.receive(exports, &self.input, &mut output).unwrap();
            self.input.drain(..used);
            match step {
                Step::Transmission(negotiated) => {
                    self.stream.write_all(&output).ok()?;
                    return Some(negotiated.session);
                }
                Step::Aborted => return None,
                Step::More if output.is_empty() => self.more()?,
                Step::More => {}
            }
        }
    }

    fn run(&self, session: &Session, request: &Request, payload: &[u8]) -> Vec<u8> {
        let to = ReplyTo::new(session.style, request.cookie, request.offset_bytes);
        let mut head = [0; drystone_nbd::reply::HEAD_BYTES_MAX];
        let mut disk = self.disk.lock().unwrap();
        let start = usize::try_from(request.offset_bytes).unwrap();
        let end = start + usize::try_from(request.len_bytes).unwrap();
        match request.command {
            Command::Read => {
                let len = u32::try_from(request.len_bytes).unwrap();
                [to.data(&mut head, request.offset_bytes, len, true), &disk[start..end]].concat()
            }
            Command::BlockStatus => {
                let zero = disk[start..end].iter().take_while(|byte| **byte == 0).count() as u64;
                let data = disk[start..end].iter().take_while(|byte| **byte != 0).count() as u64;
                let mut extents = [0; 16];
                let mut chunk = StatusChunk::new(to, request, &mut extents);
                chunk.push(zero.max(data), if zero > 0 { STATE_HOLE | STATE_ZERO } else { 0 });
                let (head, extents) = chunk.finish(0, true, &mut head);
                [head, extents].concat()
            }
            command => {
                match command {
                    Command::Write => disk[start..end].copy_from_slice(payload),
                    Command::WriteZeroes | Command::Trim => disk[start..end].fill(0),
                    _ => {}
                }
                to.done(&mut head).to_vec()
            }
        }
    }
}
