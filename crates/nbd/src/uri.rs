//! NBD URIs.
//!
//! ```text
//! nbd://host[:port][/export]            TCP; the port is 10809 unless given; IPv6 in brackets
//! nbd+unix:///[export]?socket=path      Unix domain socket; a path that begins with NUL is abstract
//! ```
//! URI "NBD URI components". The export is everything behind the first slash, percent-encoded. `nbd+tcp` means `nbd`, as in
//! the C tools. As there: no user, no host with a socket, no other parameters, no URI without a place to connect to. `nbds` and
//! `nbds+unix` demand TLS, which is not there (URI "Clients which do not support TLS").

use crate::limit;
use crate::wire::PORT;
use drystone_base::{Error, Kind};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where an export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// How to connect.
    pub address: Address,
    /// The export's name; empty for the default export.
    pub export: String,
}

/// How to connect to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// By TCP.
    Tcp {
        /// A name, an IPv4 address, or an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// By a Unix domain socket.
    Unix {
        /// Its path.
        socket: PathBuf,
    },
}

/// A part of a URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Before `://`.
    Scheme,
    /// The host.
    Host,
    /// The port.
    Port,
    /// The export's name.
    Export,
    /// The parameters.
    Query,
    /// The parameter `socket`.
    Socket,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "scheme",
            Self::Host => "host",
            Self::Port => "port",
            Self::Export => "export",
            Self::Query => "query",
            Self::Socket => "socket",
        })
    }
}

/// What is wrong with a URI, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {part} of the NBD URI {why}")]
pub struct UriError {
    /// Where.
    pub part: Part,
    /// What.
    pub why: &'static str,
}

impl From<UriError> for Error {
    fn from(cause: UriError) -> Self {
        let text = match cause.part {
            Part::Scheme => "not a URI that this build can connect to",
            _ => "malformed URI",
        };
        Self::new(Kind::InvalidInput, text).because(cause)
    }
}

const fn wrong<T>(part: Part, why: &'static str) -> Result<T, UriError> {
    Err(UriError { part, why })
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let Some((scheme, rest)) = text.split_once("://") else { return wrong(Part::Scheme, "is missing") };
        if rest.contains('#') {
            return wrong(Part::Export, "is followed by a fragment ('#' is written %23)");
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let address = match scheme.to_ascii_lowercase().as_str() {
            "nbd" | "nbd+tcp" if !query.is_empty() => {
                return wrong(Part::Query, "has parameters, which only nbd+unix takes");
            }
            "nbd" | "nbd+tcp" => parse_authority(authority)?,
            "nbd+unix" if !authority.is_empty() => {
                return wrong(Part::Host, "has to be empty before a socket");
            }
            "nbd+unix" => Address::Unix { socket: parse_socket(query)? },
            "nbds" | "nbds+tcp" | "nbds+unix" => {
                return wrong(Part::Scheme, "demands TLS, which is not supported");
            }
            _ => return wrong(Part::Scheme, "is neither nbd nor nbd+unix"),
        };
        let export = String::from_utf8(decode(Part::Export, export)?)
            .or_else(|_| wrong(Part::Export, "is not UTF-8"))?;
        if export.len() > limit::STRING_BYTES_MAX || export.contains('\0') {
            return wrong(Part::Export, "is too long or has a NUL byte inside");
        }
        Ok(Self { address, export })
    }
}

