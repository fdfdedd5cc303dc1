//! The NBD server and exports.

use super::socket::{SocketAddress, SocketAddressLegacy};

qapi_struct! {
    /// Arguments of `nbd-server-start`.
    pub struct NbdServerOptionsLegacy {
        /// 0 is no limit.
        handshake_max_seconds: Option<u32>,
        tls_creds: Option<String>,
        tls_authz: Option<String>,
        /// 0 is no limit.
        max_connections: Option<u32>,
        addr: SocketAddressLegacy,
    }
}

qapi_struct! {
    /// `--nbd-server`.
    pub struct NbdServerOptions {
        /// 0 is no limit.
        handshake_max_seconds: Option<u32>,
        tls_creds: Option<String>,
        tls_authz: Option<String>,
        /// 0 is no limit.
        max_connections: Option<u32>,
        addr: SocketAddress,
    }
}

impl From<NbdServerOptionsLegacy> for NbdServerOptions {
    fn from(options: NbdServerOptionsLegacy) -> Self {
        Self {
            handshake_max_seconds: options.handshake_max_seconds,
            tls_creds: options.tls_creds,
            tls_authz: options.tls_authz,
            max_connections: options.max_connections,
            addr: options.addr.into(),
        }
    }
}

qapi_struct! {
    /// Arguments of `nbd-server-add`.
    pub struct NbdServerAddOptions {
        /// The name of the device if not said.
        name: Option<String>,
        description: Option<String>,
        device: String,
        writable: Option<bool>,
        bitmap: Option<String>,
    }
}

qapi_enum! {
    /// What becomes of the clients of an export that goes away.
    pub enum BlockExportRemoveMode {
        /// While there are any, it does not go away.
        Safe,
        /// They are disconnected.
        Hard,
    }
}

qapi_struct! {
    /// Arguments of `nbd-server-remove`.
    pub struct NbdServerRemove { name: String, mode: Option<BlockExportRemoveMode> }
}

qapi_enum! {
    /// Kinds of exports.
    pub enum BlockExportType { Nbd }
}

qapi_union! {
    /// Arguments of `block-export-add`, and `--export`.
    pub struct BlockExportOptions {
        id: String,
        fixed_iothread: Option<bool>,
        iothread: Option<String>,
        node_name: String,
        writable: Option<bool>,
        writethrough: Option<bool>,
        allow_inactive: Option<bool>,
    }
    /// The kind, and its options.
    r#type: BlockExportType => pub enum BlockExportOptionsData {
        Nbd(BlockExportOptionsNbd),
    }
}

qapi_struct! {
    /// Options of an NBD export.
    pub struct BlockExportOptionsNbd {
        /// The name of the node if not said.
        name: Option<String>,
        description: Option<String>,
        bitmaps: Option<Vec<BlockDirtyBitmapOrStr>>,
        allocation_depth: Option<bool>,
    }
}

qapi_struct! {
    /// A dirty bitmap of any node.
    pub struct BlockDirtyBitmap { node: String, name: String }
}

qapi_alternate! {
    /// A dirty bitmap.
    pub enum BlockDirtyBitmapOrStr {
        /// Of the node at hand.
        Local(String),
        /// Of any node.
        External(BlockDirtyBitmap),
    }
}

qapi_struct! {
    /// Arguments of `block-export-del`.
    pub struct BlockExportDel { id: String, mode: Option<BlockExportRemoveMode> }
}

qapi_struct! {
    /// An export.
    pub struct BlockExportInfo {
        id: String,
        r#type: BlockExportType,
        node_name: String,
        shutting_down: bool,
    }
}
