//! `drystone nbd`, and everything when the program is called `qemu-nbd`: one image over NBD.
//!
//! ```text
//!   arguments ─┬─ --list: what another server offers ─────────────► printed
//!              └─ an image ─ (into the background) ─► served until the last client has left, or it is told to end
//! ```
//! | module | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`serve`] | opening the image, serving it |
//! | [`list`] | `--list` |
//!
//! Standard output, exit status and life time are those of release 10.0 of the C tool; texts of errors are ours, behind the
//! name that the program was called by.

mod list;
mod options;
mod serve;

use std::ffi::OsString;

use drystone_base::Result;

use self::options::Command;
use crate::console;
use crate::tool::object::help_in;

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// The release of the C tools that is followed.
const RELEASE: &str = "10.0.0";

const HELP: &str = "\
Serves one disk image over NBD, as qemu-nbd of release 10.0 does. It ends when its last client has left.

  [OPTION...] IMAGE
  -L [OPTION...]

Where:
  -p, --port=PORT           listens at this TCP port (10809)
  -b, --bind=ADDRESS        at this address (0.0.0.0)
  -k, --socket=PATH         listens at this unix socket instead; an absolute path
  -e, --shared=N            up to N clients at a time, the others wait (1; 0 for any number)
  -t, --persistent          goes on when the last client has left
      --handshake-limit=N   a client has N seconds to say what it wants (10; 0 for any time)
  -x, --export-name=NAME    the export has this name, rather than none
  -D, --description=TEXT    and this description, for people

What:
  -f, --format=FORMAT       the image's format; without it, the first bytes decide
      --image-opts          IMAGE is options: driver=...,file.filename=...
  -r, --read-only           nobody writes
  -s, --snapshot            clients write to a new overlay, which is forgotten at the end
  -l, --load-snapshot=NAME  serves an internal snapshot: ID, NAME, snapshot.id=ID,snapshot.name=NAME
  -o, --offset=OFFSET       serves what is from here on
  -A, --allocation-depth    tells clients how deep in a chain of images bytes are
  -B, --bitmap=NAME         tells clients what a dirty bitmap marks; may be given more than once
      --cache=MODE          none, writeback, writethrough, directsync or unsafe (writeback)
  -n, --nocache             as --cache=none
      --aio=MODE            threads, native or io_uring: checked; the engine is chosen by what the kernel has
      --discard=MODE        what becomes of space that clients give up: ignore, unmap (ignore)
      --detect-zeroes=MODE  writes of zeroes become zeroing: off, on, unmap (off)

How:
  -L, --list                says what another server offers (where: as above)
      --fork                goes into the background when clients can connect
      --pid-file=FILE       keeps the number of the process in a file
      --object=TYPE,id=ID   defines an object: secret
  -T, --trace=PATTERN       taken, without effect
  -v, --verbose             taken, without effect
  -h, --help                this text
  -V, --version             the version

A service manager may pass the socket (LISTEN_FDS). Not supported: --tls-creds, --tls-authz, --tls-hostname, --selinux-label,
and the kernel's devices (-c, --connect=DEVICE; -d, --disconnect).
";

/// Runs the tool under the name that errors are to begin with; the exit status.
pub(crate) fn run(name: &'static str, args: Vec<OsString>) -> u8 {
    match dispatch(name, args) {
        Ok(status) => status,
        Err(error) if help_in(&error).is_some() => {
            match console::print(help_in(&error).unwrap_or_default()) {
                Ok(()) => 0,
                Err(_) => FAILED,
            }
        }
        Err(error) => {
            console::note(format_args!("{name}: {}", error.report()));
            FAILED
        }
    }
}

fn dispatch(name: &'static str, args: Vec<OsString>) -> Result<u8> {
    match options::parse(args, drystone_sys::activated_count())? {
        Command::Help => console::print(HELP)?,
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            console::print(&format!("qemu-nbd {RELEASE} (drystone {version})\n"))?;
        }
        Command::List(place) => console::print(&list::list(name, place)?)?,
        Command::Serve(serving) => return serve::run(name, *serving),
    }
    Ok(0)
}
