//! An image's bytes as what a repair works on.

use std::cell::{Cell, RefCell};

use drystone_base::{HostOffset, Result};
use drystone_format::qcow2::check::Source;
use drystone_format::qcow2::check::repair::Target;

use super::image::Bytes;

/// Bytes that can be written. One operation at a time.
pub(super) struct Editable {
    bytes: RefCell<Option<Bytes>>,
    len_bytes: Cell<u64>,
}

impl Editable {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { len_bytes: Cell::new(bytes.len_bytes()), bytes: RefCell::new(Some(bytes)) }
    }

    /// The bytes, as they are now.
    pub(super) fn into_bytes(self) -> Option<Bytes> {
        self.bytes.into_inner()
    }

    /// Does something with the bytes, which nobody else does meanwhile.
    async fn with<T>(&self, work: impl AsyncFnOnce(&mut Bytes) -> Result<T>) -> Result<T> {
        let taken = self.bytes.borrow_mut().take();
        let Some(mut bytes) = taken else { panic!("one operation at a time") };
        let done = work(&mut bytes).await;
        self.len_bytes.set(bytes.len_bytes());
        *self.bytes.borrow_mut() = Some(bytes);
        done
    }
}

impl Source for Editable {
    fn len_bytes(&self) -> u64 {
        self.len_bytes.get()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        self.with(async |bytes| bytes.read_at(at, len_bytes).await).await
    }
}

impl Target for Editable {
    async fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> Result<()> {
        self.with(async |image| image.write(at.get(), &bytes).await).await
    }

    async fn flush(&self) -> Result<()> {
        self.with(async |bytes| bytes.flush().await).await
    }
}
