//! Counts put right where they are.
//!
//! Invariant: every block is used for nothing else, or the counts would have been made anew ([`super::rebuild`]).

use drystone_base::HostOffset;

use super::{Repair, Run, Target};
use crate::qcow2::check::finding::{Finding, Structure};
use crate::qcow2::check::{Check, CheckError};
use crate::qcow2::geometry::HostCluster;

impl<T: Target> Run<'_, T> {
    /// Writes the blocks whose counts differ from the references. `table` holds their entries.
    pub(super) async fn mend_counts<F: FnMut(&Finding)>(
        &mut self,
        check: &mut Check<'_, T, F>,
        table: &[u64],
        what: Repair,
    ) -> Result<(), CheckError> {
        let per_block = self.header.width().per_block(self.header.cluster()) as u64;
        let differing = std::mem::take(&mut check.damage.differing);
        for &index in &differing {
            let Some(&raw) = table.get(index) else { continue };
            let mut block = (HostOffset::ZERO, Vec::new());
            if check.load_block(raw, &mut block).await.is_err() || block.1.is_empty() {
                continue; // Nothing in it that could differ.
            }
            let first = index as u64 * per_block;
            let clusters = per_block.min(check.clusters - first);
            if self.mend_block(check, first, clusters, &mut block.1, what) {
                self.write(Structure::RefcountBlock, block.0, block.1).await?;
            }
        }
        if !differing.is_empty() {
            self.flush(Structure::RefcountBlock).await?;
        }
        Ok(())
    }

    /// Whether something in the block of the clusters from `first` on changed.
    fn mend_block<F: FnMut(&Finding)>(
        &mut self,
        check: &mut Check<'_, T, F>,
        first: u64,
        clusters: u64,
        block: &mut [u8],
        what: Repair,
    ) -> bool {
        let (width, mut changed) = (self.header.width(), false);
        for (index, cluster) in (first..first + clusters).enumerate() {
            let references = check.counters.get(HostCluster::new(cluster)).references;
            let Some(stored) = width.get(block, index) else { break };
            let fixed = match stored.cmp(&references) {
                std::cmp::Ordering::Greater => (&mut self.leaks_fixed, &mut check.outcome.leaks),
                std::cmp::Ordering::Less if what == Repair::All => {
                    (&mut self.corruptions_fixed, &mut check.outcome.corruptions)
                }
                _ => continue,
            };
            if width.set(block, index, references).is_some() {
                *fixed.0 += 1;
                *fixed.1 = fixed.1.saturating_sub(1);
                changed = true;
            }
        }
        changed
    }
}
