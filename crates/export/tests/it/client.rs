//! A client that blocks, and that can be told to do odd things.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use drystone_nbd::client::{ClientHandshake, Goal, Step, Transmission, What};
use drystone_nbd::wire::REQUEST_EXTENDED_BYTES;
use drystone_nbd::{Command, CommandFlags, NbdError, Request, Style};
use drystone_sys::Address;

/// Nothing here takes longer, unless it never ends.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) trait Io: Read + Write + Send {}
impl<T: Read + Write + Send> Io for T {}

/// Connects without a word.
pub(crate) fn connect(address: &Address) -> Box<dyn Io> {
    match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
            Box::new(stream)
        }
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
            stream.set_nodelay(true).unwrap();
            Box::new(stream)
        }
    }
}

/// Whether the server has hung up, or does so now.
pub(crate) fn is_cut(stream: &mut dyn Io) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => true,
            _ => panic!("{error}"),
        },
    }
}

/// Reads something; a call with a time limit can be interrupted.
fn read(stream: &mut dyn Io, into: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(into) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The whole reply to a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) data: Vec<u8>,
    /// Context, offset, length, value.
    pub(crate) extents: Vec<(u32, u64, u64, u64)>,
    pub(crate) result: Option<Result<(), NbdError>>,
}

pub(crate) struct Client {
    pub(crate) stream: Box<dyn Io>,
    pub(crate) transmission: Transmission,
    input: Vec<u8>,
    cookie: u64,
}

/// How a client asks.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) style: Style,
    /// The handshake goes out and comes in byte by byte.
    pub(crate) byte_by_byte: bool,
}

pub(crate) const STRUCTURED: How = How { style: Style::Structured, byte_by_byte: false };
pub(crate) const EXTENDED: How = How { style: Style::Extended, byte_by_byte: false };
pub(crate) const SIMPLE: How = How { style: Style::Simple, byte_by_byte: false };

impl Client {
    pub(crate) fn enter(address: &Address, export: &str) -> Self {
        Self::enter_as(address, export, STRUCTURED).expect("the server does not let us in")
    }

    /// `None` if the server refuses or hangs up.
    pub(crate) fn enter_as(address: &Address, export: &str, how: How) -> Option<Self> {
        let contexts = match how.style {
            Style::Simple => vec![],
            _ => vec!["base:allocation".into(), "qemu:allocation-depth".into()],
        };
        let goal = Goal::Enter { export: export.into(), contexts };
        let mut handshake = ClientHandshake::new(goal, how.style).unwrap();
        let mut stream = connect(address);
        let (mut input, mut output) = (Vec::new(), Vec::new());
        loop {
            let mut piece = [0; 4096];
            let room = if how.byte_by_byte { 1 } else { piece.len() };
            let got = read(&mut *stream, &mut piece[..room]).unwrap_or(0);
            if got == 0 {
                return None;
            }
            input.extend_from_slice(&piece[..got]);
            let (used, step) = handshake.receive(&input, &mut output).ok()?;
            input.drain(..used);
            for piece in output.chunks(if how.byte_by_byte { 1 } else { usize::MAX }) {
                stream.write_all(piece).unwrap();
            }
            output.clear();
            match step {
                Step::More => {}
                Step::Entered(transmission) => {
                    return Some(Self { stream, transmission: *transmission, input, cookie: 0 });
                }
                Step::Listed(_) | Step::Inspected(_) => panic!("{step:?}"),
            }
        }
    }

    /// The bytes of a request, and its cookie. A request that a well-behaved client would not send is noted as a `FLUSH`,
    /// whose reply has the form of an error's.
    pub(crate) fn encode(
        &mut self,
        command: Command,
        at: u64,
        len: u64,
        flags: CommandFlags,
    ) -> (u64, Vec<u8>) {
        self.cookie += 1;
        let request = Request { cookie: self.cookie, offset_bytes: at, len_bytes: len, command, flags };
        let mut out = [0; REQUEST_EXTENDED_BYTES];
        if let Ok(bytes) = self.transmission.begin(&request, &mut out) {
            return (self.cookie, bytes.to_vec());
        }
        let noted = Request { command: Command::Flush, len_bytes: 0, flags: CommandFlags::NONE, ..request };
        self.transmission.begin(&noted, &mut out).unwrap();
        let style = self.transmission.session().style;
        (self.cookie, request.header(style).encode(style, &mut out).unwrap().to_vec())
    }

