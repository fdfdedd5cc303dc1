//! Backing chains, followed as far as their headers.

use std::collections::BTreeSet;

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::LocalRef;
use drystone_sys::FileId;

use super::image::{Identity, Image};
use super::spec::Spec;

/// A chain from its top image on.
pub(super) struct Chain {
    local: LocalRef,
    force_share: bool,
    /// An error is told when somebody asks for the image.
    next: Result<Option<Spec>>,
    seen: BTreeSet<Identity>,
}

impl Chain {
    /// Begins with the image that is named.
    pub(super) fn new(local: &LocalRef, top: Spec, force_share: bool) -> Self {
        Self { local: local.clone(), force_share, next: Ok(Some(top)), seen: BTreeSet::new() }
    }

    /// Opens the next image; `None` below the last.
    ///
    /// # Errors
    /// An image that cannot be opened; a chain that comes back to one of its images.
    pub(super) async fn next(&mut self) -> Result<Option<Image>> {
        let Some(spec) = std::mem::replace(&mut self.next, Ok(None))? else { return Ok(None) };
        let image = Image::open(&self.local, &spec, self.force_share).await?;
        if !self.seen.insert(image.identity()) {
            let text = "the backing chain comes back to this image";
            return Err(Error::new(Kind::InvalidImage, text).at_path(spec.path()));
        }
        self.next = image.backing();
        Ok(Some(image))
    }

    /// The files that were opened so far.
    pub(super) fn into_files(self) -> BTreeSet<FileId> {
        let file = |identity| match identity {
            Identity::File(file) => Some(file),
            Identity::Nbd(_) => None,
        };
        self.seen.into_iter().filter_map(file).collect()
    }
}

/// Fails if one of the images below `image` cannot be opened.
pub(super) async fn open_backing(local: &LocalRef, image: &Image, force_share: bool) -> Result<()> {
    let because =
        |cause: Error| Error::new(Kind::InvalidInput, "cannot open the backing file").because(cause);
    let Some(backing) = image.backing().map_err(because)? else { return Ok(()) };
    let mut chain = Chain::new(local, backing, force_share);
    while chain.next().await.map_err(because)?.is_some() {}
    Ok(())
}
