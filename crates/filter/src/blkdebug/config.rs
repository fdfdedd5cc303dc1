//! The file of rules that `blkdebug` reads.
//!
//! ```text
//!   [inject-error]          # one section, one rule
//!   event = "read_aio"
//!   errno = "28"
//! ```
//! Source: "Block I/O error injection using blkdebug", "Rules".

use drystone_base::{Error, Kind, Result};

/// The largest file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// One section: its name, and its options in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `inject-error` or `set-state`.
    pub name: String,
    /// Keys and values.
    pub options: Vec<(String, String)>,
}

/// The sections of a file.
///
/// # Errors
/// [`Kind::InvalidInput`] naming the line.
pub fn parse_sections(text: &str) -> Result<Vec<Section>> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refused = |what: &str| {
            let text = format!("line {} of the rules is {what}: '{line}'", index + 1);
            Error::new(Kind::InvalidInput, text).in_option("config")
        };
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if name != "inject-error" && name != "set-state" {
                return Err(refused("no section 'inject-error' or 'set-state'"));
            }
            sections.push(Section { name: name.to_owned(), options: Vec::new() });
            continue;
        }
        let pair = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let value = |value: &str| Some(value.strip_prefix('"')?.strip_suffix('"')?.to_owned());
        let option = pair.and_then(|(key, text)| Some((key.to_owned(), value(text)?)));
        let option = option.ok_or_else(|| refused("no KEY = \"VALUE\""))?;
        let section = sections.last_mut().ok_or_else(|| refused("in no section"))?;
        section.options.push(option);
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_options_in_quotes() {
        let text = "# rules\n\n[inject-error]\nevent = \"read_aio\"\n errno=\"28\"\n[set-state]\n";
        let sections = parse_sections(text).unwrap();
        assert_eq!(sections.len(), 2);
        let options: Vec<String> =
            sections[0].options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(options, ["event=read_aio", "errno=28"]);
        assert_eq!((sections[1].name.as_str(), sections[1].options.len()), ("set-state", 0));
    }

    #[test]
    fn other_lines_are_refused_by_number() {
        for (text, number) in [
            ("x", "line 1"),
            ("event = \"a\"", "line 1"),
            ("[inject-error]\nevent = a", "line 2"),
            ("[inject-error]\nevent", "line 2"),
            ("\n[bogus]", "line 2"),
        ] {
            assert!(parse_sections(text).unwrap_err().report().contains(number), "{text}");
        }
    }
}
