//! What can be asked of a path, or done to it, without opening what it names. Each call runs on a thread that may block.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use drystone_base::{Error, Result};
use drystone_core::runtime::Local;

use crate::local::SysLocal;
use crate::pool::BlockingQueue;

/// The absolute path of what `path` names, without symbolic links, `.` and `..`.
///
/// # Errors
/// Those of the operating system, among them [`drystone_base::Kind::NotFound`] if it does not exist.
pub async fn canonical(local: &dyn Local, path: impl Into<PathBuf>) -> Result<PathBuf> {
    call(local, path.into(), "find", |path| fs::canonicalize(path)).await
}

/// Whether there is something of that name, whatever it is. A symbolic link that leads nowhere is something.
///
/// # Errors
/// Those of the operating system.
pub async fn exists(local: &dyn Local, path: impl Into<PathBuf>) -> Result<bool> {
    let look = |path: &Path| match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    };
    call(local, path.into(), "look at", look).await
}

/// Makes a folder that nobody else may look into. There must be nothing of that name, not even a link.
///
/// # Errors
/// Those of the operating system.
pub async fn make_private_folder(local: &dyn Local, path: impl Into<PathBuf>) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    call(local, path.into(), "make", |path| fs::DirBuilder::new().mode(0o700).create(path)).await
}

/// Removes an empty folder.
///
/// # Errors
/// Those of the operating system.
pub async fn remove_folder(local: &dyn Local, path: impl Into<PathBuf>) -> Result<()> {
    call(local, path.into(), "remove", |path| fs::remove_dir(path)).await
}

/// Removes a file.
///
/// # Errors
/// Those of the operating system.
pub async fn remove_file(local: &dyn Local, path: impl Into<PathBuf>) -> Result<()> {
    call(local, path.into(), "remove", |path| fs::remove_file(path)).await
}

/// Makes the names in the folder of `path` safe: a file that has been made is found again after a power cut.
///
/// # Errors
/// Those of the operating system.
pub async fn sync_folder_of(local: &dyn Local, path: impl Into<PathBuf>) -> Result<()> {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    call(local, path.into(), "sync the folder of", move |path| fs::File::open(folder(path))?.sync_all()).await
}

async fn call<T: Send + 'static>(
    local: &dyn Local,
    path: PathBuf,
    what: &'static str,
    call: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let queue = BlockingQueue::new(NonZeroUsize::MIN);
    let done = move || {
        call(&path).map_err(|cause| {
            Error::os(cause.raw_os_error().unwrap_or(libc::EINVAL), format_args!("{what} it")).at_path(&path)
        })
    };
    SysLocal::of(local)?.blocking(&queue, done).await?
}
