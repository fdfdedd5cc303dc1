//! The command line of `qemu-nbd`.
//!
//! What excludes what is as in release 10.0 of the C tool: a list is no server, a socket that was passed has an address
//! already, options that would contradict each other may be given once.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::snapshots::Which;
use drystone_core::graph::policy::DetectZeroes;
use drystone_protocol::file::{Aio, Discard};

use crate::args::UsageError;
use crate::args::getopt::{Flag, Getopt};
use crate::args::number::parse_size;
use crate::tool::image::{CacheMode, parse_snapshot};
use crate::tool::object::Secrets;

/// The port that is listened at unless another is said.
const PORT: u16 = 10809;
/// Seconds that a handshake may take.
const HANDSHAKE_S: u64 = 10;

const FLAGS: &[Flag] = &[
    Flag::switch(Some('h'), "help"),
    Flag::switch(Some('V'), "version"),
    Flag::value(Some('p'), "port"),
    Flag::value(Some('b'), "bind"),
    Flag::value(Some('k'), "socket"),
    Flag::value(Some('e'), "shared"),
    Flag::switch(Some('t'), "persistent"),
    Flag::switch(Some('v'), "verbose"),
    Flag::value(Some('x'), "export-name"),
    Flag::value(Some('D'), "description"),
    Flag::value(None, "handshake-limit"),
    Flag::value(Some('o'), "offset"),
    Flag::switch(Some('A'), "allocation-depth"),
    Flag::value(Some('B'), "bitmap"),
    Flag::switch(Some('L'), "list"),
    Flag::value(None, "object"),
    Flag::value(None, "tls-creds"),
    Flag::value(None, "tls-authz"),
    Flag::value(None, "tls-hostname"),
    Flag::value(Some('T'), "trace"),
    Flag::switch(None, "fork"),
    Flag::value(None, "pid-file"),
    Flag::value(None, "selinux-label"),
    Flag::value(Some('c'), "connect"),
    Flag::switch(Some('d'), "disconnect"),
    Flag::value(Some('f'), "format"),
    Flag::switch(Some('r'), "read-only"),
    Flag::switch(Some('s'), "snapshot"),
    Flag::value(Some('l'), "load-snapshot"),
    Flag::switch(Some('n'), "nocache"),
    Flag::value(None, "cache"),
    Flag::value(None, "aio"),
    Flag::value(None, "discard"),
    Flag::value(None, "detect-zeroes"),
    Flag::switch(None, "image-opts"),
];

/// What is to be done.
#[derive(Debug)]
pub(super) enum Command {
    /// Say how it is used.
    Help,
    /// Say which version it is.
    Version,
    /// Say what another server offers.
    List(Place),
    /// Serve an image.
    Serve(Box<Serving>),
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// By TCP, at a name or address, and a port.
    Tcp(String, u16),
    /// At a unix socket.
    Unix(PathBuf),
    /// At a socket that a service manager has passed.
    Activated,
}

/// How an image is to be served.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) image: OsString,
    pub(super) place: Place,
    pub(super) format: Option<String>,
    pub(super) image_opts: bool,
    pub(super) read_only: bool,
    /// `-s`.
    pub(super) snapshot: bool,
    pub(super) load_snapshot: Option<Which>,
    pub(super) cache: CacheMode,
    pub(super) aio: Aio,
    pub(super) discard: Discard,
    pub(super) detect_zeroes: DetectZeroes,
    pub(super) offset: u64,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) allocation_depth: bool,
    pub(super) bitmaps: Vec<String>,
    /// Most connections; 0: any number.
    pub(super) shared: u32,
    pub(super) persistent: bool,
    pub(super) handshake_s: u64,
    pub(super) fork: bool,
    pub(super) pid_file: Option<PathBuf>,
}

/// What was said, before it is looked at together.
#[derive(Default)]
struct Said {
    port: Option<u16>,
    bind: Option<String>,
    socket: Option<PathBuf>,
    shared: Option<u32>,
    handshake_s: Option<u64>,
    name: Option<String>,
    description: Option<String>,
    offset: Option<u64>,
    format: Option<String>,
    load_snapshot: Option<Which>,
    cache: Option<CacheMode>,
    aio: Option<Aio>,
    discard: Option<Discard>,
    detect_zeroes: Option<DetectZeroes>,
    pid_file: Option<PathBuf>,
    bitmaps: Vec<String>,
    secrets: Secrets,
    switches: Vec<&'static str>,
}

