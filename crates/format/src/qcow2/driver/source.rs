//! The consistency check on a file that a request is at.

use drystone_base::{HostOffset, Result};
use drystone_core::request::io::Io;

use crate::qcow2::check::Source;

impl Source for Io<'_> {
    fn len_bytes(&self) -> u64 {
        self.len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        self.read_new(at.in_child(), len_bytes).await.map(|buf| buf.as_slice().to_vec())
    }
}
