//! The command line, taken apart: which options there are, in the order in which they were given.
//!
//! ```text
//!   --blockdev VALUE   --blockdev=VALUE   --block VALUE      long options, also by a beginning that only one has
//!   -T VALUE   -TVALUE   -hV                                 short ones
//! ```
//! `--help` and `--version` count where they stand: what is malformed in front of them is an error, what is wrong with
//! the values of other options does not matter any more.

use std::ffi::OsString;

/// An option and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// Which.
    pub(crate) option: Opt,
    /// Its value; empty if it has none.
    pub(crate) value: String,
    /// As it was written, for messages.
    pub(crate) shown: String,
}

/// The options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opt {
    Blockdev,
    Chardev,
    Daemonize,
    Export,
    Help,
    Monitor,
    NbdServer,
    Object,
    Pidfile,
    Trace,
    Version,
}

/// Name, short name, whether there is a value.
const OPTIONS: [(Opt, &str, Option<char>, bool); 11] = [
    (Opt::Blockdev, "blockdev", None, true),
    (Opt::Chardev, "chardev", None, true),
    (Opt::Daemonize, "daemonize", None, false),
    (Opt::Export, "export", None, true),
    (Opt::Help, "help", Some('h'), false),
    (Opt::Monitor, "monitor", None, true),
    (Opt::NbdServer, "nbd-server", None, true),
    (Opt::Object, "object", None, true),
    (Opt::Pidfile, "pidfile", None, true),
    (Opt::Trace, "trace", Some('T'), true),
    (Opt::Version, "version", Some('V'), false),
];

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// How to use it.
    Help,
    /// Who it is.
    Version,
    /// To run.
    Run(Vec<Given>),
}

/// Takes the arguments apart.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn parse(args: Vec<OsString>) -> Result<Asked, String> {
    let mut words = Vec::new();
    for arg in args {
        words.push(arg.into_string().map_err(|arg| format!("'{}' is no valid text", arg.display()))?);
    }
    let mut words = words.into_iter();
    let (mut given, mut stray) = (Vec::new(), None);
    while let Some(word) = words.next() {
        if word == "--" {
            stray = stray.or_else(|| words.next());
            break;
        }
        let found = match word.strip_prefix("--") {
            Some(long) => vec![parse_long(long, &mut words)?],
            None if word.len() > 1 && word.starts_with('-') => parse_short(&word, &mut words)?,
            None => {
                stray.get_or_insert(word);
                continue;
            }
        };
        for option in found {
            match option.option {
                Opt::Help => return Ok(Asked::Help),
                Opt::Version => return Ok(Asked::Version),
                _ => given.push(option),
            }
        }
    }
    match stray {
        Some(stray) => Err(format!("{stray}: unexpected argument")),
        None => Ok(Asked::Run(given)),
    }
}

fn parse_long(long: &str, words: &mut impl Iterator<Item = String>) -> Result<Given, String> {
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (long, None),
    };
    let exact = OPTIONS.iter().find(|(_, known, ..)| *known == name);
    let begin: Vec<_> = OPTIONS.iter().filter(|(_, known, ..)| known.starts_with(name)).collect();
    let (option, known, _, takes_value) = match (exact, &begin[..]) {
        (Some(exact), _) => exact,
        (None, [only]) => only,
        (None, []) => return Err(format!("unrecognized option '--{name}'")),
        (None, _) => return Err(format!("option '--{name}' is ambiguous")),
    };
    if !takes_value && value.is_some() {
        return Err(format!("option '--{known}' doesn't allow an argument"));
    }
    if !takes_value || value.is_some() {
        let value = value.unwrap_or_default();
        return Ok(Given { option: *option, value, shown: format!("--{long}") });
    }
    let value = words.next().ok_or_else(|| format!("option '--{known}' requires an argument"))?;
    let shown = format!("--{long} {value}");
    Ok(Given { option: *option, value, shown })
}

