//! `drystone snapshot`: a new overlay on a disk that `drystone serve` has on offer.

use std::path::PathBuf;

use clap::Args;
use drystone_base::{Error, Kind, Result};
use serde_json::Value;

use crate::console;
use crate::monitor::{SnapshotArguments, client};

/// Puts a new overlay on a disk that is being served
///
/// The file that was written to until now stays as it is from a moment between two requests on, and what clients write
/// afterwards goes to the new file. Returns when that is so, and prints the name of the new file.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  drystone snapshot /tmp/disk.sock monday.qcow2
      disk.qcow2 can be copied now; monday.qcow2 lies on it")]
pub(crate) struct SnapshotArgs {
    /// The socket of `drystone serve`, its control socket or that of its NBD clients
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,

    /// The new file; there must be none of that name
    #[arg(value_name = "NEW-FILE")]
    file: PathBuf,

    /// Its format
    #[arg(long, default_value = "qcow2")]
    format: String,

    /// The disk's export, if several are served
    #[arg(long, value_name = "NAME")]
    export: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Those of the connection and of printing; what the server says.
pub(crate) fn run(args: SnapshotArgs) -> Result<()> {
    let invalid = |text: &str| Error::new(Kind::InvalidInput, text).at_path(&args.file);
    // The server has another working folder.
    let file = std::path::absolute(&args.file).map_err(|cause| invalid("it is no path").because(cause))?;
    let file = file.into_os_string().into_string().map_err(|_| invalid("it is no valid text"))?;
    let arguments = SnapshotArguments { file, format: Some(args.format), export: args.export };
    let arguments = serde_json::to_value(arguments)
        .map_err(|cause| Error::new(Kind::InvalidInput, "cannot write the command").because(cause))?;
    let done = client::call(&args.socket, "snapshot", &arguments)?;
    console::print(&format!("{}\n", done.get("file").and_then(Value::as_str).unwrap_or_default()))
}