fn parse_authority(authority: &str) -> Result<Address, UriError> {
    if authority.contains('@') {
        return wrong(Part::Host, "has a user in front, which only TLS takes");
    }
    let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, port))) if host.contains(':') => (host.to_owned(), port),
        Some(_) => return wrong(Part::Host, "has a bracket without an IPv6 address"),
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let host = String::from_utf8(decode(Part::Host, host)?);
            (host.or_else(|_| wrong(Part::Host, "is not UTF-8"))?, port)
        }
    };
    if host.is_empty() || host.contains(|c: char| c.is_control() || matches!(c, ' ' | '/' | '[' | ']')) {
        return wrong(Part::Host, "is missing or malformed");
    }
    let port = match port.strip_prefix(':') {
        Some("") => PORT, // RFC 3986: an empty port is the default one
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            digits.parse().or_else(|_| wrong(Part::Port, "is above 65535"))?
        }
        None if port.is_empty() => PORT,
        _ => return wrong(Part::Port, "is not a number"),
    };
    Ok(Address::Tcp { host, port })
}

fn parse_socket(query: &str) -> Result<PathBuf, UriError> {
    let mut socket = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("socket", path)) if socket.is_none() => socket = Some(decode(Part::Socket, path)?),
            Some(("socket", _)) => return wrong(Part::Socket, "is given twice"),
            _ => return wrong(Part::Query, "has a parameter other than socket=PATH"),
        }
    }
    let Some(bytes) = socket else {
        return wrong(Part::Socket, "is missing (nbd+unix:///export?socket=PATH)");
    };
    if bytes.is_empty() || bytes.iter().skip(1).any(|byte| *byte == 0) {
        return wrong(Part::Socket, "is empty or has a NUL byte inside");
    }
    path_of(bytes)
}

#[cfg(unix)]
fn path_of(bytes: Vec<u8>) -> Result<PathBuf, UriError> {
    let text: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(bytes);
    Ok(text.into())
}

#[cfg(unix)]
fn path_bytes(path: &Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}

#[cfg(not(unix))]
fn path_of(bytes: Vec<u8>) -> Result<PathBuf, UriError> {
    String::from_utf8(bytes).map(PathBuf::from).or_else(|_| wrong(Part::Socket, "is not UTF-8"))
}

#[cfg(not(unix))]
fn path_bytes(path: &Path) -> Vec<u8> {
    path.to_string_lossy().into_owned().into_bytes()
}

/// RFC 3986 2.1: `%` and two hexadecimal digits are a byte.
fn decode(part: Part, text: &str) -> Result<Vec<u8>, UriError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.extend(u8::try_from(high * 16 + low)),
            _ => return wrong(part, "has a '%' without two hexadecimal digits"),
        }
    }
    Ok(out)
}

