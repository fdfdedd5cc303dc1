//! A client of an export, as small as it can be: enters by the oldest handshake, writes, reads, goes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const OPT_EXPORT_NAME: u32 = 1;
const FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const READ: u16 = 0;
const WRITE: u16 = 1;
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct NbdClient(UnixStream);

impl NbdClient {
    /// Enters an export; `None` if the server does not let it.
    pub(crate) fn open(socket: &Path, export: &str) -> Option<Self> {
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).ok()?;
        let mut hello = FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes().to_vec();
        hello.extend(b"IHAVEOPT");
        hello.extend(OPT_EXPORT_NAME.to_be_bytes());
        hello.extend(u32::try_from(export.len()).unwrap().to_be_bytes());
        hello.extend(export.as_bytes());
        stream.write_all(&hello).ok()?;
        let mut info = [0; 10];
        stream.read_exact(&mut info).ok()?;
        Some(Self(stream))
    }

    fn request(&mut self, command: u16, at: u64, len: u32, payload: &[u8]) {
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend([0, 0]);
        request.extend(command.to_be_bytes());
        request.extend(7_u64.to_be_bytes());
        request.extend(at.to_be_bytes());
        request.extend(len.to_be_bytes());
        request.extend(payload);
        self.0.write_all(&request).unwrap();
    }

    fn reply(&mut self) -> u32 {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).unwrap();
        u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]])
    }

    /// Writes `len` times `byte`; the error number of the reply.
    pub(crate) fn write(&mut self, at: u64, len: u32, byte: u8) -> u32 {
        self.request(WRITE, at, len, &vec![byte; usize::try_from(len).unwrap()]);
        self.reply()
    }

    pub(crate) fn read(&mut self, at: u64, len: u32) -> Result<Vec<u8>, u32> {
        self.request(READ, at, len, &[]);
        match self.reply() {
            0 => {
                let mut data = vec![0; usize::try_from(len).unwrap()];
                self.0.read_exact(&mut data).unwrap();
                Ok(data)
            }
            error => Err(error),
        }
    }

    /// Whether the server has ended the connection; waits for it.
    pub(crate) fn is_cut(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}
