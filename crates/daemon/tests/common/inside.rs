//! The daemon of this crate, on a thread of the test.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use drystone_daemon::{Console, Launch, run};
use drystone_sys::Stream;

use super::play::Daemon;

pub(crate) struct Inside {
    socket: UnixStream,
    thread: JoinHandle<u8>,
}

impl Inside {
    /// Starts it with these arguments.
    pub(crate) fn start(args: &[String]) -> Self {
        let (socket, far) = UnixStream::pair().unwrap();
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let thread = thread::spawn(move || {
            let stream = Stream::from_fd(OwnedFd::from(far)).unwrap();
            let console = Console::Within(stream, Box::new(|text| eprint!("{text}")));
            run(Launch { name: "drystone-daemon".into(), args, console })
        });
        Self { socket, thread }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

impl Daemon for Inside {
    fn input(&mut self) -> Box<dyn Write> {
        Box::new(Input(self.socket.try_clone().unwrap()))
    }

    fn output(&mut self) -> Box<dyn Read + Send> {
        Box::new(self.socket.try_clone().unwrap())
    }

    fn end(self: Box<Self>) -> i32 {
        i32::from(self.thread.join().unwrap())
    }
}

/// Ends with the one who sends, although the other direction goes on.
struct Input(UnixStream);

impl Write for Input {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}
