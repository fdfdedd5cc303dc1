//! Images that are in no file: exports of NBD servers, looked at through the graph.
//!
//! Only what the server and the graph know is said: the names, the formats, the length. That is all there is to say of a
//! raw export; other formats are refused here, because what their headers say would be missing.

use std::ffi::OsStr;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::name::{self, Name};
use drystone_blockdev::query::filename;
use drystone_core::control::Task;
use drystone_core::graph::node::ChildKey;

use super::Console;
use super::line;
use crate::args::list;
use crate::tool::image::ImageArgs;
use crate::tool::{self, Load, Tool};

/// One node: the image, or what it stands on.
pub(super) struct Remote {
    /// By which name it can be opened.
    pub(super) name: String,
    /// The driver.
    pub(super) format: &'static str,
    /// Length of the disk in bytes.
    pub(super) len_bytes: u64,
    /// What it stands on.
    pub(super) child: Option<Box<Self>>,
}

/// Whether a name, or a list of options, leads to a server.
pub(super) fn is_remote(name: &OsStr, is_options: bool) -> bool {
    if is_options {
        let entries = list::split(name.to_str().unwrap_or_default());
        let is_nbd = |(key, value): &(String, Option<String>)| {
            key.rsplit('.').next() == Some("driver") && value.as_deref() == Some("nbd")
        };
        return entries.iter().any(is_nbd);
    }
    match name::parse(name) {
        Ok(Name::Nbd(_)) => true,
        Ok(Name::Options(_)) => name.to_string_lossy().contains("\"nbd\""),
        _ => false,
    }
}

/// Looks at an image.
///
/// # Errors
/// Those of opening it; [`Kind::Unsupported`] for a format that says more than its length.
pub(super) fn look(image: &ImageArgs, console: &Console) -> Result<Remote> {
    tool::run(line::start(console, Load::Small), async |tool: &Tool| {
        let disk = tool.open_reader(image).await?;
        let top = disk.node;
        let nodes = async move |task: &mut Task<'_>| {
            Ok(task.gs().with(|graph| {
                let child = graph.child(top, ChildKey::File);
                let nodes = [Some(top), child].into_iter().flatten();
                let look = |node| {
                    let info = graph.node(node)?;
                    Some((filename::of(graph, node).text(), info.format_name, info.len))
                };
                nodes.filter_map(look).collect::<Vec<_>>()
            }))
        };
        let nodes = tool.on_control(nodes).await?;
        tool.close(disk).await?;
        let remote = nodes.into_iter().rev().fold(None, |child, (name, format, len_bytes)| {
            Some(Remote { name, format, len_bytes, child: child.map(Box::new) })
        });
        remote.filter(|remote| matches!(remote.format, "raw" | "nbd")).ok_or_else(|| {
            let text = "only raw images of a server can be looked at";
            Error::new(Kind::Unsupported, text).at_path(&image.name)
        })
    })
}
