//! [`Lines`]: standard input, line by line, while requests go on.

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_sys::{Receiver, Sender, Stdio};

/// The longest line.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes that are received at once.
const CHUNK_BYTES: usize = 4096;

/// Standard input.
pub(super) struct Lines {
    input: Receiver,
    /// Kept, or the connection would end.
    _output: Sender,
    lane: Lane,
    /// What was received and is no whole line yet.
    pending: Vec<u8>,
}

impl Lines {
    /// Takes standard input.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn take(lane: Lane) -> Result<Self> {
        let (input, output) = Stdio::take_input()?.split();
        Ok(Self { input, _output: output, lane, pending: Vec::new() })
    }

    /// The next line, without its end; none at the end of the input.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] for a line of more than a mebibyte; those of the operating system.
    pub(super) async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                return Ok(line.split_last().map(|(_, line)| String::from_utf8_lossy(line).into_owned()));
            }
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(Error::new(Kind::TooLarge, "a line of standard input is too long"));
            }
            let mut chunk = [0; CHUNK_BYTES];
            let count = self.input.recv(&mut self.lane, &mut chunk).await?;
            if count == 0 {
                let line = std::mem::take(&mut self.pending);
                return Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()));
            }
            self.pending.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }
}
