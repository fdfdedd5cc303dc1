//! The model allows what a disk may do and nothing else, shown by short stories.

use super::*;
use crate::notation::range;

const A: Stamp = Stamp::new(100);
const B: Stamp = Stamp::new(101);
const C: Stamp = Stamp::new(102);

/// A model of 8 KiB of zeroes, and what one does to it, in few words.
struct Story(ByteModel);

impl Story {
    fn new() -> Self {
        Self(ByteModel::zeroed(8192))
    }

    fn begin(&mut self, text: &str, stamp: Stamp) -> WriteInFlight {
        self.0.begin_write(range(text), Content::Stamp(stamp))
    }

    fn write(&mut self, text: &str, stamp: Stamp) {
        let write = self.begin(text, stamp);
        self.0.end_write(write, Ending::Done);
    }

    fn flush(&mut self) {
        let flush = self.0.begin_flush();
        self.0.end_flush(flush);
    }

    /// Whether a read of `text` may find `content` there; it is taken back if not, and counts as made if so.
    fn reads(&mut self, text: &str, content: &Content) -> bool {
        let at = range(text);
        self.0.check(at, &content.bytes(at.start().get(), at.len())).is_ok()
    }

    /// The same without counting as made.
    fn may_read(&self, text: &str, content: &Content) -> bool {
        Self(self.0.clone()).reads(text, content)
    }

    /// Which of zeroes, A, B and C the first sector may hold.
    fn may_hold(&self) -> String {
        let all = [('0', Content::Zero), ('A', A.into()), ('B', B.into()), ('C', C.into())];
        all.iter().filter(|(_, content)| self.may_read("0..512", content)).map(|(name, _)| *name).collect()
    }

    /// The same after a power cut at this moment.
    fn may_survive(&self) -> String {
        let mut after = self.0.clone();
        after.crash();
        Self(after).may_hold()
    }
}

#[test]
fn a_completed_write_is_what_is_read() {
    let mut story = Story::new();
    assert_eq!(story.may_hold(), "0");
    story.write("0..4K", A);
    assert_eq!(story.may_hold(), "A");
    assert!(story.may_read("4K..8K", &Content::Zero));
    story.write("0..4K", B);
    assert_eq!(story.may_hold(), "B");
}

#[test]
fn a_write_in_flight_may_be_seen_or_not() {
    let mut story = Story::new();
    let write = story.begin("0..4K", A);
    assert_eq!(story.may_hold(), "0A");
    story.0.end_write(write, Ending::Done);
    assert_eq!(story.may_hold(), "A");
}

#[test]
fn a_failed_write_may_be_seen_or_not_until_it_was() {
    let mut story = Story::new();
    let write = story.begin("0..4K", A);
    story.0.end_write(write, Ending::Failed);
    assert_eq!(story.may_hold(), "0A");
    assert!(story.reads("0..512", &A.into()));
    assert_eq!(story.may_hold(), "A", "what was seen stays");
    assert!(story.may_read("512..1K", &Content::Zero), "of other sectors nothing is known");
}

#[test]
fn of_overlapping_writes_either_wins_in_each_sector() {
    let mut story = Story::new();
    let (a, b) = (story.begin("0..4K", A), story.begin("0..4K", B));
    story.0.end_write(a, Ending::Done);
    story.0.end_write(b, Ending::Done);
    assert_eq!(story.may_hold(), "AB");
    assert!(story.reads("0..512", &A.into()) && story.reads("512..1K", &B.into()));
    assert_eq!(story.may_hold(), "A");
}

#[test]
fn sectors_are_not_torn() {
    let mut story = Story::new();
    let write = story.begin("0..4K", A);
    let mut torn = A.bytes(0, 512);
    torn[511] = 0;
    let wrong = story.0.check(range("0..512"), &torn).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "wrong bytes at 0 (0x0): stamp 100 in the first 511 of 512 bytes; allowed: zeroes, stamp 100 in flight"
    );
    story.0.end_write(write, Ending::Done);
}