    /// Sends a request; its cookie.
    pub(crate) fn send(&mut self, command: Command, at: u64, len: u64) -> u64 {
        let (cookie, bytes) = self.encode(command, at, len, CommandFlags::NONE);
        self.stream.write_all(&bytes).unwrap();
        cookie
    }

    /// Sends many reads at once; their cookies.
    pub(crate) fn send_reads(&mut self, count: usize, len: u64) -> Vec<u64> {
        let requests: Vec<_> =
            (0..count).map(|_| self.encode(Command::Read, 0, len, CommandFlags::NONE)).collect();
        let bytes: Vec<u8> = requests.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        self.stream.write_all(&bytes).unwrap();
        requests.iter().map(|(cookie, _)| *cookie).collect()
    }

    pub(crate) fn send_write(&mut self, at: u64, data: &[u8]) -> u64 {
        let (cookie, mut bytes) = self.encode(Command::Write, at, data.len() as u64, CommandFlags::NONE);
        bytes.extend_from_slice(data);
        self.stream.write_all(&bytes).unwrap();
        cookie
    }

    /// One request and its reply.
    pub(crate) fn ask(&mut self, command: Command, at: u64, len: u64, flags: CommandFlags) -> Reply {
        let (cookie, bytes) = self.encode(command, at, len, flags);
        self.stream.write_all(&bytes).unwrap();
        self.reply(cookie)
    }

    pub(crate) fn read(&mut self, at: u64, len: u64) -> Result<Vec<u8>, NbdError> {
        let reply = self.ask(Command::Read, at, len, CommandFlags::NONE);
        reply.result.unwrap().map(|()| reply.data)
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), NbdError> {
        let cookie = self.send_write(at, data);
        self.reply(cookie).result.unwrap()
    }

    /// The reply to the request with this cookie, which must come next.
    pub(crate) fn reply(&mut self, cookie: u64) -> Reply {
        let mut replies = self.replies(1);
        let reply = replies.remove(0);
        assert_eq!(reply.cookie, cookie);
        reply
    }

    /// As [`Self::reply`]; `None` if the server hangs up instead.
    pub(crate) fn try_reply(&mut self, cookie: u64) -> Option<Reply> {
        let mut piece = [0; 4096];
        while self.input.len() < 20 {
            match read(&mut *self.stream, &mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(got) => self.input.extend_from_slice(&piece[..got]),
            }
        }
        Some(self.reply(cookie))
    }

    /// The next `count` replies, in the order in which they end.
    pub(crate) fn replies(&mut self, count: usize) -> Vec<Reply> {
        let mut ended = Vec::new();
        let mut begun: Vec<Reply> = Vec::new();
        while ended.len() < count {
            let Some((cookie, end)) = self.event(&mut begun) else {
                self.receive();
                continue;
            };
            if let Some(result) = end {
                let at = begun.iter().position(|reply| reply.cookie == cookie).unwrap();
                ended.push(Reply { result: Some(result), ..begun.remove(at) });
            }
        }
        assert!(begun.is_empty(), "replies are not torn apart");
        ended
    }

    fn receive(&mut self) {
        let mut piece = vec![0; 1 << 16];
        let got = read(&mut *self.stream, &mut piece).unwrap();
        assert!(got > 0, "the server hung up");
        self.input.extend_from_slice(&piece[..got]);
    }

    /// One event at the start of the input.
    fn event(&mut self, begun: &mut Vec<Reply>) -> Option<(u64, Option<Result<(), NbdError>>)> {
        let (used, event) = self.transmission.next(&self.input).unwrap()?;
        let (cookie, end) = (event.cookie, event.end);
        let at = begun.iter().position(|reply| reply.cookie == cookie).unwrap_or_else(|| {
            begun.push(Reply { cookie, ..Reply::default() });
            begun.len() - 1
        });
        let mut data_bytes = 0;
        match event.what {
            What::Data { len_bytes, .. } => data_bytes = usize::try_from(len_bytes).unwrap(),
            What::Extent { context, offset_bytes, len_bytes, status } => {
                begun[at].extents.push((context, offset_bytes, len_bytes, status));
            }
            What::Hole { len_bytes, .. } => {
                let len = begun[at].data.len() + usize::try_from(len_bytes).unwrap();
                begun[at].data.resize(len, 0);
            }
            What::Error { .. } | What::Nothing => {}
        }
        while self.input.len() < used + data_bytes {
            self.receive();
        }
        begun[at].data.extend_from_slice(&self.input[used..used + data_bytes]);
        self.input.drain(..used + data_bytes);
        Some((cookie, end))
    }
}
