//! What is done by name.

use std::path::Path;

use drystone_base::Kind;
use drystone_sys::path::{canonical, remove_file, sync_folder_of};

use crate::common::{Folder, here_on_each_engine};

#[test]
fn a_name_is_followed_to_what_it_stands_for() {
    let folder = Folder::new();
    let file = std::fs::canonicalize(folder.file("file", b"")).unwrap();
    std::os::unix::fs::symlink("file", folder.path("link")).unwrap();
    here_on_each_engine(|local| {
        let (folder, file) = (folder.path(""), file.clone());
        async move {
            assert_eq!(canonical(&*local, folder.join("link")).await.unwrap(), file);
            assert_eq!(
                canonical(&*local, folder.join("./../").join(&folder).join("link")).await.unwrap(),
                file
            );
            let error = canonical(&*local, folder.join("none")).await.unwrap_err();
            assert_eq!((error.kind(), error.path()), (Kind::NotFound, Some(&*folder.join("none"))));
        }
    });
}

#[test]
fn a_file_is_removed_and_its_folder_safe() {
    let folder = Folder::new();
    here_on_each_engine(|local| {
        let path = folder.file("file", b"");
        async move {
            sync_folder_of(&*local, &path).await.unwrap();
            sync_folder_of(&*local, Path::new("relative")).await.unwrap();
            remove_file(&*local, &path).await.unwrap();
            assert!(!path.exists());
            assert_eq!(remove_file(&*local, &path).await.unwrap_err().kind(), Kind::NotFound);
        }
    });
}
