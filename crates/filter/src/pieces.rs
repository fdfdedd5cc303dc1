//! Requests to a child in pieces of a bounded length.

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::driver::{BufResult, WriteFlags};
use drystone_core::request::io::Io;

/// A length as an index into a buffer.
pub(crate) fn index(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).unwrap_or(usize::MAX)
}

/// Head and tail that are not aligned, and what lies between; `align` need not be a power of two.
pub(crate) fn split_aligned(range: GuestRange, align: u64) -> (GuestRange, GuestRange, GuestRange) {
    let (start, end) = (range.start().get(), range.end().get());
    let inner_start = start.next_multiple_of(align.max(1)).min(end);
    let inner_end = (end - end % align.max(1)).max(inner_start);
    let head = range.take(inner_start - start);
    let middle = range.skip(head.len()).take(inner_end - inner_start);
    (head, middle, range.skip(head.len() + middle.len()))
}

/// The parts of a range, each at most `len_max` bytes long; 0 for no limit.
pub(crate) fn parts(range: GuestRange, len_max: u64) -> impl Iterator<Item = GuestRange> {
    let len_max = if len_max == 0 { u64::MAX } else { len_max };
    let mut rest = range;
    std::iter::from_fn(move || {
        let part = rest.take(len_max);
        rest = rest.skip(part.len());
        (!part.is_empty()).then_some(part)
    })
}

/// Fills `buf` from `at` of the child.
pub(crate) async fn read(child: Io<'_>, at: GuestOffset, buf: Buf, len_max: u64) -> BufResult {
    each_piece(at, buf, len_max, async |at, piece| child.read(at, piece).await).await
}

/// The same; what lies past the end of the child is zeroes. `buf` is zeroes.
pub(crate) async fn read_clamped(child: Io<'_>, at: GuestOffset, mut buf: Buf, len_max: u64) -> BufResult {
    let behind = split(&mut buf, child.len().saturating_sub(at.get()));
    let (result, buf) = read(child, at, buf, len_max).await;
    (result, join(Some(buf), behind))
}

/// Stores `buf` at `at` of the child.
pub(crate) async fn write(
    child: Io<'_>,
    at: GuestOffset,
    buf: Buf,
    flags: WriteFlags,
    len_max: u64,
) -> BufResult {
    each_piece(at, buf, len_max, async |at, piece| child.write(at, piece, flags).await).await
}

async fn each_piece(
    at: GuestOffset,
    buf: Buf,
    len_max: u64,
    mut request: impl AsyncFnMut(GuestOffset, Buf) -> BufResult,
) -> BufResult {
    if buf.len() as u64 <= len_max {
        return request(at, buf).await;
    }
    let (mut done, mut rest, mut at): (Option<Buf>, Buf, GuestOffset) = (None, buf, at);
    let mut result: Result<()> = Ok(());
    while !rest.is_empty() && result.is_ok() {
        let behind = split(&mut rest, len_max);
        let len = rest.len() as u64;
        let (outcome, piece) = request(at, rest).await;
        (result, at, rest) = (outcome, at.plus(len), behind);
        done = Some(join(done, piece));
    }
    (result, join(done, rest))
}

/// What lies in a buffer behind its first `len_bytes` bytes, perhaps nothing.
pub(crate) fn split(buf: &mut Buf, len_bytes: u64) -> Buf {
    let at = index(len_bytes).min(buf.len());
    buf.split_off(at)
}

/// Joins parts of one buffer. A device that lost its part leaves a gap; the request has failed then.
pub(crate) fn join(done: Option<Buf>, next: Buf) -> Buf {
    let Some(mut done) = done else { return next };
    match done.rejoin(next) {
        Ok(()) | Err(_) => done,
    }
}

/// Copies from `skip` of one buffer to all of another.
pub(crate) fn copy(from: &Buf, skip: usize, to: &mut Buf) {
    let len = to.len();
    if let Some(bytes) = from.as_slice().get(skip..).and_then(|bytes| bytes.get(..len)) {
        to.as_mut_slice().copy_from_slice(bytes);
    }
}

/// Copies all of one buffer to `skip` of another.
pub(crate) fn patch(to: &mut Buf, skip: usize, from: &Buf) {
    let middle = to.as_mut_slice().get_mut(skip..).and_then(|bytes| bytes.get_mut(..from.len()));
    if let Some(middle) = middle {
        middle.copy_from_slice(from.as_slice());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_aligned_bytes_in_the_middle() {
        let split = |start, len, align| {
            let (head, middle, tail) = split_aligned(GuestRange::new(GuestOffset::new(start), len), align);
            (head.len(), middle.len(), tail.len())
        };
        assert_eq!(split(0, 1024, 512), (0, 1024, 0));
        assert_eq!(split(1, 1024, 512), (511, 512, 1));
        assert_eq!(split(1, 100, 512), (100, 0, 0));
        assert_eq!(split(511, 2, 512), (1, 0, 1));
        assert_eq!(split(5, 3000, 1000), (995, 2000, 5));
    }

    #[test]
    fn parts_are_no_longer_than_they_may_be() {
        let range = GuestRange::new(GuestOffset::new(10), 25);
        let show = |len_max| parts(range, len_max).map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(show(10), [10, 10, 5]);
        assert_eq!(show(0), [25]);
        assert_eq!(parts(range.take(0), 10).count(), 0);
    }
}
