//! Overlays that are gone at the end: a file in a folder of its own that nobody else may look into.
//!
//! Invariant: the folder's name is new, so nobody can have put a link in our way; file and folder are removed when the
//! overlay is, also if it could not be made.

use std::path::{Path, PathBuf};

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::Local;
use drystone_sys::path;

/// Where temporary disks go unless `TMPDIR` says otherwise: on disk, not in memory.
const FOLDER: &str = "/var/tmp";
/// Names to try.
const TRIES: u32 = 1000;

/// A folder with room for one overlay.
#[derive(Debug)]
pub(crate) struct Temporary {
    folder: PathBuf,
}

impl Temporary {
    /// Makes the folder.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) async fn make(local: &dyn Local) -> Result<Self> {
        let parent =
            std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).unwrap_or_else(|| FOLDER.into());
        for number in 0..TRIES {
            let folder = Path::new(&parent).join(format!("drystone-{}-{number}", std::process::id()));
            match path::make_private_folder(local, &folder).await {
                Ok(()) => return Ok(Self { folder }),
                Err(error) if error.kind() == Kind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(Kind::AlreadyExists, "there is no free name for a temporary overlay").at_path(parent))
    }

    /// The file in it.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("overlay.qcow2")
    }

    /// Removes file and folder.
    ///
    /// # Errors
    /// Those of the operating system; a file that is not there is none.
    pub(crate) async fn remove(self, local: &dyn Local) -> Result<()> {
        match path::remove_file(local, self.file()).await {
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            _ => {}
        }
        path::remove_folder(local, self.folder).await
    }
}
