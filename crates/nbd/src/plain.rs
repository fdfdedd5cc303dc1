//! Names of the older form, from before there were URIs.
//!
//! ```text
//! nbd:HOST:PORT[:exportname=NAME]         TCP; IPv6 in brackets
//! nbd:unix:PATH[:exportname=NAME]         Unix domain socket
//! ```
//! Nothing in them is escaped: a name is everything behind the first `:exportname=`, a path everything before it.

use crate::limit;
use crate::uri::{Address, Part, Uri, UriError};

const fn wrong<T>(part: Part, why: &'static str) -> Result<T, UriError> {
    Err(UriError { part, why })
}

/// Parses such a name.
///
/// # Errors
/// [`UriError`] for something else.
pub fn parse_plain(text: &str) -> Result<Uri, UriError> {
    let Some(rest) = text.strip_prefix("nbd:") else { return wrong(Part::Scheme, "is not 'nbd:'") };
    let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
    if export.len() > limit::STRING_BYTES_MAX || export.contains('\0') {
        return wrong(Part::Export, "is too long or has a NUL byte inside");
    }
    let address = match place.strip_prefix("unix:") {
        Some("") => return wrong(Part::Socket, "is missing (nbd:unix:PATH)"),
        Some(path) => Address::Unix { socket: path.into() },
        None => parse_host(place)?,
    };
    Ok(Uri { address, export: export.to_owned() })
}

fn parse_host(place: &str) -> Result<Address, UriError> {
    let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once("]:")) {
        Some(Some((host, port))) => (host, port),
        Some(None) => return wrong(Part::Host, "has a bracket without an IPv6 address and a port"),
        None => match place.split_once(':') {
            Some(split) => split,
            None => return wrong(Part::Port, "is missing (nbd:HOST:PORT)"),
        },
    };
    if host.is_empty() || host.contains(|c: char| c.is_control() || matches!(c, ' ' | '/')) {
        return wrong(Part::Host, "is missing or malformed");
    }
    if port.is_empty() || !port.bytes().all(|digit| digit.is_ascii_digit()) {
        return wrong(Part::Port, "is not a number");
    }
    let port = port.parse().or_else(|_| wrong(Part::Port, "is above 65535"))?;
    Ok(Address::Tcp { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_means_what_its_uri_does() {
        for (plain, uri) in [
            ("nbd:localhost:10809", "nbd://localhost/"),
            ("nbd:localhost:1:exportname=a b:c", "nbd://localhost:1/a%20b:c"),
            ("nbd:[::1]:5:exportname=x", "nbd://[::1]:5/x"),
            ("nbd:unix:/run/a b", "nbd+unix:///?socket=/run/a%20b"),
            ("nbd:unix:s:exportname=/x", "nbd+unix:////x?socket=s"),
        ] {
            assert_eq!(parse_plain(plain).unwrap().to_string(), uri, "{plain}");
            assert_eq!(uri.parse(), Ok(parse_plain(plain).unwrap()));
        }
    }

    #[test]
    fn an_error_names_the_part() {
        for (plain, error) in [
            ("nbd:localhost", "the port of the NBD URI is missing (nbd:HOST:PORT)"),
            ("nbd:localhost:abc", "the port of the NBD URI is not a number"),
            ("nbd:localhost:99999", "the port of the NBD URI is above 65535"),
            ("nbd:unix:", "the socket of the NBD URI is missing (nbd:unix:PATH)"),
            ("nbd::1", "the host of the NBD URI is missing or malformed"),
            ("nbd:[::1", "the host of the NBD URI has a bracket without an IPv6 address and a port"),
            ("x:1:2", "the scheme of the NBD URI is not 'nbd:'"),
        ] {
            assert_eq!(parse_plain(plain).unwrap_err().to_string(), error, "{plain}");
        }
    }
}
