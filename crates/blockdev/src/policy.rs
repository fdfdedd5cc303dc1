//! [`BackingPolicy`]: which files an image may make us open.
//!
//! An image names its backing file, and whoever made the image chose the name. Served to its maker, an image that names
//! `/etc/shadow` or another tenant's disk would show it. The policy is asked before anything that an image names is opened;
//! what a user names himself is not its business.

use std::path::{Path, PathBuf};

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::Local;
use drystone_sys::path::canonical;

/// Which files images may name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BackingPolicy {
    /// Any: images are trusted.
    #[default]
    Allow,
    /// None.
    Deny,
    /// Those in this folder or below it, symbolic links followed. Nothing but files.
    OnlyBelow(PathBuf),
}

impl BackingPolicy {
    /// The path to open for `path`, which an image has named.
    ///
    /// # Errors
    /// [`Kind::PermissionDenied`] if it may not be opened; those of the operating system if that cannot be found out.
    pub(crate) async fn admit(&self, local: &dyn Local, path: &Path) -> Result<PathBuf> {
        match self {
            Self::Allow => Ok(path.to_owned()),
            Self::Deny => Err(denied("images may not name other files").at_path(path)),
            Self::OnlyBelow(folder) => {
                let folder = canonical(local, folder).await?;
                // The name without links is opened, so that what was checked is what is opened.
                let real = canonical(local, path).await?;
                if real.starts_with(&folder) {
                    return Ok(real);
                }
                let text = format!("an image names it, and it is not below '{}'", folder.display());
                Err(denied(&text).at_path(path))
            }
        }
    }

    /// Whether an image may name something that is no file.
    pub(crate) fn admit_driver(&self, driver: &str) -> Result<()> {
        match self {
            Self::Allow => Ok(()),
            Self::Deny | Self::OnlyBelow(_) => {
                Err(denied(&format!("images may not name something of driver '{driver}'")))
            }
        }
    }
}

fn denied(text: &str) -> Error {
    Error::new(Kind::PermissionDenied, text)
}
