//! Man pages in roff: what a tool says about itself, and sections that are written by hand (`dist/man/TOOL.roff`).

use std::fmt::Write;

use super::help::{Entry, Page};
use super::tools::{Drystone, Tool};

/// What all pages say of themselves.
#[derive(Debug)]
pub(crate) struct Edition<'a> {
    pub(crate) version: &'a str,
    /// The day of the last change, `2025-04-22`.
    pub(crate) day: &'a str,
}

/// What a page is called, and what is in it.
#[derive(Debug)]
pub(crate) struct Manual {
    /// `drystone-img.1`.
    pub(crate) file: String,
    pub(crate) text: String,
}

/// The page of the binary.
pub(crate) fn of_drystone(drystone: &Drystone, edition: &Edition<'_>, by_hand: &str) -> Manual {
    let mut text = head("drystone", "virtual disks: served, stacked, copied and rearranged", edition);
    synopsis(&mut text, "drystone", &drystone.page);
    section(&mut text, "DESCRIPTION");
    paragraphs(&mut text, &drystone.page.about);
    section(&mut text, "COMMANDS");
    for tool in &drystone.tools {
        let alias = tool.alias().map(|alias| format!(" Called {alias}, the program is this tool."));
        let about = format!("{}.{} See drystone-{}(1).", tool.line, alias.unwrap_or_default(), tool.name);
        tagged(&mut text, &bold(&tool.name), &about);
    }
    options(&mut text, "OPTIONS", &drystone.page.options);
    text.push_str(by_hand);
    let pages = drystone.tools.iter().map(|tool| format!("drystone-{}", tool.name));
    see_also(&mut text, pages);
    Manual { file: "drystone.1".to_owned(), text: tidied(&text) }
}

/// The page of a tool.
pub(crate) fn of_tool(tool: &Tool, edition: &Edition<'_>, by_hand: &str) -> Manual {
    let name = format!("drystone-{}", tool.name);
    let names = tool.alias().map_or(name.clone(), |alias| format!("{name}, {alias}"));
    let mut text = head(&names, &tool.line, edition);
    synopsis(&mut text, &format!("drystone {}", tool.name), &tool.page);
    section(&mut text, "DESCRIPTION");
    paragraphs(&mut text, &tool.page.about);
    options(&mut text, "OPTIONS", &tool.page.options);
    paragraphs(&mut text, &tool.page.notes);
    if !tool.commands.is_empty() {
        section(&mut text, "COMMANDS");
    }
    for (command, page) in &tool.commands {
        command_of(&mut text, command, page);
    }
    text.push_str(by_hand);
    see_also(&mut text, std::iter::once("drystone".to_owned()));
    Manual { file: format!("{name}.1"), text: tidied(&text) }
}

/// Without requests for a new paragraph where there is one already.
fn tidied(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    let mut is_fresh = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if is_fresh && line == ".PP" {
            continue;
        }
        is_fresh = line.starts_with(".SH") || line.starts_with(".SS");
        tidied.push_str(line);
        tidied.push('\n');
    }
    tidied
}

fn command_of(text: &mut String, command: &str, page: &Page) {
    let _ = writeln!(text, ".SS {}", quoted(command));
    for line in &page.synopsis {
        let _ = writeln!(text, ".PP\n\\fB{}\\fR", escaped(line));
    }
    paragraphs(text, &page.about);
    for entry in &page.options {
        entry_of(text, entry);
    }
    paragraphs(text, &page.notes);
}

fn head(names: &str, line: &str, Edition { version, day }: &Edition<'_>) -> String {
    let first = names.split(',').next().unwrap_or(names).to_uppercase();
    format!(
        ".TH {} 1 \"{}\" {} \"User Commands\"\n.nh\n.ad l\n.SH NAME\n{} \\- {}\n",
        quoted(&first),
        day,
        quoted(&format!("drystone {version}")),
        escaped(names),
        escaped(line)
    )
}

fn section(text: &mut String, title: &str) {
    let _ = writeln!(text, ".SH {}", quoted(title));
}

fn synopsis(text: &mut String, name: &str, page: &Page) {
    section(text, "SYNOPSIS");
    for line in &page.synopsis {
        let line = line.strip_prefix(name).unwrap_or(line).trim();
        let _ = writeln!(text, ".PP\n{} {}", bold(name), escaped(line));
    }
}

fn options(text: &mut String, title: &str, entries: &[Entry]) {
    if !entries.is_empty() {
        section(text, title);
    }
    for entry in entries {
        entry_of(text, entry);
    }
}

fn entry_of(text: &mut String, entry: &Entry) {
    let flags: Vec<String> = entry.flags.iter().map(|flag| bold(flag)).collect();
    let value = if entry.value.is_empty() || is_joined(&entry.value) { "" } else { " " };
    let tag = format!("{}{value}{}", flags.join(", "), breakable(&entry.value));
    tagged(text, &tag, &entry.text);
}

/// Whether a value follows its option without a space: `=FILE`, `[=FILE]`.
fn is_joined(value: &str) -> bool {
    value.starts_with(['=']) || value.starts_with("[=")
}

/// A long value, with places where a line may end.
fn breakable(value: &str) -> String {
    escaped(value).replace("[,", "\\:[,").replace("],", "],\\:")
}

fn tagged(text: &mut String, tag: &str, about: &str) {
    let _ = writeln!(text, ".TP\n{tag}\n{}", escaped(about));
}

fn paragraphs(text: &mut String, paragraphs: &[String]) {
    for paragraph in paragraphs {
        let _ = writeln!(text, ".PP\n{}", escaped(paragraph));
    }
}

fn see_also(text: &mut String, pages: impl Iterator<Item = String>) {
    section(text, "SEE ALSO");
    let pages: Vec<String> = pages.map(|page| format!("{}(1)", bold(&page))).collect();
    let _ = writeln!(text, "{}", pages.join(",\n"));
}

fn bold(word: &str) -> String {
    format!("\\fB{}\\fR", escaped(word))
}

fn quoted(word: &str) -> String {
    format!("\"{}\"", escaped(word).replace('"', "\\(dq"))
}

/// Text that roff leaves as it is.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_roff_would_take_for_a_request_is_escaped() {
        assert_eq!(escaped(".cfg and -x and \\"), "\\&.cfg and \\-x and \\e");
    }

    #[test]
    fn a_tool_has_its_options_and_commands() {
        let page =
            super::super::help::parse("Makes.\n\n  create [OPTION...] FILE\n\n  -f, --format FORMAT  raw\n");
        let mut tool_page =
            super::super::help::parse("All.\n\n  COMMAND\n\n  create  makes one\n\n  -h, --help  this\n");
        tool_page.notes.push("Formats: raw".into());
        let tool = Tool {
            name: "img".into(),
            line: "Images".into(),
            page: tool_page,
            commands: vec![("create".into(), page)],
        };
        let manual = of_tool(&tool, &Edition { version: "1.0", day: "2025-04-22" }, ".SH EXAMPLES\n");
        assert_eq!(manual.file, "drystone-img.1");
        for part in [
            "drystone\\-img, qemu\\-img \\- Images",
            ".TH \"DRYSTONE\\-IMG\" 1 \"2025-04-22\" \"drystone 1.0\"",
            ".SS \"create\"\n\\fBcreate",
            "\\fB\\-f\\fR, \\fB\\-\\-format\\fR FORMAT\nraw",
            ".SH EXAMPLES",
            "Formats: raw",
        ] {
            assert!(manual.text.contains(part), "{part} is not in\n{}", manual.text);
        }
    }
}
