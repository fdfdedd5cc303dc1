//! What `drystone serve` takes.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  drystone serve disk.qcow2 --socket /tmp/disk.sock
      a qcow2 chain; commands at /tmp/disk.sock.ctl
  drystone serve --format raw --listen 127.0.0.1:10809 disk.img
      a raw image over TCP
  drystone serve --overlay golden.qcow2
      the image stays as it is; what is written is forgotten at the end
  drystone serve --read-only --backing-below /images untrusted.qcow2
      an image from somebody else, which may name files in /images only

Whoever can connect to the control socket can make files as the user who serves.";

/// Most I/O threads.
const THREADS_MAX: i64 = 64;

/// Serves disk images over NBD
///
/// Prints one NBD URI a line when clients can connect, and serves until it is told to stop (ctrl-C, SIGTERM). It then ends
/// all connections, puts on disk what clients have written, and exits with status 0; a second signal ends it at once.
///
/// Each image is an export with the name of its file; the first is also what clients get who ask for no export by name.
/// On a terminal, `s` takes a snapshot of every disk, `q` stops.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Disk images: paths, or options as `json:{...}`
    #[arg(required = true, value_name = "IMAGE")]
    pub(super) images: Vec<OsString>,

    /// Format of the images. Without it, the first bytes decide, and what looks raw is served read-only: whoever writes to
    /// it could make it look like something else
    #[arg(long, value_name = "raw|qcow2")]
    pub(super) format: Option<String>,

    /// Nobody writes
    #[arg(long)]
    pub(super) read_only: bool,

    /// Clients write to a new overlay; the image itself is never changed. The overlay is gone at the end, unless it is
    /// given a name (one image only)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "absent, without a name, with a name")]
    pub(super) overlay: Option<Option<PathBuf>>,

    /// Listen at this unix socket (a new one in the runtime folder of the user, or in /tmp)
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub(super) socket: Option<PathBuf>,

    /// Listen at this TCP address instead: anybody who reaches it can use the disks
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) listen: Option<String>,

    /// Name of an export; once per image, in their order (the names of their files)
    #[arg(long, value_name = "NAME")]
    pub(super) export_name: Vec<String>,

    /// I/O threads. Connections are spread over them (one per processor, up to 4)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    pub(super) threads: Option<u16>,

    /// Past the page cache of this machine
    #[arg(long)]
    pub(super) cache_direct: bool,

    /// What becomes of space that clients give up
    #[arg(long, value_enum, default_value_t = Discarding::Unmap)]
    pub(super) discard: Discarding,

    /// Backing files must lie in this folder or below it
    #[arg(long, value_name = "DIR", conflicts_with = "no_backing")]
    pub(super) backing_below: Option<PathBuf>,

    /// Refuse images that name other files
    #[arg(long)]
    pub(super) no_backing: bool,

    /// Listen for commands at this unix socket (the NBD socket's path and `.ctl`)
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<PathBuf>,
}

/// What becomes of space that clients give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Discarding {
    /// It is given back to the file system
    Unmap,
    /// It stays taken
    Ignore,
}
