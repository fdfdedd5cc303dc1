//! [`Watched`]: a client whose every answer is checked.

use std::rc::Rc;

use drystone_base::{GuestRange, Result};
use drystone_core::disk::Preallocation;
use drystone_core::driver::Status;

use super::{BackendClient, SharedModel, Target};
use crate::model::{Content, DiscardRule, Ending};

/// What [`Watched::write_compressed`] makes of a disk: pieces of this many bytes.
const SECTOR_BYTES: u64 = 512;

/// Makes requests and tells the model of them. Panics where the disk breaks its contract.
pub struct Watched<T> {
    target: T,
    model: SharedModel,
}

impl<T: Target> Watched<T> {
    /// Watches `target`, a client of the disk that `model` describes.
    #[must_use]
    pub fn new(target: T, model: &SharedModel) -> Self {
        Self { target, model: Rc::clone(model) }
    }

    /// Reads `range`.
    ///
    /// # Panics
    /// If the bytes are not among those that the disk may hold.
    pub async fn read(&mut self, range: GuestRange) -> Result<Vec<u8>> {
        let read = self.model.borrow_mut().begin_read(range);
        let result = self.target.read(range).await;
        let mut model = self.model.borrow_mut();
        match &result {
            Err(_) => model.abandon_read(read),
            Ok(bytes) => {
                if let Err(wrong) = model.end_read(read, bytes) {
                    panic!("read of {range}: {wrong}");
                }
            }
        }
        result
    }

    /// Fills `range` with a stamp that was not used before.
    pub async fn write(&mut self, range: GuestRange, fua: bool) -> Result<()> {
        let (write, bytes) = {
            let mut model = self.model.borrow_mut();
            let stamp = model.fresh_stamp();
            (model.begin_write(range, stamp.into()), stamp.bytes(range.start().get(), range.len()))
        };
        let result = self.target.write(range.start().get(), &bytes, fua).await;
        let ending = if fua && result.is_ok() { Ending::Durable } else { Ending::from(&result) };
        self.model.borrow_mut().end_write(write, ending);
        result
    }

    /// Zeroes `range`.
    pub async fn write_zeroes(&mut self, range: GuestRange, may_unmap: bool) -> Result<()> {
        let write = self.model.borrow_mut().begin_write(range, Content::Zero);
        let result = self.target.write_zeroes(range, may_unmap).await;
        self.model.borrow_mut().end_write(write, Ending::from(&result));
        result
    }

    /// Gives the contents of `range` up; what it may hold then is said by `rule`.
    pub async fn discard(&mut self, range: GuestRange, rule: DiscardRule) -> Result<()> {
        let discard = self.model.borrow_mut().begin_discard(range, rule);
        let result = self.target.discard(range).await;
        self.model.borrow_mut().end_write(discard, Ending::from(&result));
        result
    }

    /// Sets the length.
    pub async fn resize(&mut self, len: u64) -> Result<()> {
        let resize = self.model.borrow_mut().begin_resize(len);
        let result = self.target.resize(len).await;
        self.model.borrow_mut().end_write(resize, Ending::from(&result));
        result
    }

    /// Makes durable what was done before.
    pub async fn flush(&mut self) -> Result<()> {
        let flush = self.model.borrow_mut().begin_flush();
        let result = self.target.flush().await;
        if result.is_ok() {
            self.model.borrow_mut().end_flush(flush);
        }
        result
    }
}

impl Watched<BackendClient> {
    /// Fills `range` of the state of a machine, of which the disk must show nothing.
    pub async fn write_state(&mut self, range: GuestRange) -> Result<()> {
        let stamp = self.model.borrow_mut().fresh_stamp();
        self.target.write_state(range.start().get(), &stamp.bytes(range.start().get(), range.len())).await
    }

    /// Sets the length, with space for what is new.
    pub async fn resize_with(&mut self, len: u64, preallocation: Preallocation) -> Result<()> {
        let resize = self.model.borrow_mut().begin_resize(len);
        let result = self.target.resize_with(len, preallocation).await;
        self.model.borrow_mut().end_write(resize, Ending::from(&result));
        result
    }

    /// As [`Self::write`], stored compressed: every second sector holds the stamp, the others zeroes.
    pub async fn write_compressed(&mut self, range: GuestRange) -> Result<()> {
        let mut bytes = Vec::new();
        let mut writes = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let sector = rest.take(SECTOR_BYTES);
            let is_stamped = (rest.start().get() / SECTOR_BYTES).is_multiple_of(2);
            let mut model = self.model.borrow_mut();
            let stamp = model.fresh_stamp();
            if is_stamped {
                bytes.extend(stamp.bytes(sector.start().get(), sector.len()));
                writes.push(model.begin_write(sector, stamp.into()));
            } else {
                bytes.resize(bytes.len() + crate::index(sector.len()), 0);
                writes.push(model.begin_write(sector, Content::Zero));
            }
            rest = rest.skip(sector.len());
        }
        let result = self.target.write_compressed(range.start().get(), &bytes).await;
        for write in writes {
            self.model.borrow_mut().end_write(write, Ending::from(&result));
        }
        result
    }

    /// How the first part of `range` is allocated. To say that it is zero is to have read zeroes.
    ///
    /// # Panics
    /// If the disk cannot hold zeroes where it says so, or if the answer is about nothing.
    pub async fn status(&mut self, range: GuestRange) -> Result<Status> {
        let read = self.model.borrow_mut().begin_read(range);
        let result = self.target.status(range).await;
        let mut model = self.model.borrow_mut();
        match &result {
            Ok(status) if status.zero => {
                assert!(status.len > 0 || range.is_empty(), "the status of {range} is about nothing");
                let read = model.shorten_read(read, status.len);
                let zeroes = vec![0; crate::index(status.len.min(range.len()))];
                if let Err(wrong) = model.end_read(read, &zeroes) {
                    panic!("status of {range} says zero for {} bytes: {wrong}", status.len);
                }
            }
            _ => model.abandon_read(read),
        }
        result
    }
}
