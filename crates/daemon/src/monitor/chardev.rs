//! Character devices: where the clients of a monitor come from.
//!
//! ```text
//!   socket,server=on    path= or host=,port=     clients come, one after the other
//!   socket,server=off   the same                 we come, and again if reconnect= or reconnect-ms= says so
//!   stdio                                        one client, once
//!   null                                         nobody
//! ```
//! Source: qemu(1), `-chardev`. Options that only matter to serial lines are taken and do nothing.

use std::collections::BTreeMap;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_qmp::{Value, keyval};
use drystone_sys::{Address, Closer, Listener, Network, Stream};

use crate::daemon::Daemon;
use crate::objects::is_identifier;

const NS_PER_MS: u64 = 1_000_000;

/// A character device that was described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chardev {
    /// Its name.
    pub(crate) id: String,
    /// What it is.
    pub(crate) backend: Backend,
}

/// Kinds of character devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Standard input and output.
    Stdio,
    /// Nobody.
    Null,
    /// A socket.
    Socket(Socket),
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    at: At,
    is_server: bool,
    /// The start waits for the first client.
    pub(crate) waits: bool,
    /// How long to wait before connecting anew; 0: never.
    reconnect_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Path(String),
    Host(String, String),
}

/// The options of every backend that nobody needs here.
const IGNORED: [&str; 8] =
    ["mux", "logfile", "logappend", "signal", "telnet", "tn3270", "websocket", "delay"];

impl Chardev {
    /// Reads what is behind `--chardev`.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`]; [`Kind::Unsupported`] for kinds and options that this build does not have.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let invalid = |text: String| Error::new(Kind::InvalidInput, text);
        let value = keyval::parse_value(text, Some("backend")).map_err(|error| invalid(error.desc))?;
        let mut options = Taken(BTreeMap::new());
        for (key, value) in value.as_object().into_iter().flatten() {
            let Value::String(value) = value else {
                return Err(invalid(format!("'{key}' is one value")));
            };
            options.0.insert(key.clone(), value.clone());
        }
        let id = options.text("id").ok_or_else(|| invalid("the id is missing".into()))?;
        if !is_identifier(&id) {
            return Err(invalid(format!("'{id}' is no identifier")).in_option("id"));
        }
        let backend = options.text("backend").ok_or_else(|| invalid("the backend is missing".into()))?;
        let backend = match backend.as_str() {
            "stdio" => Backend::Stdio,
            "null" => Backend::Null,
            "socket" => Backend::Socket(options.socket()?),
            "file" | "pipe" | "pty" | "udp" | "serial" | "parallel" | "ringbuf" | "memory" | "mux"
            | "hub" => {
                let text = format!("'{backend}' is not supported");
                return Err(Error::new(Kind::Unsupported, text).in_option("backend"));
            }
            _ => return Err(invalid(format!("there is no backend '{backend}'"))),
        };
        options.finish()?;
        Ok(Self { id, backend })
    }
}

struct Taken(BTreeMap<String, String>);

impl Taken {
    fn text(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>> {
        match self.text(key).as_deref() {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(_) => Err(Error::new(Kind::InvalidInput, "it is 'on' or 'off'").in_option(key)),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<u64>> {
        let invalid = |_| Error::new(Kind::InvalidInput, "a number is expected").in_option(key);
        self.text(key).map(|text| text.parse().map_err(invalid)).transpose()
    }

    fn socket(&mut self) -> Result<Socket> {
        let invalid = |text: &str| Error::new(Kind::InvalidInput, text);
        for key in ["fd", "tls-creds", "tls-authz", "abstract"] {
            if self.0.contains_key(key) {
                return Err(Error::new(Kind::Unsupported, "it is not supported").in_option(key));
            }
        }
        let at = match (self.text("path"), self.text("host"), self.text("port")) {
            (Some(_), Some(_), _) => return Err(invalid("a socket has a path or a host")),
            (Some(path), None, _) => At::Path(path),
            (None, host, Some(port)) => At::Host(host.unwrap_or_default(), port),
            (None, Some(_), None) => return Err(invalid("the port is missing")),
            (None, None, None) => return Err(invalid("a socket has a path, or a host and a port")),
        };
        let is_server = self.switch("server")?.unwrap_or(false);
        let waits = self.switch("wait")?;
        if waits.is_some() && !is_server {
            return Err(invalid("who connects does not wait").in_option("wait"));
        }
        let seconds = self.number("reconnect")?.map(|seconds| seconds.saturating_mul(1000));
        let reconnect_ms = self.number("reconnect-ms")?.or(seconds).unwrap_or(0);
        for key in ["nodelay", "ipv4", "ipv6", "to", "tight"] {
            drop(self.text(key));
        }
        Ok(Socket { at, is_server, waits: is_server && waits.unwrap_or(true), reconnect_ms })
    }

    fn finish(mut self) -> Result<()> {
        self.0.retain(|key, _| !IGNORED.contains(&key.as_str()));
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::new(Kind::InvalidInput, format!("there is no parameter '{key}'"))),
        }
    }
}

impl Socket {
    async fn addresses(&self, network: &Network, lane: &mut Lane) -> Result<Vec<Address>> {
        match &self.at {
            At::Path(path) => Ok(vec![Address::Unix(path.into())]),
            At::Host(host, port) => {
                let invalid = |_| Error::new(Kind::InvalidInput, format!("'{port}' is no port"));
                let any = if self.is_server { "0.0.0.0" } else { "127.0.0.1" };
                let host = if host.is_empty() { any } else { host };
                network.resolve(lane, host, port.parse().map_err(invalid)?).await
            }
        }
    }