impl Said {
    fn has(&self, switch: &str) -> bool {
        self.switches.contains(&switch)
    }
}

fn refused(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text)
}

fn usage(error: &UsageError) -> Error {
    refused(format!("{error} (try '--help')"))
}

/// Takes the command line apart. `activated` sockets were passed by a service manager.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(args: Vec<OsString>, activated: u32) -> Result<Command> {
    let mut getopt = Getopt::new(FLAGS, args);
    let mut said = Said::default();
    while let Some((name, value)) = getopt.next_option().map_err(|error| usage(&error))? {
        match name {
            "help" => return Ok(Command::Help),
            "version" => return Ok(Command::Version),
            _ => said.take(name, &value)?,
        }
    }
    said.finish(getopt.into_free(), activated)
}

impl Said {
    fn take(&mut self, name: &'static str, value: &OsStr) -> Result<()> {
        let text = || {
            value.to_str().map(str::to_owned).ok_or_else(|| refused(format!("'--{name}' is no valid text")))
        };
        match name {
            "socket" => self.socket = Some(take_socket(value)?),
            "pid-file" => self.pid_file = Some(value.into()),
            "object" => self.secrets.define(value)?,
            "port" => self.port = Some(take_port(&text()?)?),
            "bind" => self.bind = Some(text()?),
            "shared" => self.shared = Some(take_count(&text()?, "shared device number")?),
            "handshake-limit" => {
                self.handshake_s = Some(u64::from(take_count(&text()?, "handshake limit")?));
            }
            "export-name" => self.name = Some(take_string(text()?, "export name")?),
            "description" => self.description = Some(take_string(text()?, "export description")?),
            "offset" => self.offset = Some(take_offset(&text()?)?),
            "bitmap" => self.bitmaps.push(text()?),
            "format" => self.format = Some(text()?),
            "load-snapshot" => self.load_snapshot = Some(parse_snapshot(&text()?)?),
            "nocache" => {
                once(&mut self.cache, CacheMode::named("none"), "-n and --cache can only be given once")?
            }
            "cache" => {
                let mode = CacheMode::named(&text()?)
                    .ok_or_else(|| refused(format!("invalid cache mode '{}'", value.display())))?;
                once(&mut self.cache, Some(mode), "-n and --cache can only be given once")?;
            }
            "aio" => once(&mut self.aio, Some(take_aio(&text()?)?), "--aio can only be given once")?,
            "discard" => {
                once(&mut self.discard, Some(take_discard(&text()?)?), "--discard can only be given once")?;
            }
            "detect-zeroes" => self.detect_zeroes = Some(take_zeroes(&text()?)?),
            "tls-creds" | "tls-authz" | "tls-hostname" => {
                return Err(unsupported(name, "TLS is not supported yet"));
            }
            "selinux-label" => return Err(unsupported(name, "labels of SELinux are not supported")),
            "connect" | "disconnect" => {
                let text = "it needs the kernel's NBD client (/dev/nbd0 and so on), to which this program cannot hand a \
                            connection: serve the image at a socket (-k PATH) and connect with nbd-client -unix";
                return Err(unsupported(name, text));
            }
            // There are no trace points to be switched on.
            "trace" => {}
            switch => self.switches.push(switch),
        }
        Ok(())
    }

    fn finish(self, free: Vec<OsString>, activated: u32) -> Result<Command> {
        let place = self.place(activated)?;
        if self.has("list") {
            self.check_list(&free, activated)?;
            return Ok(Command::List(place));
        }
        let [image] = <[OsString; 1]>::try_from(free)
            .map_err(|free| refused(format!("one image is expected, not {} (try '--help')", free.len())))?;
        if self.has("image-opts") && self.format.is_some() {
            return Err(refused("--image-opts and -f exclude each other"));
        }
        let discard = self.discard.unwrap_or(Discard::Ignore);
        if self.detect_zeroes == Some(DetectZeroes::Unmap) && discard != Discard::Unmap {
            return Err(refused("--detect-zeroes=unmap needs --discard=unmap"));
        }
        Ok(Command::Serve(Box::new(Serving {
            image,
            place,
            image_opts: self.has("image-opts"),
            read_only: self.has("read-only") || self.load_snapshot.is_some(),
            snapshot: self.has("snapshot"),
            allocation_depth: self.has("allocation-depth"),
            persistent: self.has("persistent"),
            fork: self.has("fork"),
            format: self.format,
            load_snapshot: self.load_snapshot,
            cache: self.cache.unwrap_or(CacheMode::WRITEBACK),
            aio: self.aio.unwrap_or_default(),
            discard,
            detect_zeroes: self.detect_zeroes.unwrap_or_default(),
            offset: self.offset.unwrap_or(0),
            name: self.name.unwrap_or_default(),
            description: self.description.unwrap_or_default(),
            bitmaps: self.bitmaps,
            shared: self.shared.unwrap_or(1),
            handshake_s: self.handshake_s.unwrap_or(HANDSHAKE_S),
            pid_file: self.pid_file,
        })))
    }

