//! `drystone io`, and everything when the program is called `qemu-io`: requests to a disk, one by one.
//!
//! ```text
//!  -c LINE ... | standard input ──> Session ──> command ──> requests, reports
//! ```
//! | module | what |
//! |---|---|
//! | [`session`] | lines one after the other, on the image that is open |
//! | [`table`] | the commands: names, what they take |
//! | [`lines`] | standard input |
//! | [`words`], [`number`] | a line taken apart |
//! | [`transfer`], [`look`], [`opening`], [`control`] | what commands do |
//! | [`image`], [`flight`] | the open image and its users; requests that nobody waits for |
//! | [`mod@print`] | what is printed |
//!
//! Standard output and exit status are those of release 10.0 of the C tool, but for figures of time and our own words about
//! commands and options; texts of errors on standard error are ours.

mod control;
mod flight;
mod image;
mod lines;
mod look;
mod number;
mod opening;
mod print;
mod session;
mod table;
mod transfer;
mod words;

use std::ffi::{OsStr, OsString};

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::request::Source;

use self::image::Wish;
use self::lines::Lines;
use self::opening::{Manner, open_wish, parse_options};
use self::print::print;
use self::session::{Fault, Session};
use crate::args::getopt::{Flag, Getopt};
use crate::console;
use crate::tool::object::{Secrets, help_in};
use crate::tool::{self, Load, Start, Tool};

/// Exit status of a program with a command that failed.
const FAILED: u8 = 1;
/// The release of the C tools whose output this is.
const RELEASE: &str = "10.0.0";

const HELP: &str = "\
Makes requests to a disk image, one by one, as qemu-io of release 10.0 does.

  [OPTION...] [-c COMMAND]... [IMAGE]

  -c, --cmd COMMAND       a command; without any, they are read from standard input
  -f, --format FORMAT     raw or qcow2; without it, the first bytes decide
      --image-opts        IMAGE is a list of options: driver=qcow2,file.filename=PATH
  -r, --read-only         nothing is written to the image
  -s, --snapshot          what is written goes to a temporary overlay
  -C, --copy-on-read      keep in the image what is read from its backing images
  -n, --nocache           past the page cache of the host: -t none
  -t, --cache MODE        none, writeback, writethrough, directsync or unsafe
  -d, --discard MODE      what becomes of discards: ignore or unmap (unmap)
  -i, --aio MODE          how requests reach the kernel: threads, native or io_uring
  -k, --native-aio        -i native
  -m, --misalign          taken and ignored: any memory will do
  -U, --force-share       read an image that somebody else writes to
      --object OBJECT     a secret: secret,id=NAME,data=TEXT
  -T, --trace EVENTS      taken and ignored
  -h, --help              this text
  -V, --version           the version

The command 'help' names the commands, and 'help COMMAND' describes one.
";

const FLAGS: &[Flag] = &[
    Flag::switch(Some('h'), "help"),
    Flag::switch(Some('V'), "version"),
    Flag::value(Some('c'), "cmd"),
    Flag::value(Some('f'), "format"),
    Flag::switch(Some('r'), "read-only"),
    Flag::switch(Some('s'), "snapshot"),
    Flag::switch(Some('n'), "nocache"),
    Flag::switch(Some('C'), "copy-on-read"),
    Flag::switch(Some('m'), "misalign"),
    Flag::switch(Some('k'), "native-aio"),
    Flag::value(Some('i'), "aio"),
    Flag::value(Some('t'), "cache"),
    Flag::value(Some('d'), "discard"),
    Flag::value(Some('T'), "trace"),
    Flag::switch(Some('U'), "force-share"),
    Flag::value(None, "object"),
    Flag::switch(None, "image-opts"),
];

/// What the command line says.
#[derive(Debug, Default)]
struct Args {
    commands: Vec<String>,
    manner: Manner,
    format: Option<String>,
    is_options: bool,
    image: Option<OsString>,
}

/// What comes of reading it.
enum Read {
    Args(Args),
    /// It was answered.
    Answered,
    /// It is not understood, and help is printed.
    Usage,
}

