//! What people and images write where an image is to be named.
//!
//! | written | means |
//! |---|---|
//! | `json:{...}` | options, see [`crate::options`] |
//! | `file:PATH`, `host_device:PATH` | that driver on that path |
//! | `nbd://...`, `nbd+unix://...`, `nbd:...` | an export of an NBD server |
//! | `blkdebug:[RULES]:NAME` | what NAME means, behind `blkdebug` with the rules of a file |
//! | `blkverify:RAW:NAME` | what NAME means, beside a plain copy of its disk in the file RAW |
//! | `WORD:...`, without a `/` before the colon | another protocol, unknown to this build |
//! | anything else | a path |
//!
//! A path with a colon in its first part is written `./a:b`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use drystone_base::{Error, Kind, Result};
use drystone_nbd::parse_plain;
use drystone_nbd::uri::{Address, Uri};

use crate::options::Options;

/// A name, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Name {
    /// A path, and the driver if the name says it.
    Path {
        /// Where.
        path: PathBuf,
        /// What the name says in front of it.
        driver: Option<&'static str>,
    },
    /// Options.
    Options(Options),
    /// A node that stands where a file would, by its options: an export of an NBD server, a filter.
    Node(Options),
}

/// How many names are inside each other, at most: half as many colons.
const NESTING_MAX: usize = 64;
/// Protocols that are followed by a path.
const PATH_PROTOCOLS: [&str; 2] = ["file", "host_device"];

/// Takes a name apart.
///
/// # Errors
/// [`Kind::Unsupported`] for an unknown protocol, [`Kind::InvalidInput`] for a name without a meaning.
pub fn parse(name: &OsStr) -> Result<Name> {
    let bytes = name.as_bytes();
    if let Some(text) = bytes.strip_prefix(b"json:") {
        let text = std::str::from_utf8(text)
            .map_err(|cause| Error::new(Kind::InvalidInput, "the name is no valid text").because(cause))?;
        return Options::from_json(text).map(Name::Options);
    }
    if let Some((b"nbd" | b"nbd+tcp" | b"nbd+unix" | b"nbds" | b"nbds+tcp" | b"nbds+unix", _)) =
        protocol(bytes)
    {
        let text = std::str::from_utf8(bytes)
            .map_err(|cause| Error::new(Kind::InvalidInput, "the name is no valid text").because(cause))?;
        return nbd_options(text).map(Name::Node);
    }
    if let Some((b"blkdebug", rest)) = protocol(bytes) {
        return blkdebug_options(rest).map(Name::Node);
    }
    if let Some((b"blkverify", rest)) = protocol(bytes) {
        return blkverify_options(rest).map(Name::Node);
    }
    let path_of = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
    let (path, driver) = match protocol(bytes) {
        None => (path_of(bytes), None),
        Some((protocol, rest)) => {
            let known = PATH_PROTOCOLS.into_iter().find(|known| known.as_bytes() == protocol);
            (path_of(rest), Some(known.ok_or_else(|| unknown(name, protocol))?))
        }
    };
    if path.as_os_str().is_empty() {
        return Err(Error::new(Kind::InvalidInput, "the name of a file is missing"));
    }
    Ok(Name::Path { path, driver })
}

/// The options of a `blkdebug` node, from what follows its name: a file of rules or nothing, a colon, and another name.
fn blkdebug_options(rest: &[u8]) -> Result<Options> {
    let text = std::str::from_utf8(rest)
        .map_err(|cause| Error::new(Kind::InvalidInput, "the name is no valid text").because(cause))?;
    let Some((config, image)) = text.split_once(':') else {
        let text = "'blkdebug:' is followed by a file of rules or nothing, a colon, and the name of an image";
        return Err(Error::new(Kind::InvalidInput, text));
    };
    let mut options = Options::default();
    options.set("driver", "blkdebug")?;
    if !config.is_empty() {
        options.set("config", config)?;
    }
    options.set_nested("image", below(image)?)?;
    Ok(options)
}

