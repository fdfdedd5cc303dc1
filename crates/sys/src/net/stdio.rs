//! [`Stdio`]: standard input and output as one connection.
//!
//! ```text
//!   stdin  ──thread──┐
//!                    ├── socket pair ── Stream (like any other)
//!   stdout ──thread──┘
//! ```
//! Input and output may be terminals, pipes and files, which nothing waits for in one way, and are shared with whoever
//! started the process, so that they must not be set not to block. Two threads of their own may block instead.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use drystone_base::{Error, Result};

use super::Stream;

/// Bytes that are moved at once.
const CHUNK_BYTES: usize = 64 << 10;
/// How long the last output may take.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// Standard input and output while they are used as a connection.
pub struct Stdio {
    /// Ends with the thread that prints.
    printing: mpsc::Receiver<()>,
}

impl Stdio {
    /// Takes standard input and output. The connection ends for reading when the input does. To be called once.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn take() -> Result<(Stream, Self)> {
        let (near, far) = UnixStream::pair().map_err(|cause| failed(&cause))?;
        let input = far.try_clone().map_err(|cause| failed(&cause))?;
        let (sender, printing) = mpsc::channel();
        start("drystone-stdin", move || read(input))?;
        start("drystone-stdout", move || {
            print(far);
            drop(sender);
        })?;
        Ok((Stream::from_fd(OwnedFd::from(near))?, Self { printing }))
    }

    /// Takes standard input alone, as a connection on which there is nothing to send. To be called once.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn take_input() -> Result<Stream> {
        let (near, far) = UnixStream::pair().map_err(|cause| failed(&cause))?;
        start("drystone-stdin", move || read(far))?;
        Stream::from_fd(OwnedFd::from(near))
    }

    /// Waits until everything has been printed that was sent before the connection was closed, for a second at most: an
    /// output that nobody reads keeps nobody here. Blocks the calling thread.
    pub fn finish(self) {
        let _ = self.printing.recv_timeout(FINISH_MAX);
    }
}

fn failed(cause: &std::io::Error) -> Error {
    Error::os(cause.raw_os_error().unwrap_or(libc::EIO), "use standard input and output")
}

fn start(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = thread::Builder::new().name(name.into()).spawn(body);
    started.map(drop).map_err(|cause| failed(&cause))
}

fn read(mut socket: UnixStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut stdin = std::io::stdin().lock();
    loop {
        match stdin.read(&mut chunk) {
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if socket.write_all(chunk.get(..count).unwrap_or_default()).is_err() {
                    return;
                }
            }
        }
    }
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

fn print(mut socket: UnixStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut stdout = std::io::stdout().lock();
    while let Ok(count @ 1..) = socket.read(&mut chunk) {
        let printed = stdout.write_all(chunk.get(..count).unwrap_or_default()).and_then(|()| stdout.flush());
        if printed.is_err() {
            let _ = socket.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}
