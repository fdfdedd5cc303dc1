//! [`Session`]: commands one after the other, on the image that is open.
//!
//! | a command | prints | status |
//! |---|---|---|
//! | is not known, has the wrong number of words, cannot begin | a line to standard error | 1 |
//! | has options or numbers without a meaning, or its request fails | a line to standard output | 1 |
//! | waits for nobody (`aio_*`) | when it is done, or has failed | 0 |
//!
//! Later commands run all the same; the status of the program is 1 if one of them failed.

use drystone_base::{Error, Kind};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::lane::Lane;
use drystone_filter::blkverify::Mismatch;

use super::flight::Flights;
use super::image::Image;
use super::print::{errno_text, print};
use super::table::{self, Command, Needs, Verb};
use super::words::{Words, split};
use super::{control, look, opening, transfer};
use crate::console;
use crate::tool::Tool;

/// Why a command failed.
pub(super) enum Fault {
    /// A line to standard output.
    Print(String),
    /// Its usage, to standard output.
    Usage,
    /// A line to standard error.
    Complain(String),
    /// A line to standard error as it is, and the end.
    End(String),
    /// It has told already, or there is nothing to tell.
    Silent,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Complain(error.report())
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::Print(text)
    }
}

impl Fault {
    /// A request that failed. One that has shown that two disks differ which must not is the last.
    pub(super) fn request(what: &str, error: &Error) -> Self {
        if let Some(mismatch) = Mismatch::of(error) {
            return Self::End(format!("blkverify: {mismatch}"));
        }
        Self::Print(format!("{what} failed: {}\n", errno_text(errno(error))))
    }
}

/// The errno of a request, as the C tool has it: what leaves the disk is an error of input and output, what leaves the format is
/// too large a file.
pub(super) fn errno(error: &Error) -> i32 {
    const EIO: i32 = 5;
    const EFBIG: i32 = 27;
    match error.kind() {
        Kind::OutOfRange => EIO,
        Kind::TooLarge => EFBIG,
        _ => error.errno(),
    }
}

/// The tool while it runs.
pub(super) struct Session<'t> {
    pub(super) tool: &'t Tool,
    name: &'static str,
    pub(super) image: Option<Image>,
    pub(super) lane: Lane,
    pub(super) flights: Flights,
    /// `--image-opts`: what is opened is a list of options.
    pub(super) opens_options: bool,
    /// `quit` was said.
    pub(super) is_over: bool,
    has_failed: bool,
}

impl<'t> Session<'t> {
    /// Nothing is open. `name` is what the program was called.
    pub(super) fn new(tool: &'t Tool, name: &'static str, opens_options: bool) -> Self {
        let (image, lane, flights) = (None, tool.lane(), Flights::default());
        Self { tool, name, image, lane, flights, opens_options, is_over: false, has_failed: false }
    }

