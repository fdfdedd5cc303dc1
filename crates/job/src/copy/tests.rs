//! The parts of the copy engine, each on its own.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::claim::Claims;
use super::line::Line;
use super::zeroes::runs;

fn shown(bytes: &[u8], offset: u64, unit: u64, sparse: u64) -> String {
    let show = |run: &super::zeroes::Run| {
        let sign = if run.is_zero { '.' } else { '#' };
        format!("{}{sign}", run.bytes.len())
    };
    runs(bytes, offset, unit, sparse).iter().map(show).collect::<Vec<_>>().join(" ")
}

#[test]
fn runs_are_whole_units_of_the_disk() {
    let mut bytes = [0; 64];
    bytes[20] = 1;
    assert_eq!(shown(&bytes, 0, 8, 8), "16. 8# 40.");
    assert_eq!(shown(&bytes, 4, 8, 8), "20. 8# 36.", "units of the disk, not of the buffer");
    assert_eq!(shown(&bytes, 0, 64, 64), "64#");
    assert_eq!(shown(&[0; 3], 5, 8, 8), "3.");
    assert_eq!(shown(&[], 5, 8, 8), "");
}

#[test]
fn short_runs_of_zeroes_between_data_are_data() {
    let mut bytes = [1; 64];
    bytes[16..32].fill(0);
    assert_eq!(shown(&bytes, 0, 8, 16), "16# 16. 32#");
    assert_eq!(shown(&bytes, 0, 8, 24), "64#");
    bytes[..8].fill(0);
    assert_eq!(shown(&bytes, 0, 8, 24), "8. 56#", "what is before the buffer may be zero as well");
}

#[test]
fn every_byte_is_claimed_once() {
    let mut claims = Claims::new(100);
    let mut next =
        |len| claims.claim(len).map(|piece| (piece.index, piece.range.start().get(), piece.range.len()));
    assert_eq!(next(30), Some((0, 0, 30)));
    assert_eq!(next(30), Some((1, 30, 30)));
    assert_eq!(claims.extend(30, 80), 0, "somebody has claimed what follows the first piece");
    assert_eq!(claims.extend(60, 80), 20);
    assert_eq!(claims.claim(30).map(|piece| (piece.index, piece.range.len())), Some((2, 20)));
    assert!(claims.claim(30).is_none());
    assert_eq!(claims.extend(100, 200), 0);
}

fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn what_is_handed_in_comes_out_in_order() {
    let line = Line::default();
    assert!(!line.hand_in(2, "two"), "two pieces before it are missing");
    assert!(line.hand_in(0, "zero"));
    assert!(!line.hand_in(1, "one"), "there is a writer");
    let mut third = pin!(line.written(2));
    for (index, piece) in ["zero", "one", "two"].into_iter().enumerate() {
        assert_eq!(poll(&mut third), Poll::Pending);
        assert_eq!(line.next(), Some((index as u64, piece)));
        line.done(index as u64);
    }
    assert_eq!((poll(&mut third), line.next()), (Poll::Ready(()), None));
    assert!(line.hand_in(3, "three"), "the writer has gone");
    let mut last = pin!(line.written(9));
    assert_eq!(poll(&mut last), Poll::Pending);
    line.stop();
    assert_eq!((poll(&mut last), line.next()), (Poll::Ready(()), None));
    assert!(!line.hand_in(4, "four"));
}

#[test]
fn what_has_no_number_comes_out_as_it_comes() {
    let line = Line::default();
    assert_eq!(line.hand_in_last("one"), (0, true));
    assert_eq!(line.hand_in_last("two"), (1, false), "there is a writer");
    for piece in [Some((0, "one")), Some((1, "two")), None] {
        assert_eq!(line.next(), piece);
        piece.into_iter().for_each(|(index, _)| line.done(index));
    }
}
