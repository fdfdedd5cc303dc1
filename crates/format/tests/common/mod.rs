//! An image in memory and what both test binaries ask of it.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use drystone_base::{HostOffset, Result};
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::{self, CheckError, Outcome, Source};

/// A file of bytes, which notes how much was read of it.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) read_bytes: Cell<u64>,
}

impl Image {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, read_bytes: Cell::new(0) }
    }

    /// The header, parsed from as many bytes as it wants to see.
    pub(crate) fn header(&self) -> Result<Header, String> {
        let len = Header::area_len_bytes(&self.bytes).map_err(|error| error.to_string())?;
        Header::parse(&self.bytes[..len.min(self.bytes.len())]).map_err(|error| error.to_string())
    }

    /// The outcome of a check, and its findings as text.
    pub(crate) fn check(&self) -> (Result<Outcome, CheckError>, Vec<String>) {
        let header = self.header().unwrap();
        let mut findings = Vec::new();
        let outcome = block_on(check::check(self, &header, |finding| findings.push(finding.to_string())));
        (outcome, findings)
    }
}

impl Source for Image {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        self.read_bytes.set(self.read_bytes.get() + len_bytes as u64);
        assert!(at.get() + len_bytes as u64 <= self.len_bytes(), "a read past the end of the file");
        assert!(len_bytes <= 2 << 20 || at.get() == 0, "a read of {len_bytes} bytes at once");
        let at = usize::try_from(at.get()).unwrap();
        Ok(self.bytes[at..at + len_bytes].to_vec())
    }
}

/// Runs a future that never waits.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a future that reads from memory waits"),
    }
}

/// The numbers that `qemu-img check --output=json` prints; it leaves out those that are 0.
pub(crate) fn outcome_of_json(json: &str) -> Outcome {
    let number = |key: &str| {
        let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap_or(("", "0"));
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    Outcome {
        corruptions: number("corruptions"),
        leaks: number("leaks"),
        check_errors: number("check-errors"),
        clusters_total: number("total-clusters"),
        clusters_allocated: number("allocated-clusters"),
        clusters_fragmented: number("fragmented-clusters"),
        clusters_compressed: number("compressed-clusters"),
        image_end_offset: number("image-end-offset"),
    }
}

/// A recorded file: what the C tools made or said.
pub(crate) fn golden(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Bytes out of the text that `od -A x -t x1 -w32` prints.
pub(crate) fn parse_od(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut last = Vec::new();
    for line in text.lines().filter(|line| *line != "*") {
        let mut words = line.split(' ');
        let at = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        while bytes.len() < at {
            bytes.extend_from_slice(&last);
        }
        last = words.map(|word| u8::from_str_radix(word, 16).unwrap()).collect();
        bytes.extend_from_slice(&last);
    }
    bytes
}

/// A recorded image.
pub(crate) fn golden_image(name: &str) -> Image {
    Image::new(parse_od(&golden(&format!("{name}.image"))))
}
