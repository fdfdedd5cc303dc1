//! Monitors and their channels, on the command line only.

use super::socket::{
    FdSocketAddress, InetSocketAddress, SocketAddress, SocketAddressData, UnixSocketAddress,
};
use crate::QmpError;

qapi_enum! {
    /// What a monitor speaks. Only `control` is QMP.
    pub enum MonitorMode { Readline, Control }
}

qapi_struct! {
    /// `--monitor`.
    pub struct MonitorOptions {
        id: Option<String>,
        mode: Option<MonitorMode>,
        pretty: Option<bool>,
        /// The `id` of a `--chardev`.
        chardev: String,
    }
}

qapi_enum! {
    /// Kinds of channels.
    pub enum ChardevBackendKind { Socket, Stdio }
}

qapi_union! {
    /// `--chardev`, read by [`crate::keyval::parse_flags`].
    pub struct ChardevOptions { id: String }
    /// The kind, and its options.
    backend: ChardevBackendKind => pub enum ChardevBackend {
        Socket(Box<ChardevSocket>),
        Stdio(ChardevStdio),
    }
}

qapi_struct! {
    /// Standard input and output.
    pub struct ChardevStdio {
        /// Whether Ctrl-C at the terminal ends the program.
        signal: Option<bool>,
    }
}

qapi_struct! {
    /// A socket. One of `path`, `host` and `fd` is said.
    pub struct ChardevSocket {
        path: Option<String>,
        r#abstract: Option<bool>,
        tight: Option<bool>,
        host: Option<String>,
        port: Option<String>,
        to: Option<u16>,
        ipv4: Option<bool>,
        ipv6: Option<bool>,
        fd: Option<String>,
        nodelay: Option<bool>,
        /// Listen instead of connecting.
        server: Option<bool>,
        /// Do not start before a client has connected.
        wait: Option<bool>,
    }
}

impl ChardevSocket {
    /// Where to listen or connect.
    ///
    /// # Errors
    /// Not exactly one kind of address is said, or no port.
    pub fn address(&self) -> Result<SocketAddress, QmpError> {
        let r#type = match (&self.path, &self.host, &self.fd) {
            (Some(path), None, None) => SocketAddressData::Unix(UnixSocketAddress {
                path: path.clone(),
                r#abstract: self.r#abstract,
                tight: self.tight,
            }),
            (None, Some(host), None) => SocketAddressData::Inet(self.inet(host)?),
            (None, None, Some(fd)) => SocketAddressData::Fd(FdSocketAddress { str: fd.clone() }),
            _ => return Err(QmpError::generic("chardev: socket: one of 'path', 'fd' or 'host' is required")),
        };
        Ok(SocketAddress { r#type })
    }

    fn inet(&self, host: &str) -> Result<InetSocketAddress, QmpError> {
        let port = self.port.clone().ok_or_else(|| QmpError::generic("chardev: socket: no port given"))?;
        Ok(InetSocketAddress {
            host: host.to_owned(),
            port,
            numeric: None,
            to: self.to,
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            keep_alive: None,
            mptcp: None,
        })
    }
}
