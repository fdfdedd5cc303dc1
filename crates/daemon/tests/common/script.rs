//! Scripts: what is made, how the daemon is started, and what is sent to it.
//!
//! ```text
//!   # a comment
//!   image qcow2 top.qcow2 1M base.qcow2 qcow2     makes an image (backing file and its format last)
//!   args --object iothread,id=t0                  further arguments
//!   {"execute": "query-version"}                  sends a command, waits for its reply
//!   send {"execute": "a"}{"execute": "b"}         sends text as it is ...
//!   replies 2                                     ... and waits for so many replies
//!   wait JOB_STATUS_CHANGE 3                      waits for so many more of these events
//!   status job0 concluded                         waits for JOB_STATUS_CHANGE of this job to this status
//!   nbd c1 open NAME                              a client enters an export at $DIR/nbd.sock
//!   nbd c1 write 0 65536 7                        ... writes bytes
//!   nbd c1 fail 0 65536 7                         ... is refused them
//!   nbd c1 close                                  ... goes
//!   eof                                           ends what is sent
//! ```
//! `$DIR` stands for the folder. Every script is led by `qmp_capabilities` and ended by `quit`, unless it says `bare`.

use super::folder::Image;

/// One step of a script.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Command(String),
    Send(String),
    Replies(usize),
    Wait { event: String, count: usize },
    Status { job: String, status: String },
    Nbd { client: String, verb: NbdVerb },
    Eof,
}

/// What a client of an export does.
#[derive(Debug, Clone)]
pub(crate) enum NbdVerb {
    Open(String),
    Write { at: u64, len: u32, byte: u8, fails: bool },
    Close,
}

/// A script.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) images: Vec<Image>,
    pub(crate) args: Vec<String>,
    pub(crate) steps: Vec<Step>,
}

impl Script {
    pub(crate) fn parse(text: &str) -> Self {
        let mut script = Self::default();
        let mut is_bare = false;
        for line in text.lines().map(str::trim) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let words: Vec<&str> = rest.split_whitespace().collect();
            match word {
                "" | "#" => {}
                "image" => script.images.push(image(&words)),
                "args" => script.args.extend(words.iter().map(|word| (*word).to_owned())),
                "bare" => is_bare = true,
                "send" => script.steps.push(Step::Send(rest.to_owned())),
                "replies" => script.steps.push(Step::Replies(rest.parse().unwrap())),
                "eof" => script.steps.push(Step::Eof),
                "wait" => script.steps.push(Step::Wait {
                    event: words[0].to_owned(),
                    count: words.get(1).map_or(1, |count| count.parse().unwrap()),
                }),
                "status" => {
                    script.steps.push(Step::Status { job: words[0].into(), status: words[1].into() });
                }
                "nbd" => {
                    script.steps.push(Step::Nbd { client: words[0].to_owned(), verb: nbd_verb(&words[1..]) });
                }
                _ if line.starts_with('{') => script.steps.push(Step::Command(line.to_owned())),
                _ => panic!("no such step: {line}"),
            }
        }
        if !is_bare {
            script.steps.insert(0, Step::Command(r#"{"execute": "qmp_capabilities"}"#.into()));
            script.steps.push(Step::Command(r#"{"execute": "quit"}"#.into()));
        }
        script
    }
}

fn image(words: &[&str]) -> Image {
    let backing = match words.get(3..).unwrap_or_default() {
        [] => None,
        [file, format] => Some(((*file).to_owned(), (*format).to_owned())),
        other => panic!("a backing file and its format, not {other:?}"),
    };
    let (number, unit) = words[2].split_at(words[2].trim_end_matches(char::is_alphabetic).len());
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        other => panic!("no such unit: {other}"),
    };
    let len_bytes = number.parse::<u64>().unwrap() * unit;
    Image { format: words[0].into(), file: words[1].into(), len_bytes, backing }
}

fn nbd_verb(words: &[&str]) -> NbdVerb {
    match words {
        ["open", name] => NbdVerb::Open((*name).to_owned()),
        [verb @ ("write" | "fail"), at, len, byte] => NbdVerb::Write {
            at: at.parse().unwrap(),
            len: len.parse().unwrap(),
            byte: byte.parse().unwrap(),
            fails: *verb == "fail",
        },
        ["close"] => NbdVerb::Close,
        other => panic!("no such verb: {other:?}"),
    }
}
