//! What devices copy themselves, so that nobody reads it: the beginnings of parts, as far as it goes.

use drystone_base::{GuestRange, Kind, Result};
use drystone_core::lane::Lane;

use super::Copy;

impl Copy {
    /// Has devices copy the first bytes of `part`; what is left to be read and written.
    pub(super) async fn offload(&self, lane: &mut Lane, part: GuestRange) -> Result<GuestRange> {
        let mut rest = part;
        let is_wanted = self.spec.offloads && !self.spec.salvages;
        while is_wanted && !rest.is_empty() {
            let (source, from, left) = self.source_at(rest.start().get())?;
            let Some(range) = GuestRange::checked(from, left.min(rest.len())) else { break };
            let to = (rest.start(), self.spec.flags);
            let mut ticket = lane.enter(&source.backend).await;
            match ticket.copy_to(range, &self.spec.target, to).await {
                Ok(done) => rest = rest.skip(done),
                Err(error) if error.kind() == Kind::Unsupported => break,
                Err(error) => return Err(error),
            }
        }
        Ok(rest)
    }
}
