//! A file that somebody made, repaired.
//!
//! Demanded of every file: a repair ends, in bounded memory, and does not make the file much longer. After one of everything,
//! a check finds what the repair said that it left, no leaks, and another repair has nothing to do. A file that the check
//! finds no fault in stays as it is.

use std::cell::RefCell;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use drystone_base::{HostOffset, Result};
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::repair::{Repair, Repaired, Target, repair};
use drystone_format::qcow2::check::{CheckError, Outcome, Source, check};
use drystone_testkit::disk::Image;

/// How much longer than twice its length a file may become: refcounts in the largest clusters, and a list of snapshots.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// A file in memory.
struct File(RefCell<Image>);

impl Source for File {
    fn len_bytes(&self) -> u64 {
        self.0.borrow().len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        let image = self.0.borrow();
        assert!(at.get() + len_bytes as u64 <= image.len(), "a read past the end");
        Ok(image.bytes(at.get()..at.get() + len_bytes as u64))
    }
}

impl Target for File {
    async fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> Result<()> {
        let mut image = self.0.borrow_mut();
        let end = at.get() + bytes.len() as u64;
        if image.len() < end {
            image.set_len(end);
        }
        image.write(at.get(), &bytes);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a repair in memory waits"),
    }
}

fn header(image: &Image) -> Option<Header> {
    let area = Header::area_len_bytes(&image.bytes(0..512)).ok()?;
    Header::parse(&image.bytes(0..image.len().min(area as u64))).ok()
}

/// The file after a repair, and what was repaired.
fn mend(image: &Image, what: Repair) -> (Image, Result<Repaired, CheckError>) {
    let Some(header) = header(image) else { panic!("a repair has broken the header") };
    let file = File(RefCell::new(image.clone()));
    let repaired = now(repair(&file, &header, what, |_| {}));
    (file.0.into_inner(), repaired)
}

fn look(image: &Image) -> Option<Outcome> {
    let header = header(image)?;
    now(check(&File(RefCell::new(image.clone())), &header, |_| {})).ok()
}

/// Repairs the file.
pub(super) fn run(image: &Image) {
    if header(image).is_none() {
        return;
    }
    let before = look(image);
    for what in [Repair::Leaks, Repair::All] {
        let (after, repaired) = mend(image, what);
        assert!(
            after.len() <= 2 * image.len() + GROWTH_BYTES_MAX,
            "the file became {} bytes long",
            after.len()
        );
        let is_whole =
            |outcome: &Outcome| (outcome.corruptions, outcome.leaks, outcome.check_errors) == (0, 0, 0);
        let Ok(repaired) = repaired else {
            assert!(
                !before.is_some_and(|before| is_whole(&before)),
                "a file without a fault cannot be repaired"
            );
            continue;
        };
        if before.is_some_and(|before| is_whole(&before)) {
            assert_eq!(
                (repaired.leaks_fixed, repaired.corruptions_fixed),
                (0, 0),
                "nothing was to be repaired"
            );
        }
        if what == Repair::Leaks || repaired.outcome.check_errors > 0 {
            continue;
        }
        let Some(found) = look(&after) else { panic!("a repaired file cannot be checked") };
        assert_eq!((found.leaks, found.check_errors), (0, 0), "after a repair of everything");
        assert_eq!(found.corruptions, repaired.outcome.corruptions, "what the repair says that it left");
        let (again, second) = mend(&after, Repair::All);
        let second = second.map(|second| (second.leaks_fixed, second.corruptions_fixed));
        assert!(matches!(second, Ok((0, 0))), "a second repair: {second:?}");
        assert!(again == after, "a second repair changes the file");
    }
}
