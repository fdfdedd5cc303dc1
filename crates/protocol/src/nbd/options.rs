//! What can be said of an NBD server and its export.

use std::fmt;
use std::path::PathBuf;

use drystone_nbd::Uri;
use drystone_nbd::uri::Address;

/// How to reach an export, and what becomes of requests while it cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdOptions {
    /// `server`, and `export`: empty for the default export.
    pub uri: Uri,
    /// `reconnect-delay`, in nanoseconds: how long after a loss of the connection requests wait for another one; later ones
    /// fail at once until there is one again. 0: requests never wait.
    pub reconnect_delay_ns: u64,
    /// `open-timeout`, in nanoseconds: how long opening tries to connect again. 0: it tries once.
    pub open_timeout_ns: u64,
    /// `x-dirty-bitmap`: the metadata context whose status stands for the allocation of the disk: what it marks is not data.
    pub context: Option<String>,
}

impl NbdOptions {
    /// The export at `uri`, without patience.
    #[must_use]
    pub const fn new(uri: Uri) -> Self {
        Self { uri, reconnect_delay_ns: 0, open_timeout_ns: 0, context: None }
    }

    /// An export at a unix socket.
    #[must_use]
    pub fn unix(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        let address = Address::Unix { socket: socket.into() };
        Self::new(Uri { address, export: export.into() })
    }
}

/// As release 10.0 of the C tools names an export: nothing is escaped, and a port is always there.
impl fmt::Display for NbdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Uri { address, export } = &self.uri;
        let slash = if export.is_empty() { "" } else { "/" };
        match address {
            Address::Unix { socket } => write!(f, "nbd+unix://{slash}{export}?socket={}", socket.display()),
            Address::Tcp { host, port } => write!(f, "nbd://{host}:{port}{slash}{export}"),
        }
    }
}
