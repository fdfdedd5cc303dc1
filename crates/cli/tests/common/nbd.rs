//! A small NBD client: simple replies, one request at a time unless the name of a method says more.

use std::io::{Error, ErrorKind, Read, Result, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::serve::PATIENCE;

const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const FLAG_FUA: u16 = 1;
const FLAG_NO_HOLE: u16 = 2;

/// One of several writes in flight.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) at: u64,
    pub(crate) data: Vec<u8>,
}

/// A connection to one export.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    cookie: u64,
    /// Length of the disk in bytes.
    pub(crate) len: u64,
    /// The export's transmission flags.
    pub(crate) flags: u16,
}

fn protocol(text: &str) -> Error {
    Error::new(ErrorKind::InvalidData, text)
}

impl Client {
    /// Connects to an export; the empty name is the default one.
    pub(crate) fn connect(socket: &Path, export: &str) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        // A server that does not answer is an error, not a test that never ends.
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, cookie: 0, len: 0, flags: 0 };
        let greeting: [u8; 18] = client.bytes()?;
        if !greeting.starts_with(b"NBDMAGICIHAVEOPT") {
            return Err(protocol("no NBD server"));
        }
        let name_len = u32::try_from(export.len()).unwrap();
        let mut go = vec![0, 0, 0, 3]; // client flags: fixed newstyle, no zeroes
        go.extend(b"IHAVEOPT");
        go.extend(OPT_GO.to_be_bytes());
        go.extend((name_len + 6).to_be_bytes());
        go.extend(name_len.to_be_bytes());
        go.extend(export.as_bytes());
        go.extend([0, 0]);
        client.stream.write_all(&go)?;
        loop {
            let _magic_and_option: [u8; 12] = client.bytes()?;
            let kind = u32::from_be_bytes(client.bytes()?);
            let mut data = vec![0; u32::from_be_bytes(client.bytes()?) as usize];
            client.stream.read_exact(&mut data)?;
            match kind {
                REP_ACK => return Ok(client),
                REP_INFO if data.starts_with(&[0, 0]) => {
                    client.len = u64::from_be_bytes(data[2..10].try_into().unwrap());
                    client.flags = u16::from_be_bytes(data[10..12].try_into().unwrap());
                }
                REP_INFO => {}
                _ => {
                    return Err(Error::new(ErrorKind::NotFound, String::from_utf8_lossy(&data).into_owned()));
                }
            }
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A request as it is sent.
    fn message(&mut self, (flags, kind): (u16, u16), at: u64, len: usize, data: &[u8]) -> Vec<u8> {
        self.cookie += 1;
        let mut message = 0x2560_9513_u32.to_be_bytes().to_vec();
        message.extend(flags.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend(self.cookie.to_be_bytes());
        message.extend(at.to_be_bytes());
        message.extend(u32::try_from(len).unwrap().to_be_bytes());
        message.extend(data);
        message
    }

    /// The next reply: to which request, and how that went.
    fn reply(&mut self) -> Result<(u64, Result<()>)> {
        let (magic, error) = (u32::from_be_bytes(self.bytes()?), u32::from_be_bytes(self.bytes()?));
        let cookie = u64::from_be_bytes(self.bytes()?);
        if magic != 0x6744_6698 {
            return Err(protocol("no reply"));
        }
        let done = if error == 0 { Ok(()) } else { Err(Error::from_raw_os_error(error.cast_signed())) };
        Ok((cookie, done))
    }

    fn request(&mut self, flags: u16, kind: u16, at: u64, len: usize, data: &[u8]) -> Result<()> {
        let message = self.message((flags, kind), at, len, data);
        self.stream.write_all(&message)?;
        let (cookie, done) = self.reply()?;
        if cookie != self.cookie {
            return Err(protocol("a reply to something else"));
        }
        done
    }

    /// All writes at once; how each went.
    pub(crate) fn write_all_at_once(&mut self, writes: &[Write]) -> Result<Vec<Result<()>>> {
        let first = self.cookie + 1;
        let messages: Vec<u8> = writes
            .iter()
            .flat_map(|write| self.message((0, WRITE), write.at, write.data.len(), &write.data))
            .collect();
        self.stream.write_all(&messages)?;
        let mut done: Vec<Option<Result<()>>> = writes.iter().map(|_| None).collect();
        for _ in writes {
            let (cookie, one) = self.reply()?;
            let place =
                cookie.checked_sub(first).and_then(|index| done.get_mut(usize::try_from(index).ok()?));
            match place {
                Some(place) if place.is_none() => *place = Some(one),
                _ => return Err(protocol("a reply to something else")),
            }
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// Sends the first half of a write and hangs up.
    pub(crate) fn abandon_write(mut self, at: u64, data: &[u8]) -> Result<()> {
        let message = self.message((0, WRITE), at, data.len(), data);
        self.stream.write_all(&message[..message.len() - data.len() / 2])
    }

    /// Sends reads and takes no reply.
    pub(crate) fn ask_only(&mut self, reads: usize, len: usize) -> Result<()> {
        for _ in 0..reads {
            let message = self.message((0, READ), 0, len, &[]);
            self.stream.write_all(&message)?;
        }
        Ok(())
    }

    pub(crate) fn write_zeroes(&mut self, at: u64, len: usize, may_unmap: bool) -> Result<()> {
        self.request(if may_unmap { 0 } else { FLAG_NO_HOLE }, WRITE_ZEROES, at, len, &[])
    }

    pub(crate) fn read(&mut self, at: u64, len: usize) -> Result<Vec<u8>> {
        self.request(0, READ, at, len, &[])?;
        let mut data = vec![0; len];
        self.stream.read_exact(&mut data)?;
        Ok(data)
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8]) -> Result<()> {
        self.request(0, WRITE, at, data.len(), data)
    }

    /// The data are on stable storage when it returns.
    pub(crate) fn write_through(&mut self, at: u64, data: &[u8]) -> Result<()> {
        self.request(FLAG_FUA, WRITE, at, data.len(), data)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.request(0, FLUSH, 0, 0, &[])
    }

    pub(crate) fn trim(&mut self, at: u64, len: usize) -> Result<()> {
        self.request(0, TRIM, at, len, &[])
    }

    /// The whole disk.
    pub(crate) fn read_all(&mut self) -> Result<Vec<u8>> {
        let mut disk = Vec::new();
        while (disk.len() as u64) < self.len {
            let len = (self.len - disk.len() as u64).min(1 << 20);
            disk.extend(self.read(disk.len() as u64, usize::try_from(len).unwrap())?);
        }
        Ok(disk)
    }
}
