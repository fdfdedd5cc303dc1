//! A folder with images in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use drystone_blockdev::create::{CreateRequest, create_image};
use drystone_blockdev::formats::{BackingName, Formats};
use drystone_blockdev::options::Options;
use drystone_protocol::file::Locking;
use drystone_protocol::file::create::Existing;
use drystone_sys::{EngineKind, Threads};

/// A folder that is gone after the test.
pub(crate) struct Folder(PathBuf);

/// An image to be made.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) format: String,
    pub(crate) file: String,
    pub(crate) len_bytes: u64,
    /// File and format.
    pub(crate) backing: Option<(String, String)>,
}

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("drystone-daemon-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn make(&self, image: &Image) {
        let backing = image.backing.as_ref().map(|(file, format)| BackingName {
            name: self.0.join(file).into_os_string(),
            format: Some(format.clone()),
        });
        let request = CreateRequest {
            name: OsString::from(self.file(&image.file)),
            format: image.format.clone(),
            len_bytes: image.len_bytes,
            backing,
            options: Options::default(),
            existing: Existing::Replace,
            locking: Locking::Auto,
        };
        let mut threads = Threads::start(1, EngineKind::Pool).unwrap();
        threads
            .run_here(|local| async move { create_image(&local, &Formats::builtin(), request).await })
            .unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
