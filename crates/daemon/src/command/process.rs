//! The process itself: who it is, what it can do, its end.

use drystone_qmp::schema::commands;
use drystone_qmp::schema::introspect::{self, SchemaInfo};
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::control::{CommandInfo, VersionInfo};

use super::Outcome;
use crate::daemon::Daemon;

/// Release 10.0 as to the interface, and this program as to the rest.
pub(crate) fn version() -> VersionInfo {
    VersionInfo::of_package(concat!("drystone ", env!("CARGO_PKG_VERSION")))
}

/// `query-commands`.
pub(super) fn names() -> Vec<CommandInfo> {
    commands::names()
}

/// `query-qmp-schema`.
pub(super) fn schema() -> Vec<SchemaInfo> {
    introspect::schema()
}

/// `quit`: what runs ends, and everything is taken down after the answer.
#[expect(clippy::unnecessary_wraps, reason = "commands have outcomes")]
pub(super) fn quit(daemon: &Daemon) -> Outcome<Empty> {
    daemon.stop.ask();
    Ok(Empty {})
}
