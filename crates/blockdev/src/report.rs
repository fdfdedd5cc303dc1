//! What came of opening an image: [`Opened`].

use std::fmt;
use std::path::{Path, PathBuf};

use drystone_core::control::Opening;
use drystone_core::graph::node::NodeId;

use crate::formats::BackingName;
use crate::name;

/// An image with everything below and behind it, for a plan to insert.
pub struct Opened {
    /// The new nodes. Dropping it closes them.
    pub opening: Opening,
    /// The node of the image.
    pub top: NodeId,
    /// The image and what is behind it, from the top down, as far as it was opened now.
    pub layers: Vec<Layer>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// One image of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its node.
    pub node: NodeId,
    /// The node of its file, unless it is one itself.
    pub file: Option<NodeId>,
    /// The name of its driver.
    pub format_name: &'static str,
    /// Its format was guessed from its first bytes.
    pub is_probed: bool,
    /// The path of its file, as it was named. None if it is no file.
    pub path: Option<PathBuf>,
    /// What it says of its backing file, opened or not.
    pub backing: Option<BackingName>,
}

impl Layer {
    /// The path or name that the recorded name of the backing file stands for; none if there is none, or the name is
    /// relative and the image lies in no folder.
    #[must_use]
    pub fn backing_path(&self) -> Option<PathBuf> {
        let folder = self.path.as_deref().and_then(Path::parent);
        name::resolve(&self.backing.as_ref()?.name, folder).ok()
    }
}

/// Something that was done and that the user may not have meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The image can only be read, because its file can.
    ReadOnlyFile {
        /// The file.
        path: PathBuf,
    },
    /// The image can only be read, because nobody said that it is raw.
    ReadOnlyProbedRaw {
        /// The file.
        path: PathBuf,
    },
    /// The image can be written although nobody said that it is raw, but not so that it looks like something else.
    GuardedProbedRaw {
        /// The file.
        path: PathBuf,
    },
    /// The image can only be read, as its format says.
    ReadOnlyImage {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// `locking=on`, and the system has no locks that belong to open files: the image is locked in a way that is lost
    /// when this process closes another descriptor of the file.
    FragileLocks {
        /// The file.
        path: PathBuf,
    },
    /// An image names a backing file without its format, which was guessed.
    ProbedBacking {
        /// The backing file.
        path: PathBuf,
        /// The format that it was taken for.
        format_name: &'static str,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnlyFile { path } => {
                write!(f, "'{}': opened read-only, because the file cannot be written", path.display())
            }
            Self::ReadOnlyProbedRaw { path } => write!(
                f,
                "'{}': opened read-only, because its format was not given and it looks like raw; give format=raw to \
                 write it",
                path.display()
            ),
            Self::GuardedProbedRaw { path } => write!(
                f,
                "'{}': its format was not given and it looks like raw, which is no proof: nothing is written to its start \
                 that would make it look like another format; give format raw to write what you like",
                path.display()
            ),
            Self::ReadOnlyImage { path, reason } => {
                write!(f, "'{}': opened read-only: {reason}", path.display())
            }
            Self::FragileLocks { path } => write!(
                f,
                "'{}': locked by POSIX locks, which are lost when any descriptor of the file is closed",
                path.display()
            ),
            Self::ProbedBacking { path, format_name } => write!(
                f,
                "'{}': the image that names this backing file does not say its format, which was taken for \
                 {format_name}",
                path.display()
            ),
        }
    }
}