    /// The name of users of the graph, for reports.
    pub(super) fn user(&self) -> &'static str {
        self.name
    }

    /// Whether every command worked.
    pub(super) fn is_good(&self) -> bool {
        !self.has_failed
    }

    /// Runs one line.
    pub(super) async fn run(&mut self, line: &str) {
        let words = split(line);
        let Some((called, words)) = words.split_first() else { return };
        let Some(command) = table::find(called) else {
            self.complain(&format!("command \"{called}\" not found"));
            return;
        };
        let done = self.command(command, called, words).await;
        self.conclude(command, done);
        if let Some(text) = self.flights.take_end() {
            self.conclude(command, Err(Fault::End(text)));
        }
    }

    /// Tells what became of a command.
    fn conclude(&mut self, command: &Command, done: Result<(), Fault>) {
        match done {
            Ok(()) => {}
            Err(Fault::Print(text)) => {
                print(&text);
                self.has_failed = true;
            }
            Err(Fault::Usage) => {
                print(&command.line());
                self.has_failed = true;
            }
            Err(Fault::Complain(text)) => self.complain(&text),
            Err(Fault::End(text)) => self.end(&text),
            Err(Fault::Silent) => self.has_failed = true,
        }
    }

    /// Prints to standard error, behind the program's name; the program has failed.
    pub(super) fn complain(&mut self, text: &str) {
        console::note(format_args!("{}: {text}", self.name));
        self.has_failed = true;
    }

    /// Prints to standard error, and runs no more commands; the program has failed.
    pub(super) fn end(&mut self, text: &str) {
        console::note(text);
        (self.has_failed, self.is_over) = (true, true);
    }

    async fn command(&mut self, command: &Command, called: &str, words: &[String]) -> Result<(), Fault> {
        if command.needs != Needs::Nothing && self.image.is_none() {
            return Err(Fault::Complain("no file open, try 'help open'".into()));
        }
        if let Some(refusal) = command.refuse_count(called, words.len()) {
            return Err(Fault::Complain(refusal));
        }
        if let Some(image) = self.image.as_mut() {
            image.allow(self.tool, command.needs).await?;
        }
        let words = if command.letters.is_empty() {
            Words::plain(words)
        } else {
            Words::parse(command.letters, words).map_err(|error| {
                self.complain(&format!("{called}: {error}"));
                Fault::Usage
            })?
        };
        self.dispatch(command, words).await
    }

    async fn dispatch(&mut self, command: &Command, words: Words) -> Result<(), Fault> {
        match command.verb {
            Verb::Read => transfer::read(self, &words).await,
            Verb::Readv => transfer::readv(self, &words).await,
            Verb::Write => transfer::write(self, &words).await,
            Verb::Writev => transfer::writev(self, &words).await,
            Verb::AioRead => transfer::aio_read(self, &words).await,
            Verb::AioWrite => transfer::aio_write(self, &words).await,
            Verb::Discard => transfer::discard(self, &words).await,
            Verb::AioFlush => self.settle().await,
            Verb::Flush => look::flush(self).await,
            Verb::Truncate => look::truncate(self, &words).await,
            Verb::Length => look::length(self).await,
            Verb::Info => look::info(self).await,
            Verb::Map => look::map(self).await,
            Verb::Alloc => look::alloc(self, &words.free).await,
            Verb::Open => opening::open(self, &words).await,
            Verb::Close => opening::close(self).await,
            Verb::Reopen => opening::reopen(self, &words).await,
            Verb::Help => help(&words.free),
            Verb::Quit => {
                self.is_over = true;
                Ok(())
            }
            Verb::Abort => control::abort(),
            Verb::Sigraise => control::sigraise(&words.free),
            Verb::Sleep => control::sleep(self, &words.free).await,
            Verb::Break | Verb::Resume | Verb::RemoveBreak | Verb::WaitBreak => {
                control::breakpoint(self, command.verb, &words.free).await
            }
            Verb::ZoneAppend | Verb::ZoneManage | Verb::ZoneReport => control::zone(command, &words.free),
        }
    }

    /// The image; a command that needs one is not run without.
    pub(super) fn image(&self) -> Result<&Image, Fault> {
        self.image.as_ref().ok_or_else(|| Fault::Complain("no file open, try 'help open'".into()))
    }

    /// The user that writes; a command that needs one is not run without.
    pub(super) fn writer(&self) -> Result<Backend<ReadWrite>, Fault> {
        self.image()?.writer().ok_or_else(|| Fault::Complain("the image is not open for writing".into()))
    }

    /// Waits for all requests in flight. What a breakpoint holds goes on.
    pub(super) async fn settle(&mut self) -> Result<(), Fault> {
        if let Some(image) = &self.image {
            image.drain(self.tool).await?;
        }
        self.flights.land().await;
        Ok(())
    }
}

fn help(words: &[String]) -> Result<(), Fault> {
    let Some(name) = words.first() else {
        print(&table::all());
        return Ok(());
    };
    let command = table::find(name).ok_or_else(|| format!("command {name} not found\n"))?;
    print(&command.description(name));
    Ok(())
}
