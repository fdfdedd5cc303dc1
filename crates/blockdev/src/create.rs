//! Making new images.

use std::ffi::OsString;
use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::LocalRef;
use drystone_format::raw;
use drystone_protocol::file::Locking;
use drystone_protocol::file::create::{Contents, Existing, create};

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
    let data_file = options.clone().take_text("data_file")?;
    let mut contents = format.contents(len_bytes, backing.as_ref(), &mut options)?;
    options.finish(format.name())?;
    match name::parse(&name)? {
        Name::Path { path, .. } => {
            if let Some(data_file) = data_file {
                if Path::new(&data_file) == path {
                    let text = "the image and its data cannot be in the same file";
                    return Err(Error::new(Kind::InvalidInput, text).in_option("data_file"));
                }
                // What is said of space is said of the data.
                let preallocation = std::mem::take(&mut contents.preallocation);
                let len_bytes = raw::len_file_of_new(len_bytes)?;
                let hints = contents.hints;
                let data = Contents { len_bytes, preallocation, hints, ..Contents::default() };
                create(local, data_file, existing, locking, data).await?;
            }
            create(local, path, existing, locking, contents).await
        }
        Name::Options(_) | Name::Node(_) => {
            Err(Error::new(Kind::Unsupported, "an image is made in a file, which is named by its path"))
        }
    }
}
