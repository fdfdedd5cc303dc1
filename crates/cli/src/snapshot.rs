//! `drystone snapshot`: a new overlay on a disk that `drystone serve` has on offer.

use std::path::PathBuf;

use clap::Args;
use drystone_base::{Error, Kind, Result};
use serde_json::Value;

use crate::monitor::{SnapshotArguments, client};

/// Puts a new overlay on a running disk: the file that was written to until now stays as it is, and what clients write
/// from now on goes to the new file. Returns when that is so.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The control socket that `drystone serve` has printed
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
/// Those of the connection; what the server says.
pub(crate) fn run(args: SnapshotArgs) -> Result<()> {
    let invalid = |text: &str| Error::new(Kind::InvalidInput, text).at_path(&args.file);
    // The server has another working folder.
    let file = std::path::absolute(&args.file).map_err(|cause| invalid("it is no path").because(cause))?;
    let file = file.into_os_string().into_string().map_err(|_| invalid("it is no valid text"))?;
    let arguments = SnapshotArguments { file, format: Some(args.format), export: args.export };
    let arguments = serde_json::to_value(arguments)
        .map_err(|cause| Error::new(Kind::InvalidInput, "cannot write the command").because(cause))?;
    let done = client::call(&args.socket, "snapshot", &arguments)?;
    println!("{}", done.get("file").and_then(Value::as_str).unwrap_or_default());
    Ok(())
}
