//! The commands: their names, what they take and need, and what `help` says of them.
//!
//! The names, letters and order are those of release 10.0 of the C tool; the descriptions are our own.

use std::fmt::Write as _;

/// What has to be there for a command to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needs {
    /// Nothing.
    Nothing,
    /// An open image.
    Image,
    /// An open image that can be written.
    Write,
    /// An open image that can be written and whose length can change.
    Resize,
}

/// Which command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Abort,
    AioFlush,
    AioRead,
    AioWrite,
    Alloc,
    Break,
    Close,
    Discard,
    Flush,
    Help,
    Info,
    Length,
    Map,
    Open,
    Quit,
    Read,
    Readv,
    RemoveBreak,
    Reopen,
    Resume,
    Sigraise,
    Sleep,
    Truncate,
    WaitBreak,
    Write,
    Writev,
    ZoneAppend,
    ZoneManage,
    ZoneReport,
}

/// A command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// A shorter name.
    alias: &'static str,
    pub(super) verb: Verb,
    pub(super) needs: Needs,
    /// How many words may follow, options among them.
    count: (usize, usize),
    /// Options, as for `getopt`.
    pub(super) letters: &'static str,
    arguments: &'static str,
    about: &'static str,
    /// What its options mean.
    details: &'static [&'static str],
}

/// No limit on the number of words.
const MANY: usize = usize::MAX;

const C: &str = "-C, -- report in one line of numbers";
const I: &str = "-i, -- count a request that is not valid, and make none";
const P_READ: &str = "-P, -- compare what is read with this byte";
const P_WRITE: &str = "-P, -- write this byte";
const Q: &str = "-q, -- do not report";
const R: &str = "-r, -- taken and ignored";
const V: &str = "-v, -- dump what was read";
const F: &str = "-f, -- on stable storage when it is done";
const U: &str = "-u, -- with -z, give the space back";

const fn plain(name: &'static str, alias: &'static str, verb: Verb, needs: Needs) -> Command {
    Command { name, alias, verb, needs, count: (0, 0), letters: "", arguments: "", about: "", details: &[] }
}

