//! What a program says about itself when it is asked for help, taken apart: man pages and completions are made of it, so
//! that they cannot say anything else.
//!
//! ```text
//!   about            lines before the first blank one
//!   synopsis         "  create [OPTION...] FILE [SIZE]", "Usage: drystone serve ..."
//!   commands         "  check     checks the consistency of an image"
//!   options          "  -f, --format FORMAT   raw or qcow2", and deeper lines behind it
//!   notes            everything else
//! ```

/// One option, or several that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    /// `-f`, `--format`.
    pub(crate) flags: Vec<String>,
    /// What follows it, as it is written: `FORMAT`, `[driver=]<driver>`.
    pub(crate) value: String,
    /// What it does.
    pub(crate) text: String,
}

/// The help of a program or of one of its commands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Page {
    /// What it does, a paragraph each.
    pub(crate) about: Vec<String>,
    /// How it is called.
    pub(crate) synopsis: Vec<String>,
    /// Its commands: name and what they do.
    pub(crate) commands: Vec<(String, String)>,
    /// Its options.
    pub(crate) options: Vec<Entry>,
    /// What else is said, a paragraph each.
    pub(crate) notes: Vec<String>,
}

/// How far options are at most indented; what lies deeper goes on with the option above.
const OPTION_INDENT_MAX: usize = 8;
/// Headings that say nothing to a reader of a man page.
const HEADINGS: [&str; 3] = ["Commands:", "Options:", "Arguments:"];

/// What the lines below are about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Option,
    Command,
    Paragraph,
}

/// Takes a help text apart.
pub(crate) fn parse(text: &str) -> Page {
    let mut page = Page::default();
    let column = text_column(text);
    let mut last = Last::Nothing;
    for line in text.lines() {
        let (indent, words) = (line.len() - line.trim_start().len(), line.trim());
        last = match words {
            "" if last == Last::Option => Last::Option,
            "" => Last::Nothing,
            _ if HEADINGS.contains(&words) => Last::Nothing,
            _ if is_option(words) && indent <= OPTION_INDENT_MAX => {
                page.options.push(option(line, column));
                Last::Option
            }
            _ if last == Last::Option && indent > 2 => {
                go_on(page.options.last_mut(), words);
                Last::Option
            }
            _ if last == Last::Command && indent > 2 => {
                if let Some((_, text)) = page.commands.last_mut() {
                    join(text, words);
                }
                Last::Command
            }
            _ => plain(&mut page, (indent, words), last),
        };
    }
    page
}

/// Whether a line tells of an option. One that only leads to others (`-L [OPTION...]`) is a way to call the program.
fn is_option(words: &str) -> bool {
    words.starts_with('-') && !words.starts_with("- ") && !words.ends_with("[OPTION...]")
}

/// A line that belongs to no option.
fn plain(page: &mut Page, (indent, words): (usize, &str), last: Last) -> Last {
    if let Some(usage) = words.strip_prefix("Usage: ") {
        page.synopsis.push(usage.to_owned());
        return Last::Nothing;
    }
    if indent == 2
        && let Some((name, text)) = words.split_once("  ")
        && !name.contains(' ')
    {
        page.commands.push((name.to_owned(), text.trim().to_owned()));
        return Last::Command;
    }
    if indent == 2 && page.options.is_empty() && page.commands.is_empty() {
        page.synopsis.push(words.to_owned());
        return Last::Nothing;
    }
    let is_about = page.options.is_empty() && page.commands.is_empty();
    let paragraphs = if is_about { &mut page.about } else { &mut page.notes };
    match paragraphs.last_mut().filter(|_| last == Last::Paragraph) {
        Some(paragraph) => join(paragraph, words),
        None => paragraphs.push(words.to_owned()),
    }
    Last::Paragraph
}

/// Where in its line most options' text begins.
fn text_column(text: &str) -> Option<usize> {
    let mut columns: Vec<usize> = Vec::new();
    for line in text.lines().filter(|line| line.trim_start().starts_with('-')) {
        let indent = line.len() - line.trim_start().len();
        let Some(gap) = line.get(indent..).and_then(|words| words.find("  ")) else { continue };
        let behind = line.get(indent + gap..).unwrap_or_default();
        columns.push(indent + gap + behind.len() - behind.trim_start().len());
    }
    columns.iter().copied().max_by_key(|column| columns.iter().filter(|other| *other == column).count())
}

