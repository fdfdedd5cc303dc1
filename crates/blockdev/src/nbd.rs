//! The options of an NBD node.
//!
//! | option | also written |
//! |---|---|
//! | `server.type=inet`, `server.host`, `server.port` | `host`, `port` |
//! | `server.type=unix`, `server.path` | `path` |
//! | `export`, `x-dirty-bitmap` | |
//! | `reconnect-delay`, `open-timeout`: seconds | |

use drystone_base::{Error, Kind, Result};
use drystone_nbd::uri::{Address, Uri};
use drystone_nbd::wire::PORT;
use drystone_protocol::nbd::NbdOptions;

use crate::options::Options;

const NS_PER_S: u64 = 1_000_000_000;

/// Takes them.
///
/// # Errors
/// [`Kind::InvalidInput`] for values without a meaning; [`Kind::Unsupported`] for kinds of addresses that are not supported.
pub fn take(options: &mut Options) -> Result<NbdOptions> {
    let address = take_address(options)?;
    let export = options.take_text("export")?.unwrap_or_default();
    if export.len() > drystone_nbd::limit::STRING_BYTES_MAX || export.contains('\0') {
        return Err(refused("export", "it is too long for the protocol, or has a NUL byte inside"));
    }
    Ok(NbdOptions {
        uri: Uri { address, export },
        reconnect_delay_ns: take_seconds(options, "reconnect-delay")?,
        open_timeout_ns: take_seconds(options, "open-timeout")?,
        context: options.take_text("x-dirty-bitmap")?,
    })
}

fn refused(option: &str, text: &str) -> Error {
    Error::new(Kind::InvalidInput, text).in_option(option)
}

fn take_seconds(options: &mut Options, name: &str) -> Result<u64> {
    let seconds = options.take_number(name)?.unwrap_or(0);
    if seconds > u64::from(u32::MAX) {
        return Err(refused(name, "it is too long a time"));
    }
    Ok(seconds * NS_PER_S)
}

fn take_address(options: &mut Options) -> Result<Address> {
    let says_server = options.has("server");
    let (path, host) = (options.take_text("path")?, options.take_text("host")?);
    let port = options.take_text("port")?;
    match (says_server, path, host) {
        (true, None, None) if port.is_none() => {
            let mut server = options.take_nested("server")?;
            let address = take_server(&mut server)?;
            server.finish("nbd")?;
            Ok(address)
        }
        (false, Some(path), None) if port.is_none() => unix(path, "path"),
        (false, None, Some(host)) => tcp(host, port, "port"),
        (false, None, None) => Err(refused("server", "it is missing: where the NBD server is")),
        _ => Err(refused("server", "it is given in two ways: by 'server', 'path', or 'host' and 'port'")),
    }
}

fn take_server(server: &mut Options) -> Result<Address> {
    match server.take_text("type")?.as_deref() {
        Some("unix") => {
            let path = server.take_text("path")?;
            let is_abstract = server.take_switch("abstract")?.unwrap_or(false);
            server.take_switch("tight")?;
            if is_abstract {
                return Err(Error::new(Kind::Unsupported, "it is not supported").in_option("server.abstract"));
            }
            unix(path.ok_or_else(|| refused("server.path", "it is missing"))?, "server.path")
        }
        Some("inet") => {
            let host = server.take_text("host")?.ok_or_else(|| refused("server.host", "it is missing"))?;
            let port = server.take_text("port")?;
            // Addresses of both kinds are tried in their order, and a lost connection is noticed by what it loses.
            for option in ["numeric", "ipv4", "ipv6", "keep-alive"] {
                server.take_switch(option)?;
            }
            for option in ["to", "mptcp"] {
                if server.has(option) {
                    return Err(Error::new(Kind::Unsupported, "it is not supported")
                        .in_option(format!("server.{option}")));
                }
            }
            tcp(host, port, "server.port")
        }
        Some(other @ ("vsock" | "fd")) => {
            let text = format!("servers of type '{other}' are not supported");
            Err(Error::new(Kind::Unsupported, text).in_option("server.type"))
        }
        Some(_) => Err(refused("server.type", "'inet' or 'unix' is expected")),
        None => Err(refused("server.type", "it is missing")),
    }
}

fn unix(path: String, option: &str) -> Result<Address> {
    if path.is_empty() || path.contains('\0') {
        return Err(refused(option, "it is empty, or has a NUL byte inside"));
    }
    Ok(Address::Unix { socket: path.into() })
}

fn tcp(host: String, port: Option<String>, option: &str) -> Result<Address> {
    let port = match port {
        None => PORT,
        Some(port) => port.parse().map_err(|_| refused(option, "it is no number from 0 to 65535"))?,
    };
    Ok(Address::Tcp { host, port })
}