fn parse_short(word: &str, words: &mut impl Iterator<Item = String>) -> Result<Vec<Given>, String> {
    let mut found = Vec::new();
    let mut letters = word.chars().skip(1);
    while let Some(letter) = letters.next() {
        let known = OPTIONS.iter().find(|(_, _, short, _)| *short == Some(letter));
        let (option, _, _, takes_value) = known.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
        let mut value = String::new();
        if *takes_value {
            value = letters.by_ref().collect();
            if value.is_empty() {
                let text = || format!("option requires an argument -- '{letter}'");
                value = words.next().ok_or_else(text)?;
            }
        }
        found.push(Given { option: *option, shown: format!("-{letter}{value}"), value });
    }
    Ok(found)
}

/// What `--help` prints.
pub(crate) fn help(name: &str) -> String {
    format!(
        "Usage: {name} [options]
Drystone storage daemon

  -h, --help             display this help and exit
  -T, --trace [[enable=]<pattern>][,events=<file>][,file=<file>]
                         taken for compatibility; there is nothing to trace
  -V, --version          output version information and exit

  --blockdev [driver=]<driver>[,node-name=<N>][,discard=ignore|unmap]
             [,cache.direct=on|off][,cache.no-flush=on|off]
             [,read-only=on|off][,auto-read-only=on|off]
             [,force-share=on|off][,detect-zeroes=on|off|unmap]
             [,driver specific parameters...]
                         open a node of the block graph

  --chardev stdio,id=<id>
  --chardev socket,id=<id>,path=<path>[,server=on|off][,wait=on|off]
  --chardev socket,id=<id>,host=<host>,port=<port>[,server=on|off][,wait=on|off]
                         where the clients of a monitor come from

  --daemonize            go into the background when everything is set up

  --export [type=]nbd,id=<id>,node-name=<node-name>[,name=<export-name>]
           [,writable=on|off][,iothread=<id>]
                         serve a node over NBD (needs --nbd-server)

  --monitor [chardev=]name[,mode=control][,pretty[=on|off]]
                         serve QMP to the clients of a --chardev

  --nbd-server addr.type=inet,addr.host=<host>,addr.port=<port>
               [,max-connections=<n>]
  --nbd-server addr.type=unix,addr.path=<path>[,max-connections=<n>]
                         start an NBD server

  --object help          list the types of objects
  --object <type>,help   list the properties of a type
  --object <type>,id=<id>[,<property>=<value>...]
                         make an object

  --pidfile <path>       write the process number to a file after the start
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Vec<(Opt, String)>, String> {
        match parse(line.split_whitespace().map(OsString::from).collect())? {
            Asked::Run(given) => Ok(given.into_iter().map(|given| (given.option, given.value)).collect()),
            Asked::Help => Err("help".into()),
            Asked::Version => Err("version".into()),
        }
    }

    #[test]
    fn options_keep_their_order() {
        let given = of("--export a --blockdev=b --daemonize --block c -Td -T e --").unwrap();
        let text: Vec<String> =
            given.into_iter().map(|(option, value)| format!("{option:?}:{value}")).collect();
        assert_eq!(text.join(" "), "Export:a Blockdev:b Daemonize: Blockdev:c Trace:d Trace:e");
    }

    #[test]
    fn help_and_version_end_it() {
        assert_eq!(of("--blockdev nonsense -V --frob"), Err("version".into()));
        assert_eq!(of("-h"), Err("help".into()));
        assert_eq!(of("x --hel"), Err("help".into()));
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (line, text) in [
            ("--frob -V", "unrecognized option '--frob'"),
            ("-x", "invalid option -- 'x'"),
            ("--blockdev", "option '--blockdev' requires an argument"),
            ("-T", "option requires an argument -- 'T'"),
            ("--daemonize=x", "option '--daemonize' doesn't allow an argument"),
            ("foo --blockdev a", "foo: unexpected argument"),
            ("-- foo", "foo: unexpected argument"),
        ] {
            assert_eq!(of(line), Err(text.to_owned()), "{line}");
        }
        assert!(of("--").unwrap().is_empty());
    }
}