#[test]
fn a_read_may_find_what_was_there_at_any_moment_of_its_life() {
    let mut story = Story::new();
    story.write("0..512", A);
    for stamp in [A, B, C] {
        let mut story = Story(story.0.clone());
        let read = story.0.begin_read(range("0..512"));
        story.write("0..512", B);
        story.write("0..512", C);
        assert!(story.0.end_read(read, &stamp.bytes(0, 512)).is_ok());
        assert_eq!(story.may_hold(), "C");
    }
    let read = story.0.begin_read(range("0..512"));
    assert!(story.0.end_read(read, &[0; 512]).is_err(), "what was overwritten before is gone");
}

#[test]
fn a_read_that_overlaps_a_write_does_not_say_how_it_ends() {
    let mut story = Story::new();
    let write = story.begin("0..512", A);
    let read = story.0.begin_read(range("0..512"));
    story.0.end_write(write, Ending::Failed);
    story.0.end_read(read, &[0; 512]).unwrap();
    assert_eq!(story.may_hold(), "0A", "the write may have taken effect after the read");
}

#[test]
fn an_unflushed_write_may_be_lost_and_a_flushed_one_not() {
    let mut story = Story::new();
    story.write("0..512", A);
    assert_eq!(story.may_survive(), "0A");
    story.flush();
    assert_eq!(story.may_survive(), "A");
    story.write("0..512", B);
    story.write("0..512", C);
    assert_eq!((story.may_hold(), story.may_survive()), ("C".into(), "ABC".into()));
    story.flush();
    assert_eq!(story.may_survive(), "C");
}

#[test]
fn a_flush_covers_only_what_had_ended_when_it_began() {
    let mut story = Story::new();
    let write = story.begin("0..512", A);
    let flush = story.0.begin_flush();
    story.0.end_write(write, Ending::Done);
    story.0.end_flush(flush);
    assert_eq!(story.may_survive(), "0A");
}

#[test]
fn a_durable_write_survives_with_everything_before_it_gone() {
    let mut story = Story::new();
    story.write("0..8K", A);
    let write = story.begin("0..512", B);
    story.0.end_write(write, Ending::Durable);
    assert_eq!(story.may_survive(), "B");
    story.0.crash();
    assert!(story.may_read("512..1K", &Content::Zero) && story.may_read("512..1K", &A.into()));
}

#[test]
fn what_a_flush_found_settled_stays_settled() {
    let mut story = Story::new();
    let (a, b) = (story.begin("0..512", A), story.begin("0..512", B));
    story.0.end_write(a, Ending::Done);
    story.0.end_write(b, Ending::Done);
    assert!(story.reads("0..512", &B.into()));
    assert_eq!(story.may_survive(), "0AB");
    story.flush();
    assert_eq!(story.may_survive(), "B");
}

#[test]
fn after_a_power_cut_sectors_differ_but_do_not_change_any_more() {
    let mut story = Story::new();
    story.write("0..8K", A);
    story.0.crash();
    assert!(story.reads("0..512", &A.into()) && story.reads("512..1K", &Content::Zero));
    assert_eq!((story.may_hold(), story.may_survive()), ("A".into(), "A".into()));
    story.write("0..512", B);
    assert_eq!((story.may_hold(), story.may_survive()), ("B".into(), "AB".into()));
}

#[test]
fn requests_in_flight_do_not_outlive_a_power_cut() {
    let mut story = Story::new();
    let write = story.begin("0..512", A);
    let read = story.0.begin_read(range("0..512"));
    let flush = story.0.begin_flush();
    story.0.crash();
    story.0.end_write(write, Ending::Done);
    story.0.end_flush(flush);
    assert_eq!(story.0.end_read(read, &[9; 512]), Ok(()));
    assert_eq!(story.may_hold(), "0A");
}

#[test]
fn a_discard_leaves_what_its_rule_says() {
    let holds = |rule| {
        let mut story = Story::new();
        story.write("0..512", A);
        let discard = story.0.begin_discard(range("0..512"), rule);
        story.0.end_write(discard, Ending::Done);
        story.may_hold()
    };
    assert_eq!(holds(DiscardRule::OldOrZero), "0A");
    assert_eq!(holds(DiscardRule::Zero), "0");
    assert_eq!(holds(DiscardRule::Any), "0ABC");
}