/// The options of a `blkverify` node, from what follows its name: a file, a colon, and the name of an image.
fn blkverify_options(rest: &[u8]) -> Result<Options> {
    let text = std::str::from_utf8(rest)
        .map_err(|cause| Error::new(Kind::InvalidInput, "the name is no valid text").because(cause))?;
    let Some((raw, image)) = text.split_once(':').filter(|(raw, _)| !raw.is_empty()) else {
        let text = "'blkverify:' is followed by a file, a colon, and the name of an image";
        return Err(Error::new(Kind::InvalidInput, text));
    };
    let mut options = Options::default();
    options.set("driver", "blkverify")?;
    options.set("raw.filename", raw)?;
    let test = match parse_below(image)? {
        Name::Options(test) => test,
        named => {
            let mut test = Options::default();
            test.set_nested("file", options_of(named)?)?;
            test
        }
    };
    options.set_nested("test", test)?;
    Ok(options)
}

/// The options of a node that stands where a file would, by its name.
fn below(name: &str) -> Result<Options> {
    options_of(parse_below(name)?)
}

/// A name inside another.
fn parse_below(name: &str) -> Result<Name> {
    if name.matches(':').count() > NESTING_MAX && !name.starts_with("json:") {
        return Err(Error::new(Kind::InvalidInput, "the names are nested too deep"));
    }
    parse(OsStr::new(name))
}

fn options_of(name: Name) -> Result<Options> {
    match name {
        Name::Options(options) | Name::Node(options) => Ok(options),
        Name::Path { path, driver } => {
            let mut options = Options::default();
            options.set("filename", path.to_string_lossy().into_owned())?;
            if let Some(driver) = driver {
                options.set("driver", driver)?;
            }
            Ok(options)
        }
    }
}

/// The options of the NBD node that a name stands for.
fn nbd_options(name: &str) -> Result<Options> {
    let uri: Uri = if name.contains("://") { name.parse() } else { parse_plain(name) }?;
    let mut options = Options::default();
    options.set("driver", "nbd")?;
    match &uri.address {
        Address::Tcp { host, port } => {
            options.set("server.type", "inet")?;
            options.set("server.host", host.as_str())?;
            options.set("server.port", port.to_string())?;
        }
        Address::Unix { socket } => {
            let path = socket.to_str().ok_or_else(|| {
                Error::new(Kind::InvalidInput, "the path of the socket is no valid text").at_path(socket)
            })?;
            options.set("server.type", "unix")?;
            options.set("server.path", path)?;
        }
    }
    if !uri.export.is_empty() {
        options.set("export", uri.export)?;
    }
    Ok(options)
}

/// Options that say the format: who says it apart from them has the last word.
pub(crate) fn with_format(mut options: Options, format: Option<&str>) -> Result<Options> {
    if let Some(format) = format {
        options.take_text("driver")?;
        options.set("driver", format)?;
    }
    Ok(options)
}

/// The protocol in front of a name, and what follows the colon.
fn protocol(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    let (protocol, rest) = name.split_at_checked(end)?;
    rest.strip_prefix(b":").map(|rest| (protocol, rest))
}

fn unknown(name: &OsStr, protocol: &[u8]) -> Error {
    let protocol = String::from_utf8_lossy(protocol);
    let text =
        format!("unknown protocol '{protocol}' (a file of that name is written './{}')", name.display());
    Error::new(Kind::Unsupported, text)
}