/// Runs the tool under the name that errors are to begin with; the exit status.
pub(crate) fn run(name: &'static str, args: Vec<OsString>) -> u8 {
    let complain = |error: &Error| {
        console::note(format_args!("{name}: {}", error.report()));
        FAILED
    };
    let args = match read(name, args) {
        Ok(Read::Args(args)) => args,
        Ok(Read::Answered) => return 0,
        Ok(Read::Usage) => {
            print(HELP);
            return FAILED;
        }
        Err(error) => match help_in(&error) {
            Some(help) => {
                print(help);
                return 0;
            }
            None => return complain(&error),
        },
    };
    let status = tool::run(Start { name, load: Load::Small }, async |tool| work(tool, name, args).await);
    status.unwrap_or_else(|error| complain(&error))
}

fn read(name: &'static str, args: Vec<OsString>) -> Result<Read> {
    let mut getopt = Getopt::new(FLAGS, args);
    let (mut read, mut secrets) = (Args::default(), Secrets::default());
    loop {
        let (option, value) = match getopt.next_option() {
            Ok(Some(given)) => given,
            Ok(None) => break,
            Err(error) => {
                console::note(format_args!("{name}: {error}"));
                return Ok(Read::Usage);
            }
        };
        match option {
            "help" => {
                print(HELP);
                return Ok(Read::Answered);
            }
            "version" => {
                print(&version(name));
                return Ok(Read::Answered);
            }
            "cmd" => read.commands.push(text(&value)?.to_owned()),
            "format" => read.format = Some(text(&value)?.to_owned()),
            "object" => secrets.define(&value)?,
            "image-opts" => read.is_options = true,
            "misalign" | "trace" => {}
            _ => read.manner.set(letter(option), text(&value)?)?,
        }
    }
    let mut free = getopt.into_free();
    if free.len() > 1 {
        return Ok(Read::Usage);
    }
    read.image = free.pop();
    if read.is_options && read.format.is_some() {
        let text = "--image-opts and --format exclude each other";
        return Err(Error::new(Kind::InvalidInput, text));
    }
    Ok(Read::Args(read))
}

/// The letter that the command `open` has for an option.
fn letter(option: &str) -> char {
    FLAGS.iter().find(|flag| flag.long == option).and_then(|flag| flag.short).unwrap_or(' ')
}

fn version(name: &str) -> String {
    format!("{name} version {RELEASE} (drystone {})\n", env!("CARGO_PKG_VERSION"))
}

fn text(value: &OsStr) -> Result<&str> {
    value.to_str().ok_or_else(|| {
        Error::new(Kind::InvalidInput, format!("the argument '{}' is no valid text", value.display()))
    })
}

impl Args {
    /// What is to be opened before the first command.
    fn wish(&self, user: &'static str) -> Result<Option<Wish>> {
        let Some(image) = &self.image else { return Ok(None) };
        let source = if self.is_options {
            Source::Options(parse_options(text(image)?)?)
        } else {
            Source::Name(image.clone())
        };
        Ok(Some(self.manner.wish(source, self.format.clone(), user)))
    }
}

async fn work(tool: &Tool, name: &'static str, args: Args) -> Result<u8> {
    let mut session = Session::new(tool, name, args.is_options);
    if let Some(wish) = args.wish(name)?
        && let Err(Fault::Complain(text)) = open_wish(&mut session, wish).await
    {
        session.complain(&text);
        return Ok(FAILED);
    }
    if args.commands.is_empty() {
        read_commands(&mut session).await?;
    } else {
        for line in &args.commands {
            session.run(line).await;
            if session.is_over {
                break;
            }
        }
    }
    if let Err(Fault::Complain(text)) = opening::close(&mut session).await {
        session.complain(&text);
    }
    if let Some(text) = session.flights.take_end() {
        session.end(&text);
    }
    Ok(if session.is_good() { 0 } else { FAILED })
}

/// Runs lines of standard input as they come.
async fn read_commands(session: &mut Session<'_>) -> Result<()> {
    let mut lines = Lines::take(session.tool.lane())?;
    while !session.is_over {
        print("qemu-io> ");
        match lines.next().await? {
            Some(line) => session.run(&line).await,
            None => break,
        }
    }
    Ok(())
}
