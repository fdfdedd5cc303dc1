//! Runs of zero bytes in what was read.

use std::ops::Range;

use drystone_buf::scan::is_zero;

/// A part of a buffer that is written, or left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which bytes of the buffer.
    pub bytes: Range<usize>,
    /// They are zeroes.
    pub is_zero: bool,
}

/// Splits `bytes`, which lie at `offset` of the disk, at whole multiples of `unit_bytes` of the disk. Zeroes shorter than
/// `sparse_bytes` count as data, unless they are at an end of the buffer, where more may follow.
#[must_use]
pub fn runs(bytes: &[u8], offset: u64, unit_bytes: u64, sparse_bytes: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let into = (offset + at as u64) % unit_bytes;
        let unit = usize::try_from(unit_bytes - into).unwrap_or(usize::MAX);
        let end = at.saturating_add(unit).min(bytes.len());
        let is_zero = is_zero(bytes.get(at..end).unwrap_or_default());
        push(&mut runs, Run { bytes: at..end, is_zero });
        at = end;
    }
    let is_kept = |run: &Run| {
        let is_edge = run.bytes.start == 0 || run.bytes.end == bytes.len();
        !run.is_zero || is_edge || run.bytes.len() as u64 >= sparse_bytes
    };
    if runs.iter().all(is_kept) {
        return runs;
    }
    let mut merged = Vec::with_capacity(runs.len());
    for run in runs {
        let is_zero = run.is_zero && is_kept(&run);
        push(&mut merged, Run { is_zero, ..run });
    }
    merged
}

fn push(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.is_zero == run.is_zero => last.bytes.end = run.bytes.end,
        _ => runs.push(run),
    }
}