/// `-f, --format FORMAT   what it does`; a long value may leave a single space.
fn option(line: &str, column: Option<usize>) -> Entry {
    let words = line.trim();
    let at_column = || {
        let (head, text) = line.split_at_checked(column?)?;
        head.ends_with(' ').then_some((head.trim(), text))
    };
    let (head, text) = words.split_once("  ").or_else(at_column).unwrap_or((words, ""));
    let mut entry = Entry { text: text.trim().to_owned(), ..Entry::default() };
    let mut rest = head;
    while rest.starts_with('-') {
        let end = rest.find([' ', ',', '=', '[']).unwrap_or(rest.len());
        let (flag, behind) = rest.split_at(end);
        entry.flags.push(flag.to_owned());
        rest = behind.strip_prefix(", ").unwrap_or(behind);
    }
    entry.value = rest.trim().to_owned();
    entry
}

/// A line below an option: more of its value, as long as nothing was said of it yet, or of its text.
fn go_on(entry: Option<&mut Entry>, words: &str) {
    let Some(entry) = entry else { return };
    if entry.text.is_empty() && words.starts_with('[') {
        entry.value.push_str(words);
    } else {
        join(&mut entry.text, words);
    }
}

fn join(text: &mut String, words: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(words);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_flags_a_value_and_a_text() {
        let page = parse(
            "Makes one.\n\n  create [OPTION...] FILE\n\n  -f, --format FORMAT   raw or\n                        qcow2\n  -q, --quiet  says nothing\n      --object OBJECT   a secret\n\nSIZE is in bytes.\n",
        );
        assert_eq!(page.about, ["Makes one."]);
        assert_eq!(page.synopsis, ["create [OPTION...] FILE"]);
        let flags: Vec<_> = page.options.iter().map(|entry| entry.flags.join(" ")).collect();
        assert_eq!(flags, ["-f --format", "-q --quiet", "--object"]);
        let first = page.options.first().expect("there are three");
        assert_eq!((first.value.as_str(), first.text.as_str()), ("FORMAT", "raw or qcow2"));
        assert_eq!(page.notes, ["SIZE is in bytes."]);
    }

    #[test]
    fn an_option_that_leads_to_others_is_a_way_to_call_the_program() {
        let page = parse("Serves.\n\n  [OPTION...] IMAGE\n  -L [OPTION...]\n\n  -L, --list   lists\n");
        assert_eq!(page.synopsis, ["[OPTION...] IMAGE", "-L [OPTION...]"]);
        assert_eq!(page.options.len(), 1);
    }

    #[test]
    fn a_long_value_leaves_a_single_space() {
        let page = parse(
            "Makes.\n\n  -f FORMAT    raw\n  -q           quiet\n  -o KEY=VALUE options; `-o help` lists them\n",
        );
        let last = page.options.last().expect("there are three");
        assert_eq!((last.value.as_str(), last.text.as_str()), ("KEY=VALUE", "options; `-o help` lists them"));
    }

    #[test]
    fn a_value_may_go_on_in_the_next_line() {
        let page = parse(
            "Usage: x [options]\n\n  --blockdev [driver=]<driver>\n             [,read-only=on|off]\n        open a node\n",
        );
        let entry = page.options.first().expect("there is one");
        assert_eq!(entry.flags, ["--blockdev"]);
        assert_eq!(entry.value, "[driver=]<driver>[,read-only=on|off]");
        assert_eq!(entry.text, "open a node");
    }

    #[test]
    fn commands_are_words_with_a_text() {
        let page = parse(
            "Does all.\n\n  COMMAND [OPTION...]\n\n  check     checks an image\n  create    makes one\n\n  -h, --help  this text\n",
        );
        assert_eq!(page.commands.len(), 2);
        assert_eq!(page.commands.first(), Some(&("check".to_owned(), "checks an image".to_owned())));
        assert_eq!(page.options.len(), 1);
    }

    #[test]
    fn what_clap_prints_is_understood() {
        let page = parse(
            "Serves\n\nUsage: drystone serve [OPTIONS] <IMAGE>...\n\nArguments:\n  <IMAGE>...  Disk images\n\nOptions:\n      --format <raw|qcow2>  Format\n      --overlay[=<FILE>]    Overlay\n  -h, --help                Print help\n",
        );
        let flags: Vec<_> = page.options.iter().flat_map(|entry| entry.flags.clone()).collect();
        assert_eq!(flags, ["--format", "--overlay", "-h", "--help"]);
        assert_eq!(page.options.get(1).map(|entry| entry.value.as_str()), Some("[=<FILE>]"));
    }
}
