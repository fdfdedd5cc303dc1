//! The images of a played daemon: made before it starts, looked at after its end.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_format::qcow2::Header;
use drystone_format::qcow2::check::repair::{Repair, Target, repair};
use drystone_format::qcow2::check::{Class, Finding, Source, check};
use drystone_format::qcow2::create::CreateOptions;
use drystone_testkit::disk::Image;

/// Small, so that a small disk has several tables.
const CLUSTER_BYTES: u64 = 4096;
/// So much of what a check finds is shown.
const FINDINGS_SHOWN: usize = 10;

/// A new qcow2 image of a disk of `len_bytes`, behind which is `backing`.
///
/// # Panics
/// If there is no such image.
#[must_use]
pub fn new_image(len_bytes: u64, backing: Option<&str>) -> Image {
    let options = CreateOptions {
        cluster_bytes: CLUSTER_BYTES,
        backing_name: backing.map(|name| name.as_bytes().to_vec()),
        backing_format: backing.map(|_| b"qcow2".to_vec()),
        ..CreateOptions::new(len_bytes)
    };
    let layout = options.layout().unwrap_or_else(|error| panic!("no image of {len_bytes} bytes: {error}"));
    let mut image = Image::new(layout.len_file);
    for (at, bytes) in &layout.pieces {
        image.write(at.get(), bytes);
    }
    image
}

/// The header of a qcow2 image.
///
/// # Errors
/// [`Kind::InvalidImage`].
pub fn header(image: &Image) -> Result<Header> {
    let invalid = |cause| Error::new(Kind::InvalidImage, "the header is not valid").because(cause);
    let area = Header::area_len_bytes(&image.bytes(0..512)).map_err(invalid)?;
    Header::parse(&image.bytes(0..area as u64)).map_err(invalid)
}

/// What a qcow2 image says is behind it.
///
/// # Errors
/// [`Kind::InvalidImage`].
pub fn recorded_backing(image: &Image) -> Result<Option<String>> {
    Ok(header(image)?.backing_name().map(|name| String::from_utf8_lossy(name).into_owned()))
}

/// Checks a qcow2 image.
///
/// # Panics
/// If it is corrupt, or leaks clusters and must not.
pub fn demand_sound(name: &str, image: &Image, may_leak: bool) {
    let header = header(image).unwrap_or_else(|error| panic!("image '{name}': {}", error.report()));
    let mut findings = Vec::new();
    let note = |found: &Finding| {
        if (found.class() != Class::Leak || !may_leak) && findings.len() < FINDINGS_SHOWN {
            findings.push(found.to_string());
        }
    };
    let outcome = at_once(check(&Bytes(image), &header, note))
        .unwrap_or_else(|error| panic!("image '{name}' cannot be checked: {error}"));
    let worst = (outcome.corruptions, outcome.check_errors);
    assert_eq!(worst, (0, 0), "image '{name}' is corrupt: {findings:#?}");
    assert!(may_leak || outcome.leaks == 0, "image '{name}' leaks {} clusters: {findings:#?}", outcome.leaks);
}

/// A qcow2 image after a repair of all that a check finds.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn repaired(name: &str, image: &Image) -> Image {
    let header = header(image).unwrap_or_else(|error| panic!("image '{name}': {}", error.report()));
    let target = Edited(RefCell::new(image.clone()));
    let outcome = at_once(repair(&target, &header, Repair::All, |_| {}));
    outcome.unwrap_or_else(|error| panic!("image '{name}' cannot be repaired: {error}"));
    target.0.into_inner()
}

/// An image in memory, to be repaired.
struct Edited(RefCell<Image>);

impl Source for Edited {
    fn len_bytes(&self) -> u64 {
        self.0.borrow().len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.borrow().bytes(at.get()..at.get().saturating_add(len_bytes as u64)))
    }
}

impl Target for Edited {
    async fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> Result<()> {
        let mut image = self.0.borrow_mut();
        let end = at.get().saturating_add(bytes.len() as u64);
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

/// An image, for the check.
struct Bytes<'i>(&'i Image);

impl Source for Bytes<'_> {
    fn len_bytes(&self) -> u64 {
        self.0.len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.bytes(at.get()..at.get().saturating_add(len_bytes as u64)))
    }
}

/// The output of a future that does not wait.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a check of memory waits"),
    }
}
