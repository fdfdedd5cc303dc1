//! `drystone graph`: the nodes of an image, or of a running `drystone serve`.
//!
//! | module | what |
//! |---|---|
//! | [`report`] | the graph as plain data |
//! | [`draw`] | as a tree, and for Graphviz |

pub(crate) mod draw;
pub(crate) mod report;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use drystone_base::{Error, Kind, Result};
use drystone_blockdev::open::Opener;
use drystone_blockdev::request::OpenRequest;
use drystone_blockdev::settings::Settings;
use drystone_core::control::{ControlThread, Plan, Task};
use drystone_core::runtime::LocalRef;
use drystone_sys::{EngineKind, Threads};
use serde_json::Value;

use self::report::Report;
use crate::console;
use crate::monitor::client;

/// Shows the nodes that an image is made of
///
/// A line for each: name, driver, length, path, and what it is for. Nothing is changed, and others may use the image
/// meanwhile. With a control socket, shows what a running `drystone serve` has, and who uses it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  drystone graph disk.qcow2
  drystone graph --dot --control /tmp/disk.sock | dot -Tsvg > disk.svg")]
pub(crate) struct GraphArgs {
    /// The image
    #[arg(value_name = "IMAGE", required_unless_present = "control")]
    image: Option<OsString>,

    /// Its format; without it, the first bytes decide
    #[arg(long, value_name = "raw|qcow2")]
    format: Option<String>,

    /// Ask the `drystone serve` at this socket, its own or that of its NBD clients
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["image", "format"])]
    control: Option<PathBuf>,

    /// Print it for Graphviz
    #[arg(long)]
    dot: bool,

    /// Print it as JSON
    #[arg(long, conflicts_with = "dot")]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Those of opening the image, of the connection or of printing.
pub(crate) fn run(args: &GraphArgs) -> Result<()> {
    let report = match (&args.control, &args.image) {
        (Some(socket), _) => ask(socket)?,
        (None, Some(image)) => {
            let mut request = OpenRequest::of_name(image);
            request.format.clone_from(&args.format);
            request.owned = true;
            request.settings = Settings { read_only: true, force_share: true, ..Settings::default() };
            Threads::start(1, EngineKind::Pool)?.run_here(|local| look(local, request))?
        }
        (None, None) => return Err(Error::new(Kind::InvalidInput, "an image or a socket is needed")),
    };
    let text = match (args.dot, args.json) {
        (true, _) => draw::dot(&report),
        (_, true) => serde_json::to_string_pretty(&report).unwrap_or_default() + "\n",
        _ => draw::tree(&report),
    };
    console::print(&text)
}

fn ask(socket: &std::path::Path) -> Result<Report> {
    let value = client::call(socket, "query-graph", &Value::Null)?;
    serde_json::from_value(value)
        .map_err(|cause| Error::new(Kind::Disconnected, "the answer makes no sense").because(cause))
}

/// Opens the image in a graph of its own, describes that, and closes it.
async fn look(local: LocalRef, request: OpenRequest) -> Result<Report> {
    let (thread, control) = ControlThread::new(local.clone(), 1);
    local.spawn(Box::pin(thread.run()));
    let looked = control.call(async move |task: &mut Task<'_>| {
        let opened = Opener::trusting().open(task, &request).await?;
        let top = opened.top;
        let mut plan = Plan::new();
        plan.insert(opened.opening);
        task.apply(plan).await?;
        let report = task.gs().with(Report::of);
        let mut plan = Plan::new();
        plan.remove(top);
        task.apply(plan).await?;
        Ok(report)
    });
    looked.await?
}
