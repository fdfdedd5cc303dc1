//! The tools in the binary, and what each says about itself.

use std::path::Path;
use std::process::Command;

use super::help::{self, Page};
use crate::run;

/// Subcommands that are tools of the C block layer, and the names that they have there.
pub(crate) const ALIASES: [(&str, &str); 4] =
    [("img", "qemu-img"), ("io", "qemu-io"), ("nbd", "qemu-nbd"), ("daemon", "qemu-storage-daemon")];

/// A subcommand of `drystone`.
#[derive(Debug)]
pub(crate) struct Tool {
    /// `img`, `serve`, ...
    pub(crate) name: String,
    /// What it is in a few words.
    pub(crate) line: String,
    /// Its help.
    pub(crate) page: Page,
    /// The help of its commands.
    pub(crate) commands: Vec<(String, Page)>,
}

impl Tool {
    /// The name that it also has.
    pub(crate) fn alias(&self) -> Option<&'static str> {
        ALIASES.iter().find(|(name, _)| *name == self.name).map(|(_, alias)| *alias)
    }
}

/// The binary and its subcommands.
#[derive(Debug)]
pub(crate) struct Drystone {
    pub(crate) page: Page,
    pub(crate) tools: Vec<Tool>,
}

impl Drystone {
    /// Asks the binary about everything in it.
    pub(crate) fn ask(binary: &Path) -> Result<Self, String> {
        let page = ask(binary, &[])?;
        let mut tools = Vec::new();
        for (name, line) in page.commands.iter().filter(|(name, _)| name != "help") {
            let page = ask(binary, &[name])?;
            let mut commands = Vec::new();
            for (command, _) in &page.commands {
                commands.push((command.clone(), ask(binary, &[name, command])?));
            }
            tools.push(Tool { name: name.clone(), line: line.clone(), page, commands });
        }
        for (name, alias) in ALIASES {
            if !tools.iter().any(|tool| tool.name == name) {
                return Err(format!("drystone has no '{name}', which {alias} would be a link to"));
            }
        }
        Ok(Self { page, tools })
    }
}

fn ask(binary: &Path, words: &[&str]) -> Result<Page, String> {
    let text = run::quiet(Command::new(binary).args(words).arg("--help"))?;
    let page = help::parse(&text);
    if page.options.is_empty() {
        return Err(format!("`drystone {} --help` names no option", words.join(" ")));
    }
    Ok(page)
}
