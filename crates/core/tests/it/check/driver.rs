//! The drivers of the random graphs: they do no I/O, and compute permissions as `model::Rule` says.

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_core::driver::{Access, Driver, Extent, NodeMode, Place};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role, default_grant};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

use super::model::Rule;

pub(super) struct Ruled(pub(super) Rule);

impl Driver for Ruled {
    fn format_name(&self) -> &'static str {
        "ruled"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Zero { explicit: true } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn grant(&self, _child: ChildKey, role: Role, parent: ParentState) -> Grant {
        match self.0 {
            Rule::Nothing => Grant::PASSIVE,
            Rule::Writes if parent.active => Grant {
                perm: Perm::CONSISTENT_READ.with(Perm::WRITE),
                shared: Perm::CONSISTENT_READ.with(Perm::WRITE_UNCHANGED),
            },
            Rule::Default | Rule::Writes | Rule::RefusesResize => default_grant(role, parent),
        }
    }

    fn check(&self, mode: NodeMode) -> Result<()> {
        if self.0 == Rule::RefusesResize && mode.users.perm.has(Perm::RESIZE) {
            return Err(Error::new(Kind::Unsupported, "the driver cannot resize"));
        }
        Ok(())
    }
}