/// In the order of `help`.
pub(super) const COMMANDS: &[Command] = &[
    Command { about: "ends the program as a crash would", ..plain("abort", "", Verb::Abort, Needs::Nothing) },
    Command {
        about: "waits for all requests in flight",
        ..plain("aio_flush", "", Verb::AioFlush, Needs::Image)
    },
    Command {
        count: (2, MANY),
        letters: "CP:iqrv",
        arguments: "[-Ciqrv] [-P pattern] off len [len..]",
        about: "begins to read, and does not wait",
        details: &[C, I, P_READ, Q, R, V],
        ..plain("aio_read", "", Verb::AioRead, Needs::Image)
    },
    Command {
        count: (2, MANY),
        letters: "CfiP:qruz",
        arguments: "[-Cfiqruz] [-P pattern] off len [len..]",
        about: "begins to write, and does not wait",
        details: &[C, F, I, P_WRITE, Q, R, U, "-z, -- write zeroes without a buffer"],
        ..plain("aio_write", "", Verb::AioWrite, Needs::Write)
    },
    Command {
        count: (1, 2),
        arguments: "offset [count]",
        about: "counts the bytes of a range that the image has itself",
        ..plain("alloc", "a", Verb::Alloc, Needs::Image)
    },
    Command {
        count: (2, 2),
        arguments: "event tag",
        about: "holds the next request that comes to an event, under a name",
        ..plain("break", "", Verb::Break, Needs::Image)
    },
    Command { about: "closes the image", ..plain("close", "c", Verb::Close, Needs::Image) },
    Command {
        count: (2, MANY),
        letters: "Cq",
        arguments: "[-Cq] off len",
        about: "says that a range is not needed any more",
        details: &[C, Q],
        ..plain("discard", "d", Verb::Discard, Needs::Write)
    },
    Command {
        about: "brings what was written to stable storage",
        ..plain("flush", "f", Verb::Flush, Needs::Image)
    },
    Command {
        count: (0, 1),
        arguments: "[command]",
        about: "describes one command, or names all",
        ..plain("help", "?", Verb::Help, Needs::Nothing)
    },
    Command { about: "says what is known of the image", ..plain("info", "i", Verb::Info, Needs::Image) },
    Command { about: "prints the length of the disk", ..plain("length", "l", Verb::Length, Needs::Image) },
    Command {
        about: "prints which ranges the image has itself",
        ..plain("map", "", Verb::Map, Needs::Image)
    },
    Command {
        count: (1, MANY),
        letters: "snCro:ki:t:d:U",
        arguments: "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
        about: "opens an image",
        details: &[
            "-r, -- read-only",
            "-s, -- on a temporary overlay",
            "-C, -- keep in the image what is read from its backing images",
            "-n, -- past the page cache: -t none",
            "-U, -- whoever else uses it",
            "-k, -- with the kernel's own asynchronous requests: -i native",
            "-i, -- how requests reach the kernel: threads, native or io_uring",
            "-t, -- cache mode",
            "-d, -- what becomes of discards: ignore or unmap",
            "-o, -- options of the image: KEY=VALUE,...",
        ],
        ..plain("open", "o", Verb::Open, Needs::Nothing)
    },
    Command { count: (0, MANY), about: "ends the program", ..plain("quit", "q", Verb::Quit, Needs::Nothing) },
    Command {
        count: (2, MANY),
        letters: "bCl:pP:qrs:v",
        arguments: "[-abCqrv] [-P pattern [-s off] [-l len]] off len",
        about: "reads",
        details: &[
            "-b, -- from the state of the machine, behind the disk",
            C,
            "-l, -- with -P, compare so many bytes",
            "-p, -- taken and ignored",
            P_READ,
            Q,
            R,
            "-s, -- with -P, compare from here on",
            V,
        ],
        ..plain("read", "r", Verb::Read, Needs::Image)
    },
    Command {
        count: (2, MANY),
        letters: "CP:qrv",
        arguments: "[-Cqrv] [-P pattern] off len [len..]",
        about: "reads into several buffers",
        details: &[C, P_READ, Q, R, V],
        ..plain("readv", "", Verb::Readv, Needs::Image)
    },
    Command {
        count: (1, 1),
        arguments: "tag",
        about: "takes a breakpoint away, and lets what it holds go on",
        ..plain("remove_break", "", Verb::RemoveBreak, Needs::Image)
    },
    Command {
        count: (0, MANY),
        letters: "c:o:rw",
        arguments: "[(-r|-w)] [-c cache] [-o options]",
        about: "opens the image anew with other options",
        details: &[
            "-r, -- read-only",
            "-w, -- for writing",
            "-c, -- cache mode",
            "-o, -- options of the image: KEY=VALUE,...",
        ],
        ..plain("reopen", "", Verb::Reopen, Needs::Image)
    },
    Command {
        count: (1, 1),
        arguments: "tag",
        about: "lets a request that is held go on",
        ..plain("resume", "", Verb::Resume, Needs::Image)
    },
    Command {
        count: (1, 1),
        arguments: "signal",
        about: "sends a signal, by its number, to the program itself",
        ..plain("sigraise", "", Verb::Sigraise, Needs::Nothing)
    },
    Command {
        count: (1, 1),
        about: "waits so many milliseconds",
        ..plain("sleep", "", Verb::Sleep, Needs::Nothing)
    },
    Command {
        count: (1, 3),
        letters: "m:",
        arguments: "[-m prealloc_mode] off",
        about: "gives the disk another length",
        ..plain("truncate", "t", Verb::Truncate, Needs::Resize)
    },
    Command {
        count: (1, 1),
        arguments: "tag",
        about: "waits until a breakpoint holds a request",
        ..plain("wait_break", "", Verb::WaitBreak, Needs::Image)
    },
    Command {
        count: (2, MANY),
        letters: "bcCfnpP:qrs:uz",
        arguments: "[-bcCfnqruz] [-P pattern | -s source_file] off len",
        about: "writes",
        details: &[
            "-b, -- to the state of the machine, behind the disk",
            "-c, -- compressed",
            C,
            F,
            "-n, -- with -z, not by writing zero bytes",
            "-p, -- taken and ignored",
            P_WRITE,
            Q,
            R,
            "-s, -- write what is in this file, again and again",
            U,
            "-z, -- write zeroes without a buffer",
        ],
        ..plain("write", "w", Verb::Write, Needs::Write)
    },
    Command {
        count: (2, MANY),
        letters: "CfqrP:",
        arguments: "[-Cfqr] [-P pattern] off len [len..]",
        about: "writes from several buffers",
        details: &[C, F, P_WRITE, Q, R],
        ..plain("writev", "", Verb::Writev, Needs::Write)
    },
    Command {
        count: (3, 4),
        letters: "p",
        arguments: "offset len [len..]",
        about: "appends to a zone of a zoned device",
        ..plain("zone_append", "zap", Verb::ZoneAppend, Needs::Image)
    },
    Command { about: "closes zones", ..zone("zone_close", "zc") },
    Command { about: "finishes zones", ..zone("zone_finish", "zf") },
    Command { about: "opens zones", ..zone("zone_open", "zo") },
    Command {
        count: (2, 2),
        arguments: "offset number",
        about: "lists zones",
        ..plain("zone_report", "zrp", Verb::ZoneReport, Needs::Image)
    },
    Command { about: "empties zones", ..zone("zone_reset", "zrs") },
];