    /// Listens, or connects for the first time.
    ///
    /// # Errors
    /// Those of listening and connecting.
    pub(crate) async fn open(self, network: &Network, lane: &mut Lane) -> Result<Source> {
        let addresses = self.addresses(network, lane).await?;
        let none = || Error::new(Kind::NotFound, "the host has no address");
        if self.is_server {
            let address = addresses.first().ok_or_else(none)?;
            return Ok(Source::Server { listener: network.listen(address)?, first: None });
        }
        let first = match self.connect(network, lane, &addresses).await {
            Ok(stream) => Some(stream),
            Err(_) if self.reconnect_ms > 0 => None,
            Err(error) => return Err(error),
        };
        Ok(Source::Connector { socket: self, addresses, first })
    }

    async fn connect(&self, network: &Network, lane: &mut Lane, addresses: &[Address]) -> Result<Stream> {
        let mut result = Err(Error::new(Kind::NotFound, "the host has no address"));
        for address in addresses {
            result = network.connect(lane, address, None).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// An open character device: gives its clients, one after the other.
pub(crate) enum Source {
    /// They come to a socket.
    Server {
        /// The socket.
        listener: Listener,
        /// The client for which the start waited.
        first: Option<Stream>,
    },
    /// The client is whoever listens at a socket.
    Connector {
        /// Which.
        socket: Socket,
        /// Where that is.
        addresses: Vec<Address>,
        /// The connection that the start made.
        first: Option<Stream>,
    },
    /// There is one.
    Once(Option<Stream>),
}

impl Source {
    /// What keeps further clients out.
    pub(super) fn closer(&self) -> Option<Closer> {
        match self {
            Self::Server { listener, .. } => Some(listener.closer()),
            Self::Connector { .. } | Self::Once(_) => None,
        }
    }

    /// Waits for the first client of a server.
    ///
    /// # Errors
    /// Those of accepting.
    pub(crate) async fn wait(&mut self, daemon: &Daemon, lane: &mut Lane) -> Result<()> {
        if let Self::Server { listener, first } = self
            && let Some(accepted) = daemon.stop.unless_asked(listener.accept(lane)).await
        {
            *first = Some(accepted?);
        }
        Ok(())
    }

    /// The next client; `None` if there will be none.
    pub(super) async fn next(&mut self, daemon: &Daemon, lane: &mut Lane) -> Option<Stream> {
        match self {
            Self::Once(stream) => stream.take(),
            Self::Server { listener, first } => match first.take() {
                Some(stream) => Some(stream),
                None => daemon.stop.unless_asked(listener.accept(lane)).await?.ok(),
            },
            Self::Connector { socket, addresses, first } => {
                if let Some(stream) = first.take() {
                    return Some(stream);
                }
                if socket.reconnect_ms == 0 {
                    return None;
                }
                loop {
                    let pause_ns = socket.reconnect_ms.saturating_mul(NS_PER_MS);
                    let again_ns = daemon.local.now_ns().saturating_add(pause_ns);
                    daemon.stop.unless_asked(daemon.local.sleep_until(again_ns)).await?;
                    let connecting = socket.connect(&daemon.network, lane, addresses);
                    let connected = daemon.stop.unless_asked(connecting).await?;
                    if let Ok(stream) = connected {
                        return Some(stream);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_what_is_said_of_it() {
        let socket = |text: &str| match Chardev::parse(text).unwrap() {
            Chardev { id, backend: Backend::Socket(socket) } if id == "m" => socket,
            other => panic!("{other:?}"),
        };
        let server = socket("socket,id=m,path=/a,,b,server=on,wait=off");
        assert_eq!((server.at, server.is_server, server.waits), (At::Path("/a,b".into()), true, false));
        assert!(socket("socket,id=m,path=/a,server=on").waits);
        let client = socket("socket,id=m,host=h,port=1,reconnect=2");
        assert_eq!((client.is_server, client.waits, client.reconnect_ms), (false, false, 2000));
        assert_eq!(Chardev::parse("stdio,id=m,signal=off,mux=on").unwrap().backend, Backend::Stdio);
        assert_eq!(Chardev::parse("backend=null,id=m").unwrap().backend, Backend::Null);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "stdio",
            "id=m",
            "nope,id=m",
            "stdio,id=1m",
            "stdio,id=m,frob=1",
            "socket,id=m",
            "socket,id=m,host=h",
            "socket,id=m,path=a,host=h,port=1",
            "socket,id=m,path=a,wait=on",
            "socket,id=m,path=a,server=maybe",
            "socket,id=m,path=a,reconnect=x",
            "pty,id=m",
        ] {
            assert!(Chardev::parse(text).is_err(), "{text}");
        }
    }
}