/// The name that an image in folder `base` means by `recorded`: paths are relative to the folder, unless they are absolute
/// or behind a protocol. Without a folder (the image is no file) a relative name has no meaning.
///
/// # Errors
/// [`Kind::InvalidInput`] for a relative name without a folder.
pub fn resolve(recorded: &OsStr, base: Option<&Path>) -> Result<PathBuf> {
    let bytes = recorded.as_bytes();
    if bytes.starts_with(b"/") || protocol(bytes).is_some() {
        return Ok(PathBuf::from(recorded));
    }
    let base = base.ok_or_else(|| {
        let text =
            format!("'{}' is relative, but the image that names it lies in no folder", recorded.display());
        Error::new(Kind::InvalidInput, text)
    })?;
    Ok(base.join(recorded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(of: &str) -> Name {
        Name::Path { path: of.into(), driver: None }
    }

    #[test]
    fn paths_protocols_and_options_are_told_apart() {
        let parse = |name: &str| parse(OsStr::new(name)).unwrap();
        assert_eq!(parse("a.img"), path("a.img"));
        assert_eq!(parse("./a:b.img"), path("./a:b.img"));
        assert_eq!(parse("/x/nbd:y"), path("/x/nbd:y"));
        assert_eq!(parse("file:a:b"), Name::Path { path: "a:b".into(), driver: Some("file") });
        assert_eq!(parse("file:///a"), Name::Path { path: "///a".into(), driver: Some("file") });
        assert_eq!(
            parse("host_device:/dev/x"),
            Name::Path { path: "/dev/x".into(), driver: Some("host_device") }
        );
        assert!(matches!(parse("json:{}"), Name::Options(_)));
    }

    #[test]
    fn an_export_is_named_by_a_uri_or_as_of_old() {
        let flat = |name: &str| match parse(OsStr::new(name)).unwrap() {
            Name::Node(options) => options.to_string(),
            other => panic!("{other:?}"),
        };
        let unix = r#"{"driver":"nbd","export":"a","server":{"path":"/s","type":"unix"}}"#;
        assert_eq!(flat("nbd+unix:///a?socket=/s"), unix);
        assert_eq!(flat("nbd:unix:/s:exportname=a"), unix);
        let tcp = r#"{"driver":"nbd","server":{"host":"h","port":"10809","type":"inet"}}"#;
        assert_eq!(flat("nbd://h"), tcp);
        assert_eq!(flat("nbd+tcp://h/"), tcp);
        assert_eq!(flat("nbd:h:10809"), tcp);
    }

    #[test]
    fn names_without_meaning_are_refused() {
        let fault = |name: &[u8]| parse(OsStr::from_bytes(name)).unwrap_err();
        assert_eq!(fault(b"").kind(), Kind::InvalidInput);
        assert_eq!(fault(b"file:").kind(), Kind::InvalidInput);
        assert_eq!(fault(b"json:\xff").kind(), Kind::InvalidInput);
        let error = fault(b"http://host/x");
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.report().starts_with("unknown protocol 'http'"), "{}", error.report());
        assert_eq!(fault(b"nbd:///x").kind(), Kind::InvalidInput);
        assert_eq!(fault(b"nbds://h/x").kind(), Kind::InvalidInput);
        assert!(fault(b"a:b").report().contains("'./a:b'"));
        assert_eq!(fault(b":x").kind(), Kind::Unsupported);
    }

    #[test]
    fn names_in_an_image_are_relative_to_its_folder() {
        let resolve = |name: &str, base: &str| resolve(OsStr::new(name), Some(Path::new(base))).unwrap();
        assert_eq!(resolve("b.img", "/x"), Path::new("/x/b.img"));
        assert_eq!(resolve("b.img", ""), Path::new("b.img"));
        assert_eq!(resolve("../b.img", "x/y"), Path::new("x/y/../b.img"));
        assert_eq!(resolve("/b.img", "/x"), Path::new("/b.img"));
        assert_eq!(resolve("json:{}", "/x"), Path::new("json:{}"));
        assert_eq!(resolve("file:b.img", "/x"), Path::new("file:b.img"));
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_taken_apart_or_refused(bytes: Vec<u8>, text in "json:[{}\\[\\]\":,.a-c0-9nullfile ]{0,60}") {
            for name in [OsStr::from_bytes(&bytes), OsStr::new(&text)] {
                let _ = parse(name);
                let _ = resolve(name, Some(Path::new("/x")));
            }
        }
    }

    #[test]
    fn a_relative_name_needs_a_folder() {
        assert_eq!(super::resolve(OsStr::new("b"), None).unwrap_err().kind(), Kind::InvalidInput);
        assert!(super::resolve(OsStr::new("/b"), None).is_ok());
    }
}
