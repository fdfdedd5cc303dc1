//! Putting a new image on disk.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_core::disk::Preallocation;
use drystone_core::runtime::LocalRef;
use drystone_format::qcow2::create::CreateError;
use drystone_format::raw;
use drystone_protocol::file::create::{Contents, Existing, create};
use drystone_sys::{File, FileId, Locking, OpenOptions};

use super::table::Values;
use super::target::{self, Target};
use crate::img::spec::Format;
use crate::tool::Tool;

/// Makes the image at `path`.
///
/// # Errors
/// Values that the format does not take, before anything is touched; those of the operating system.
pub(super) async fn image(
    local: &LocalRef,
    path: &Path,
    format: Format,
    values: &Values,
    chain: &BTreeSet<FileId>,
) -> Result<()> {
    let target = Target::File(path.to_owned());
    let contents = prepare(local, &target, format, values, chain).await?;
    create(local, path, Existing::Replace, Locking::Auto, contents).await
}

/// Makes the image where `name` stands for a disk that is there already.
///
/// # Errors
/// As [`image`]; a disk that is too short.
pub(super) async fn at_node(
    tool: &Tool,
    name: &OsStr,
    format: Format,
    values: &Values,
    chain: &BTreeSet<FileId>,
) -> Result<()> {
    let target = Target::Node(name.to_owned());
    let contents = prepare(tool.local(), &target, format, values, chain).await?;
    target::store(tool, name, contents).await
}

/// What the image's own file is to hold; makes that for its data, if there is to be one.
async fn prepare(
    local: &LocalRef,
    target: &Target,
    format: Format,
    values: &Values,
    chain: &BTreeSet<FileId>,
) -> Result<Contents> {
    let mut contents = match format {
        Format::Raw => raw_contents(values)?,
        Format::Qcow2 => qcow2_contents(values)?,
    };
    if let Some(name) = values.data_file() {
        // What is said of space is said of the data.
        let preallocation = std::mem::take(&mut contents.preallocation);
        data_file(local, Path::new(name), target, (preallocation, values), chain).await?;
    }
    Ok(contents)
}

/// Makes the file for the data of the image. Its name is seen from where the program runs, as when the image is
/// opened.
async fn data_file(
    local: &LocalRef,
    path: &Path,
    image: &Target,
    (preallocation, values): (Preallocation, &Values),
    chain: &BTreeSet<FileId>,
) -> Result<()> {
    let named = |error: Error| error.at_path(path).in_option("data_file");
    Target::File(path.to_owned()).refuse_overlap(local, chain).await.map_err(named)?;
    let len_bytes = raw::len_file_of_new(values.size().unwrap_or(0))?;
    let contents = Contents { len_bytes, preallocation, hints: values.hints()?, ..Contents::default() };
    create(local, path, Existing::Replace, Locking::Auto, contents).await.map_err(named)?;
    let file = File::open(&**local, path, OpenOptions::default()).await.map_err(named)?;
    let id = file.id();
    file.close(&**local).await;
    image.refuse_overlap(local, &BTreeSet::from([id])).await.map_err(|_| {
        named(Error::new(Kind::InvalidInput, "the image and its data cannot be in the same file"))
    })
}

fn raw_contents(values: &Values) -> Result<Contents> {
    let preallocation = values.preallocation()?;
    if preallocation == Preallocation::Metadata {
        let text = "a raw image has no metadata to allocate";
        return Err(Error::new(Kind::InvalidInput, text).in_option("preallocation"));
    }
    let len_bytes = raw::len_file_of_new(values.size().unwrap_or(0))?;
    Ok(Contents { len_bytes, preallocation, hints: values.hints()?, ..Contents::default() })
}

fn qcow2_contents(values: &Values) -> Result<Contents> {
    let preallocation = values.preallocation()?;
    let invalid =
        |cause: CreateError| Error::new(Kind::InvalidInput, "cannot make such an image").because(cause);
    let mut options = values.to_qcow2()?;
    options.is_mapped = preallocation != Preallocation::Off;
    let layout = options.layout().map_err(invalid)?;
    let pieces = layout.pieces.into_iter().map(|(at, bytes)| (at.get(), bytes)).collect();
    // The mapping is the metadata; what is left for the file is whether its space is taken, too.
    let preallocation =
        if preallocation == Preallocation::Metadata { Preallocation::Off } else { preallocation };
    Ok(Contents { len_bytes: layout.len_file, preallocation, hints: values.hints()?, pieces })
}
