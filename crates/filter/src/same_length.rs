//! Staging a filter: it is as long as its child, whichever that becomes.

use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_core::driver::{Publish, StageRequest, Staged};
use drystone_core::graph::node::{ChildKey, Node};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

/// What a filter makes of a reopening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reopening {
    /// It cannot be reopened.
    Refused,
    /// It has no option that can change.
    Nothing,
}

/// Prepares a filter for a change. A plan that inserts one was made some time ago: the disk may have grown since.
pub(crate) fn stage<'a>(
    request: &'a StageRequest<'a>,
    reopening: Reopening,
) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
    Box::pin(async move {
        if request.options.is_some() && reopening == Reopening::Refused {
            let driver = request.node.driver().format_name();
            let text = format!("driver '{driver}' does not support reopening");
            return Err(Error::new(Kind::Unsupported, text).on_node(request.node.name()));
        }
        Ok(Box::new(SameLength { file: request.new_child(ChildKey::File), len: None }) as _)
    })
}

/// A filter is as long as its child.
struct SameLength {
    /// The node that becomes the child, if it is another one.
    file: Option<Arc<Node>>,
    len: Option<u64>,
}

impl Staged for SameLength {
    fn settle<'a>(&'a mut self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.len = Some(match &self.file {
                Some(file) => file.len(),
                None => io.file()?.len(),
            });
            Ok(())
        })
    }

    fn commit(&mut self, publish: &Publish<'_>) {
        if let Some(len) = self.len {
            publish.len(len);
        }
    }

    fn undo<'a>(&'a mut self) -> LocalFuture<'a, ()> {
        Box::pin(async {})
    }
}
