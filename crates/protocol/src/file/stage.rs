//! A change of a file node: who uses it, how, with which options.
//!
//! | phase | image locks | descriptor | options |
//! |---|---|---|---|
//! | stage | new ones beside the old ones, then ask who is in the way | if writing or direct I/O begins or ends: another, with the new locks | checked |
//! | commit | the new ones | the other one takes the old one's place, under the same number | take effect |
//! | undo | the old ones | the other one is closed | |

use std::sync::{Arc, PoisonError};

use drystone_base::{Error, Kind, Result};
use drystone_core::driver::{Publish, StageRequest, Staged};
use drystone_core::graph::permission::Perm;
use drystone_core::runtime::LocalFuture;
use drystone_sys::{Create, OpenOptions, Prepared, Reopened};

use super::options::FileOptions;
use super::{Image, alignment, check_kind};

/// What has been prepared.
struct StagedFile {
    image: Arc<Image>,
    /// Another descriptor, and what requests to it must be aligned to.
    reopened: Option<(Reopened, u32)>,
    locks: Option<Prepared>,
    options: Option<FileOptions>,
}

/// Prepares `image` for what `request` says.
pub(super) async fn stage(image: &Arc<Image>, request: &StageRequest<'_>) -> Result<Box<dyn Staged>> {
    let current = image.options.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let options = match request.options {
        None => None,
        Some(options) => match options.downcast_ref::<FileOptions>() {
            None => return Err(Error::new(Kind::InvalidInput, "these are not the options of a file")),
            Some(new) => {
                current.check_reopen(new)?;
                check_kind(&image.file, new.kind).map_err(|error| error.in_option("driver"))?;
                Some(new.clone())
            }
        },
    };
    let local = &**request.local;
    let locks = image.lock.prepare(local, request.new.users).await?;
    let reopened = reopen(image, request, options.as_ref().unwrap_or(&current)).await?;
    let align_now = || alignment(image.file.align_request_bytes());
    demand_whole_blocks(reopened.as_ref().map_or_else(align_now, |(_, align)| Ok(*align))?, request)?;
    if let Some((reopened, _)) = &reopened {
        locks.take_over(local, reopened).await?;
    }
    Ok(Box::new(StagedFile { image: Arc::clone(image), reopened, locks: Some(locks), options }))
}

/// Opens another descriptor if the present one does not do.
async fn reopen(
    image: &Image,
    request: &StageRequest<'_>,
    options: &FileOptions,
) -> Result<Option<(Reopened, u32)>> {
    let file = &image.file;
    let writable = Image::shall_write(request.new, options.auto_read_only);
    let direct = options.cache_direct;
    if (writable, direct) == (file.is_writable(), file.is_direct()) {
        return Ok(None);
    }
    let how = OpenOptions { writable, direct, create: Create::No };
    match file.reopen(&**request.local, how).await {
        Ok(reopened) => {
            let align = alignment(reopened.align_request_bytes()).map_err(|e| e.at_path(file.path()))?;
            Ok(Some((reopened, align)))
        }
        // A descriptor that can do more than is needed does.
        Err(_) if direct == file.is_direct() && !writable => Ok(None),
        Err(error) => Err(error),
    }
}

/// Direct I/O on the last block of a file that ends within it would make the file longer.
fn demand_whole_blocks(align: u32, request: &StageRequest<'_>) -> Result<()> {
    let (perm, len) = (request.new.users.perm, request.node.len());
    if perm.writes() && !perm.has(Perm::RESIZE) && !len.is_multiple_of(u64::from(align)) {
        let text = format!(
            "its length of {len} bytes is not a multiple of {align} bytes, the unit of direct I/O: a writer needs \
             permission 'resize', too"
        );
        return Err(Error::new(Kind::InvalidInput, text).in_option("cache.direct"));
    }
    Ok(())
}

impl Staged for StagedFile {
    fn commit(&mut self, publish: &Publish<'_>) {
        let image = &self.image;
        match (self.locks.take(), self.reopened.take()) {
            (Some(locks), Some((reopened, align))) => {
                locks.commit_with(reopened);
                publish.request_alignment(align);
            }
            (Some(locks), None) => locks.commit(),
            (None, _) => {}
        }
        if let Some(options) = self.options.take() {
            image.switches.set(&options);
            *image.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
        }
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {
            self.reopened = None;
            self.locks = None;
        })
    }
}