/// RFC 3986 3.3 and 3.4: characters that mean themselves in a path and in a parameter, the slash among them; `&`, `=`, `+` are
/// not, because readers differ about them in a query.
struct Encoded<'a>(&'a [u8]);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => {
                    write!(f, "{}", char::from(*byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = Encoded(self.export.as_bytes());
        match &self.address {
            Address::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "nbd://[{host}]")?;
                } else {
                    write!(f, "nbd://{}", Encoded(host.as_bytes()))?;
                }
                if *port != PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")
            }
            Address::Unix { socket } => {
                write!(f, "nbd+unix:///{export}?socket={}", Encoded(&path_bytes(socket)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_base::rng::Rng;

    fn shown(text: &str) -> String {
        text.parse::<Uri>().unwrap().to_string()
    }

    fn refused(text: &str) -> String {
        text.parse::<Uri>().unwrap_err().to_string()
    }

    #[test]
    fn a_uri_is_printed_in_its_shortest_form() {
        assert_eq!(shown("nbd://example.com"), "nbd://example.com/");
        assert_eq!(shown("NBD://example.com:10809/disk"), "nbd://example.com/disk");
        assert_eq!(shown("nbd+tcp://h:1/x"), "nbd://h:1/x");
        assert_eq!(shown("nbd://[::1]:5/x"), "nbd://[::1]:5/x");
        assert_eq!(shown("nbd://h:/x"), "nbd://h/x");
        assert_eq!(shown("nbd+unix:///?socket=/run/a%20b"), "nbd+unix:///?socket=/run/a%20b");
    }

    #[test]
    fn names_are_those_of_the_specification() {
        for (uri, export) in [
            ("nbd://example.com/disk", "disk"),
            ("nbd+unix:///disk?socket=sock", "disk"),
            ("nbd://example.com/", ""),
            ("nbd://example.com", ""),
            ("nbd://example.com//disk", "/disk"),
            ("nbd://example.com/hello%20world", "hello world"),
        ] {
            assert_eq!(uri.parse::<Uri>().unwrap().export, export, "{uri}");
        }
        let uri: Uri = "nbd+unix:///?socket=%00/abstract".parse().unwrap();
        assert_eq!(uri.address, Address::Unix { socket: "\0/abstract".into() });
    }

    #[test]
    fn an_error_names_the_part() {
        for (uri, error) in [
            ("disk.img", "the scheme of the NBD URI is missing"),
            ("http://h/", "the scheme of the NBD URI is neither nbd nor nbd+unix"),
            ("nbds://h/", "the scheme of the NBD URI demands TLS, which is not supported"),
            ("nbd:///x", "the host of the NBD URI is missing or malformed"),
            ("nbd://a b/x", "the host of the NBD URI is missing or malformed"),
            ("nbd://me@h/x", "the host of the NBD URI has a user in front, which only TLS takes"),
            ("nbd://[h]/x", "the host of the NBD URI has a bracket without an IPv6 address"),
            ("nbd://[::1/x", "the host of the NBD URI has a bracket without an IPv6 address"),
            ("nbd+unix://h/x?socket=/s", "the host of the NBD URI has to be empty before a socket"),
            ("nbd://h:x/", "the port of the NBD URI is not a number"),
            ("nbd://h:+1/", "the port of the NBD URI is not a number"),
            ("nbd://[::1]5/", "the port of the NBD URI is not a number"),
            ("nbd://h:65536/", "the port of the NBD URI is above 65535"),
            ("nbd://h/%zz", "the export of the NBD URI has a '%' without two hexadecimal digits"),
            ("nbd://h/%f", "the export of the NBD URI has a '%' without two hexadecimal digits"),
            ("nbd://h/%ff", "the export of the NBD URI is not UTF-8"),
            ("nbd://h/%00", "the export of the NBD URI is too long or has a NUL byte inside"),
            ("nbd://h/a#b", "the export of the NBD URI is followed by a fragment ('#' is written %23)"),
            ("nbd://h/?socket=/s", "the query of the NBD URI has parameters, which only nbd+unix takes"),
            (
                "nbd+unix:///?socket=/s&tls=1",
                "the query of the NBD URI has a parameter other than socket=PATH",
            ),
            ("nbd+unix:///", "the socket of the NBD URI is missing (nbd+unix:///export?socket=PATH)"),
            ("nbd+unix:///?socket=/s&socket=/t", "the socket of the NBD URI is given twice"),
            ("nbd+unix:///?socket=", "the socket of the NBD URI is empty or has a NUL byte inside"),
        ] {
            assert_eq!(refused(uri), error, "{uri}");
        }
    }

    #[test]
    fn what_was_printed_parses_back() {
        let alphabet: Vec<char> = "aZ09-._~/:@?#%&=+ ä€\u{1f600}\u{7f}\"'".chars().collect();
        for seed in 0..500 {
            let mut rng = Rng::new(seed);
            let mut text =
                |n: u64| (0..rng.below(n)).map(|_| alphabet[rng.index(alphabet.len())]).collect::<String>();
            let (export, socket) = (text(20), format!("/{}", text(20)));
            let address = match seed % 3 {
                0 => Address::Unix { socket: socket.into() },
                1 => Address::Tcp { host: "fe80::1".into(), port: PORT },
                _ => Address::Tcp { host: "hört.example".into(), port: 9 },
            };
            let uri = Uri { address, export };
            assert_eq!(uri.to_string().parse(), Ok(uri), "seed {seed}");
        }
    }
}
