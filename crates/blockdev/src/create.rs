//! Making new images.

use std::ffi::OsString;

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::LocalRef;
use drystone_protocol::file::Locking;
use drystone_protocol::file::create::{Existing, create};

use crate::formats::{BackingName, Formats};
use crate::name::{self, Name};
use crate::options::Options;

/// What a user wants made.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// The file: a path, `file:PATH` or `host_device:PATH`.
    pub name: OsString,
    /// The image format.
    pub format: String,
    /// Length of the disk in bytes.
    pub len_bytes: u64,
    /// The backing file, as it will be written into the image. It is not looked at.
    pub backing: Option<BackingName>,
    /// Options of the format.
    pub options: Options,
    /// What becomes of a file that is there already.
    pub existing: Existing,
    /// Whether the file is locked meanwhile.
    pub locking: Locking,
}

/// Makes the image.
///
/// # Errors
/// Those of the format for its options, before anything is touched; then those of files ([`create`]).
pub async fn create_image(local: &LocalRef, formats: &Formats, request: CreateRequest) -> Result<()> {
    let CreateRequest { name, format, len_bytes, backing, mut options, existing, locking } = request;
    let format = formats.find(&format)?;
    let contents = format.contents(len_bytes, backing.as_ref(), &mut options)?;
    options.finish(format.name())?;
    match name::parse(&name)? {
        Name::Path { path, .. } => create(local, path, existing, locking, contents).await,
        Name::Options(_) | Name::Nbd(_) => {
            Err(Error::new(Kind::Unsupported, "an image is made in a file, which is named by its path"))
        }
    }
}
