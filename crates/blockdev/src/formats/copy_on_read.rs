//! The entry of `copy-on-read`, a filter: it is no format of files and is opened only by its name.

use drystone_base::{Error, Kind, Result};
use drystone_core::driver::NodeFacts;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::{ParentState, Role};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_filter::copy_on_read::{CopyOnRead, file_grant};

use super::{Backing, Configured, DataFile, Format, OpenedImage};
use crate::options::Options;
use crate::settings::Settings;

/// `copy-on-read`.
pub(super) struct CopyOnReadFilter;

struct ConfiguredFilter {
    /// The name of the lowest node that is copied from.
    bottom: Option<String>,
}

impl Format for CopyOnReadFilter {
    fn name(&self) -> &'static str {
        "copy-on-read"
    }

    fn probe(&self, _start: &[u8]) -> u8 {
        0
    }

    fn configure(&self, options: &mut Options, settings: Settings) -> Result<Box<dyn Configured>> {
        if settings.auto_read_only {
            let text = "a filter that writes what is read cannot do without writing";
            return Err(Error::new(Kind::InvalidInput, text).in_option("auto-read-only"));
        }
        Ok(Box::new(ConfiguredFilter { bottom: options.take_text("bottom")? }))
    }
}

impl Configured for ConfiguredFilter {
    fn file_role(&self) -> Role {
        Role::FILTER_CHILD
    }

    fn file_grant(&self, parent: ParentState) -> Grant {
        file_grant(parent)
    }

    fn open<'a>(&'a self, file: Io<'a>, read_only: bool) -> LocalFuture<'a, Result<OpenedImage>> {
        Box::pin(async move {
            let bottom = self.bottom.as_deref().map(|name| find_below(file, name)).transpose()?;
            let facts = NodeFacts { len: file.len(), request_alignment: 1, read_only };
            Ok(OpenedImage {
                driver: Box::new(CopyOnRead::new(bottom)),
                facts,
                backing: Backing::Impossible,
                data_file: DataFile::Same,
            })
        })
    }
}

/// The node called `name`, `top` or one of the images behind it.
fn find_below(top: Io<'_>, name: &str) -> Result<NodeId> {
    let mut chain = std::iter::successors(Some(top), |io| below(*io));
    let found = chain.find(|io| io.node().name() == name).map(|io| io.node().id());
    found.ok_or_else(|| {
        let text = format!("node '{name}' is not below the filter");
        Error::new(Kind::InvalidInput, text).in_option("bottom")
    })
}

fn below(io: Io<'_>) -> Option<Io<'_>> {
    io.child(ChildKey::Backing).or_else(|| io.child(ChildKey::File))
}