    fn place(&self, activated: u32) -> Result<Place> {
        if activated == 0 {
            return Ok(match &self.socket {
                Some(path) => Place::Unix(path.clone()),
                None => Place::Tcp(
                    self.bind.clone().unwrap_or_else(|| "0.0.0.0".to_owned()),
                    self.port.unwrap_or(PORT),
                ),
            });
        }
        let given = [
            (activated > 1, "more than one socket was passed (LISTEN_FDS)"),
            (self.port.is_some(), "a port cannot be set for a socket that was passed"),
            (self.bind.is_some(), "an interface cannot be set for a socket that was passed"),
            (self.socket.is_some(), "a unix socket cannot be set beside one that was passed"),
        ];
        match given.into_iter().find(|(is_given, _)| *is_given) {
            Some((_, text)) => Err(refused(text)),
            None => Ok(Place::Activated),
        }
    }

    fn check_list(&self, free: &[OsString], activated: u32) -> Result<()> {
        let is_about_image = self.name.is_some()
            || self.description.is_some()
            || self.offset.is_some()
            || self.format.is_some()
            || self.load_snapshot.is_some()
            || self.cache.is_some()
            || self.aio.is_some()
            || self.discard.is_some()
            || !self.bitmaps.is_empty()
            || self.has("allocation-depth");
        let given = [
            (!free.is_empty(), "--list takes no image"),
            (is_about_image, "--list excludes options about an image or export"),
            (self.has("fork"), "--list excludes --fork"),
            (activated > 0, "--list excludes a socket that was passed"),
        ];
        match given.into_iter().find(|(is_given, _)| *is_given) {
            Some((_, text)) => Err(refused(text)),
            None => Ok(()),
        }
    }
}

fn unsupported(option: &str, text: &str) -> Error {
    Error::new(Kind::Unsupported, text).in_option(option)
}

fn once<T>(place: &mut Option<T>, value: Option<T>, text: &str) -> Result<()> {
    if place.is_some() {
        return Err(refused(text));
    }
    *place = value;
    Ok(())
}

fn take_socket(value: &OsStr) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { Err(refused("the path of the socket must be absolute")) }
}

fn take_port(text: &str) -> Result<u16> {
    text.parse().map_err(|_| refused(format!("'{text}' is no port")))
}

fn take_count(text: &str, what: &str) -> Result<u32> {
    let count = text.parse::<i32>().ok().and_then(|count| u32::try_from(count).ok());
    count.ok_or_else(|| refused(format!("invalid {what} '{text}'")))
}

fn take_string(text: String, what: &str) -> Result<String> {
    if text.len() > drystone_nbd::limit::STRING_BYTES_MAX {
        return Err(refused(format!("the {what} is longer than the protocol allows")));
    }
    Ok(text)
}

fn take_offset(text: &str) -> Result<u64> {
    parse_size(text).map_err(|_| refused(format!("invalid offset '{text}'")))
}

fn take_aio(text: &str) -> Result<Aio> {
    match text {
        "threads" => Ok(Aio::Threads),
        "native" => Ok(Aio::Native),
        "io_uring" => Ok(Aio::IoUring),
        _ => Err(refused(format!("invalid aio mode '{text}'"))),
    }
}

fn take_discard(text: &str) -> Result<Discard> {
    match text {
        "ignore" | "off" => Ok(Discard::Ignore),
        "unmap" | "on" => Ok(Discard::Unmap),
        _ => Err(refused(format!("invalid discard mode '{text}'"))),
    }
}

fn take_zeroes(text: &str) -> Result<DetectZeroes> {
    match text {
        "off" => Ok(DetectZeroes::Off),
        "on" => Ok(DetectZeroes::On),
        "unmap" => Ok(DetectZeroes::Unmap),
        _ => Err(refused(format!("invalid detect-zeroes mode '{text}'"))),
    }
}