const fn zone(name: &'static str, alias: &'static str) -> Command {
    Command { count: (2, 2), arguments: "offset len", ..plain(name, alias, Verb::ZoneManage, Needs::Image) }
}

/// The command of that name, long or short.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name || (!name.is_empty() && command.alias == name))
}

impl Command {
    /// Why a command with so many words behind its name (`called`) cannot begin.
    pub(super) fn refuse_count(&self, called: &str, count: usize) -> Option<String> {
        let (least, most) = self.count;
        if (least..=most).contains(&count) {
            return None;
        }
        let expected = match (least, most) {
            (least, MANY) => format!("at least {least} arguments"),
            (least, most) if least == most => format!("{least} arguments"),
            (least, most) => format!("between {least} and {most} arguments"),
        };
        Some(format!("bad argument count {count} to {called}, expected {expected}"))
    }

    /// One line: what it takes and what it does.
    pub(super) fn line(&self) -> String {
        self.line_of(self.name)
    }

    fn line_of(&self, name: &str) -> String {
        // The C tool leaves room for the arguments of `map`, which has none.
        let space = if self.arguments.is_empty() && self.verb != Verb::Map { "" } else { " " };
        format!("{name}{space}{} -- {}\n", self.arguments, self.about)
    }

    /// All that is to be said of it, under the name by which it was asked for.
    pub(super) fn description(&self, name: &str) -> String {
        let mut text = self.line_of(name);
        if !self.details.is_empty() {
            text.push('\n');
        }
        for detail in self.details {
            // Writing to a String cannot fail.
            let _ = writeln!(text, " {detail}");
        }
        if !self.details.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// A line for each command.
pub(super) fn all() -> String {
    let lines: String = COMMANDS.iter().map(Command::line).collect();
    format!("{lines}\nUse 'help commandname' for extended help.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_no_name_is_given_twice() {
        assert!(COMMANDS.is_sorted_by_key(|command| command.name));
        let mut names: Vec<&str> =
            COMMANDS.iter().flat_map(|command| [command.name, command.alias]).collect();
        names.retain(|name| !name.is_empty());
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(find("w").unwrap().verb, Verb::Write);
        assert!(find("").is_none());
    }

    #[test]
    fn the_number_of_words_is_counted() {
        let refusal = |name: &str, count| find(name).unwrap().refuse_count(name, count);
        assert_eq!(
            refusal("read", 1).unwrap(),
            "bad argument count 1 to read, expected at least 2 arguments"
        );
        assert_eq!(refusal("t", 0).unwrap(), "bad argument count 0 to t, expected between 1 and 3 arguments");
        assert_eq!(refusal("map", 1).unwrap(), "bad argument count 1 to map, expected 0 arguments");
        assert_eq!(refusal("quit", 9), None);
    }
}
