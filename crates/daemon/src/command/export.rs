//! The NBD server and exports.

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_export::nbd::{ExportBitmap, ExportOptions, Removal, ServerOptions};
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::export::{
    BlockDirtyBitmap, BlockDirtyBitmapOrStr, BlockExportDel, BlockExportInfo, BlockExportOptions,
    BlockExportOptionsData, BlockExportRemoveMode, BlockExportType, NbdServerAddOptions, NbdServerOptions,
    NbdServerRemove,
};
use drystone_qmp::schema::types::socket::{SocketAddress, SocketAddressData};
use drystone_sys::Address;

use super::{Outcome, done};
use crate::daemon::Daemon;
use crate::error::to_qmp;
use crate::exports::NewExport;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// `nbd-server-start`.
pub(super) async fn server_start(daemon: &Daemon, typed: NbdServerOptions) -> Outcome<Empty> {
    done(start(daemon, typed).await)
}

/// The same for the command line.
///
/// # Errors
/// Those of listening; [`Kind::Unsupported`] for TLS and addresses that this build does not have.
pub(crate) async fn start(daemon: &Daemon, typed: NbdServerOptions) -> Result<()> {
    // An authorization without credentials asks nobody anything, here as there.
    if typed.tls_creds.is_some() {
        return Err(Error::new(Kind::Unsupported, "TLS is not supported").in_option("tls-creds"));
    }
    let mut options = ServerOptions::default();
    if let Some(max) = typed.max_connections {
        options.connections_max = max;
    }
    match typed.handshake_max_seconds {
        None => {}
        Some(0) => options.handshake_ns = u64::MAX,
        Some(seconds) => options.handshake_ns = u64::from(seconds) * NS_PER_SECOND,
    }
    let addresses = addresses(daemon, typed.addr).await?;
    daemon.exports.start(&daemon.network, addresses, options).await
}

async fn addresses(daemon: &Daemon, typed: SocketAddress) -> Result<Vec<Address>> {
    match typed.r#type {
        SocketAddressData::Unix(unix) if unix.r#abstract == Some(true) => {
            Err(Error::new(Kind::Unsupported, "it is not supported").in_option("abstract"))
        }
        SocketAddressData::Unix(unix) => Ok(vec![Address::Unix(unix.path.into())]),
        SocketAddressData::Inet(inet) => {
            let invalid = |cause| {
                let text = format!("'{}' is no port", inet.port);
                Error::new(Kind::InvalidInput, text).because(cause).in_option("port")
            };
            let port = inet.port.parse::<u16>().map_err(invalid)?;
            let host = if inet.host.is_empty() { "0.0.0.0" } else { &inet.host };
            daemon.network.resolve(&mut Lane::new(daemon.local.clone()), host, port).await
        }
        SocketAddressData::Vsock(_) | SocketAddressData::Fd(_) => {
            Err(Error::new(Kind::Unsupported, "addresses of this type are not supported").in_option("type"))
        }
    }
}

/// `block-export-add`.
pub(super) async fn add(daemon: &Daemon, typed: BlockExportOptions) -> Outcome<Empty> {
    done(add_export(daemon, typed).await)
}

/// The same for the command line.
///
/// # Errors
/// Those of adding exports; [`Kind::Unsupported`] for what this build does not have.
pub(crate) async fn add_export(daemon: &Daemon, typed: BlockExportOptions) -> Result<()> {
    let BlockExportOptionsData::Nbd(nbd) = typed.r#type;
    let bitmap = |bitmap| match bitmap {
        BlockDirtyBitmapOrStr::Local(name) => ExportBitmap { node: None, name },
        BlockDirtyBitmapOrStr::External(BlockDirtyBitmap { node, name }) => {
            ExportBitmap { node: Some(node), name }
        }
    };
    let options = ExportOptions {
        name: nbd.name.unwrap_or_else(|| typed.node_name.clone()),
        node: typed.node_name,
        description: nbd.description.unwrap_or_default(),
        writable: typed.writable.unwrap_or(false),
        writethrough: typed.writethrough.unwrap_or(false),
        allocation_depth: nbd.allocation_depth.unwrap_or(false),
        bitmaps: nbd.bitmaps.unwrap_or_default().into_iter().map(bitmap).collect(),
        ..ExportOptions::default()
    };
    if typed.fixed_iothread == Some(true) && typed.iothread.is_none() {
        let text = "there is no thread that could be fixed";
        return Err(Error::new(Kind::InvalidInput, text).in_option("fixed-iothread"));
    }
    daemon.exports.add(daemon, NewExport { id: typed.id, options, iothread: typed.iothread }).await
}

/// `nbd-server-add`: the older way, which offers what can only be read read-only.
pub(super) async fn server_add(daemon: &Daemon, typed: NbdServerAddOptions) -> Outcome<Empty> {
    done(add_by_device(daemon, typed).await)
}

async fn add_by_device(daemon: &Daemon, typed: NbdServerAddOptions) -> Result<()> {
    let node = typed.device.clone();
    let is_read_only = daemon
        .on_control(async move |task| {
            let id = task.gs().find(&node)?;
            Ok(task.gs().with(|graph| graph.node(id)).is_none_or(|node| node.read_only))
        })
        .await?;
    let name = typed.name.unwrap_or_else(|| typed.device.clone());
    let options = ExportOptions {
        node: typed.device,
        name: name.clone(),
        description: typed.description.unwrap_or_default(),
        writable: typed.writable.unwrap_or(false) && !is_read_only,
        bitmaps: typed.bitmap.into_iter().map(|name| ExportBitmap { node: None, name }).collect(),
        ..ExportOptions::default()
    };
    daemon.exports.add(daemon, NewExport { id: name, options, iothread: None }).await
}

fn removal(mode: Option<BlockExportRemoveMode>) -> Removal {
    match mode {
        None | Some(BlockExportRemoveMode::Safe) => Removal::Safe,
        Some(BlockExportRemoveMode::Hard) => Removal::Hard,
    }
}

/// `nbd-server-remove`.
pub(super) async fn server_remove(daemon: &Daemon, which: NbdServerRemove) -> Outcome<Empty> {
    done(daemon.exports.remove_named(daemon, &which.name, removal(which.mode)).await)
}

/// `block-export-del`. When it answers, the export's node has one user less.
pub(super) async fn del(daemon: &Daemon, which: BlockExportDel) -> Outcome<Empty> {
    done(daemon.exports.remove(daemon, &which.id, removal(which.mode)).await)
}

/// `query-block-exports`.
pub(super) async fn report(daemon: &Daemon) -> Outcome<Vec<BlockExportInfo>> {
    let exports = daemon.exports.report(daemon).await.map_err(|error| to_qmp(&error))?;
    let info = |export: crate::exports::ExportReport| BlockExportInfo {
        id: export.id,
        r#type: BlockExportType::Nbd,
        node_name: export.node,
        shutting_down: export.is_ending,
    };
    Ok(exports.into_iter().map(info).collect())
}