#[test]
fn a_length_is_what_was_set_last_and_before_a_flush_any_of_those() {
    let mut story = Story::new();
    story.write("0..8K", A);
    story.flush();
    let shrink = story.0.begin_resize(4096);
    story.0.end_write(shrink, Ending::Done);
    let grow = story.0.begin_resize(8192 + 512);
    story.0.end_write(grow, Ending::Done);
    assert_eq!(story.0.len(), 8704);
    assert!(story.may_read("4K..8704", &Content::Zero));
    let pending = story.0.begin_resize(512);
    let allowed = |story: &Story| [512, 4096, 8192, 8704, 1].map(|len| story.0.may_have_len(len));
    assert_eq!(allowed(&story), [true, true, true, true, false]);
    story.flush();
    assert_eq!(allowed(&story), [true, false, false, true, false]);
    story.0.end_write(pending, Ending::Failed);
    assert_eq!((story.0.len(), allowed(&story)), (8704, [true, false, false, true, false]));
    story.0.crash();
    story.0.found_len(512);
    assert_eq!(story.0.len(), 512);
}

#[test]
fn misplaced_bytes_are_named_in_the_report() {
    let mut story = Story::new();
    story.write("0..8K", A);
    let wrong = story.0.check(range("4K..8K"), &A.bytes(0, 4096)).unwrap_err();
    assert_eq!(wrong.to_string(), "wrong bytes at 4K (0x1000): stamp 100, written for 0; allowed: stamp 100");
    let wrong = story.0.check(range("4K..8K"), &[0; 4096]).unwrap_err();
    assert_eq!(wrong.to_string(), "wrong bytes at 4K (0x1000): zeroes; allowed: stamp 100");
}

#[test]
fn an_image_is_a_beginning_too() {
    let mut model = ByteModel::of(&Image::from_bytes(&[7; 1000]));
    assert_eq!(model.len(), 1000);
    assert_eq!(model.check(range("0..1000"), &[7; 1000]), Ok(()));
    assert_ne!(model.fresh_stamp(), model.fresh_stamp());
}

#[test]
fn a_large_disk_is_as_cheap_as_its_pieces() {
    let mut story = Story(ByteModel::zeroed(64 << 20));
    story.write("0..64M", A);
    for index in 0..1000_u64 {
        let at = GuestRange::checked(index * 65536, 4096).unwrap();
        let write = story.0.begin_write(at, Content::Stamp(B));
        story.0.end_write(write, Ending::Done);
    }
    story.flush();
    story.write("0..64M", C);
    story.flush();
    assert_eq!((story.0.piece_count(), story.0.versions.len()), (1, 2));
}

/// A file that ends inside of a sector: a read while that end moves.
#[test]
fn a_sector_across_a_moving_end_may_be_of_two_writes_while_one_is_in_flight() {
    let mixed: Vec<u8> = A.bytes(0, 389).into_iter().chain([0; 123]).collect();
    for (has_odd_ends, is_allowed) in [(false, false), (true, true)] {
        let model = ByteModel::zeroed(8192);
        let mut model = if has_odd_ends { model.with_odd_ends() } else { model };
        let write = model.begin_write(range("0..512"), A.into());
        assert_eq!(model.check(range("0..512"), &mixed).is_ok(), is_allowed);
        model.end_write(write, Ending::Done);
        assert!(model.check(range("0..512"), &mixed).is_err(), "nothing is in flight any more");
        assert!(model.check(range("0..512"), &A.bytes(0, 512)).is_ok());
    }
}

#[test]
fn a_read_that_turns_out_shorter_says_nothing_of_the_rest() {
    let mut story = Story::new();
    story.write("512..1K", A);
    let read = story.0.begin_read(range("0..1K"));
    let read = story.0.shorten_read(read, 512);
    assert_eq!(story.0.end_read(read, &[0; 512]), Ok(()));
    assert!(story.reads("512..1K", &A.into()));
}
