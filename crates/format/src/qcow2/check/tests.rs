//! What images made here cannot show: reads that fail, and the words of findings. Numbers on images of the C tools are
//! compared in `tests/it` and `tests/oracle`.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use drystone_base::{Kind, Result};

use super::*;
use crate::qcow2::create::CreateOptions;

/// A new image with one L2 table, whose reads fail at one offset.
struct Failing {
    bytes: Vec<u8>,
    fails_at: u64,
    /// Bytes that a read returns too few.
    short: usize,
}

impl Source for Failing {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        if at.get() == self.fails_at {
            return Err(Error::new(Kind::Io, "the disk is tired"));
        }
        let at = usize::try_from(at.get()).unwrap();
        Ok(self.bytes[at..at + len_bytes - self.short].to_vec())
    }
}

const CLUSTER: u64 = 4096;
const REFCOUNT_TABLE: u64 = CLUSTER;
const REFCOUNT_BLOCK: u64 = 2 * CLUSTER;
const L1: u64 = 3 * CLUSTER;
const L2: u64 = 4 * CLUSTER;
const DATA: u64 = 5 * CLUSTER;

/// An image of six clusters: what a new one has, an L2 table and a data cluster.
fn image() -> Failing {
    let layout = CreateOptions { cluster_bytes: CLUSTER, ..CreateOptions::new(1 << 20) }.layout().unwrap();
    let mut image = Failing { bytes: vec![0; 6 * 4096], fails_at: u64::MAX, short: 0 };
    for (at, piece) in &layout.pieces {
        let at = usize::try_from(at.get()).unwrap();
        image.bytes[at..at + piece.len()].copy_from_slice(piece);
    }
    image.put(L1, L2 | 1 << 63);
    image.put(L2, DATA | 1 << 63);
    image.put(REFCOUNT_BLOCK, 0x0001_0001_0001_0001);
    image.put(REFCOUNT_BLOCK + 8, 0x0001_0001_0000_0000);
    image
}

impl Failing {
    fn put(&mut self, at: u64, word: u64) {
        let at = usize::try_from(at).unwrap();
        self.bytes[at..at + 8].copy_from_slice(&word.to_be_bytes());
    }

    fn check(&self) -> (Result<Outcome, CheckError>, Vec<String>) {
        let header = Header::parse(&self.bytes[..4096]).unwrap();
        let mut findings = Vec::new();
        let outcome = {
            let check = pin!(check(self, &header, |finding| findings.push(finding.to_string())));
            match check.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => panic!("a check of bytes in memory waits"),
            }
        };
        (outcome, findings)
    }
}

#[test]
fn a_whole_image_has_nothing_to_report() {
    let (outcome, findings) = image().check();
    let expected = Outcome {
        clusters_total: 256,
        clusters_allocated: 1,
        image_end_offset: 6 * CLUSTER,
        ..Outcome::default()
    };
    assert_eq!((outcome.unwrap(), findings), (expected, vec![]));
}

#[test]
fn an_l2_table_that_cannot_be_read_is_a_check_error_and_its_clusters_look_leaked() {
    let (outcome, findings) = Failing { fails_at: L2, ..image() }.check();
    let outcome = outcome.unwrap();
    assert_eq!((outcome.check_errors, outcome.leaks, outcome.corruptions), (1, 1, 0));
    assert_eq!(findings[0], "cannot read the L2 table at 0x4000: the disk is tired");
}

#[test]
fn refcounts_that_cannot_be_read_are_check_errors_each() {
    let (outcome, findings) = Failing { fails_at: REFCOUNT_BLOCK, ..image() }.check();
    let outcome = outcome.unwrap();
    assert_eq!((outcome.check_errors, outcome.leaks, outcome.corruptions), (6, 0, 0));
    assert_eq!(findings, ["cannot get the refcounts of 6 cluster(s) from 0 on: the disk is tired"]);
}

#[test]
fn without_the_active_tables_nothing_can_be_said() {
    for (fails_at, what) in [(L1, Structure::ActiveL1), (REFCOUNT_TABLE, Structure::RefcountTable)] {
        let (outcome, _) = Failing { fails_at, ..image() }.check();
        assert!(matches!(outcome, Err(CheckError::Read(table, _)) if table == what));
    }
}

#[test]
fn a_source_that_returns_too_little_is_not_believed() {
    let (outcome, _) = Failing { short: 1, ..image() }.check();
    assert!(matches!(outcome, Err(CheckError::Read(Structure::ActiveL1, _))));
}

#[test]
fn a_cluster_that_is_used_twice_is_found_from_both_sides() {
    let mut image = image();
    image.put(L2 + 8, DATA | 1 << 63);
    let (outcome, findings) = image.check();
    assert_eq!(findings, ["cluster 5: refcount 1, references 2"]);
    assert_eq!(outcome.unwrap().corruptions, 1);
    image.put(REFCOUNT_BLOCK + 8, 0x0001_0002_0000_0000);
    let (outcome, findings) = image.check();
    assert_eq!(findings, ["cluster 5 has a refcount of 2, but 2 reference(s) claim to be the only one"]);
    assert_eq!(outcome.unwrap().corruptions, 2);
}

#[test]
fn an_image_with_unsupported_features_is_not_checked() {
    let mut image = image();
    image.put(88, 1 << 1);
    let (outcome, _) = image.check();
    assert!(matches!(outcome, Err(CheckError::Refused(RefusedReason::NoDataFile))));
}
