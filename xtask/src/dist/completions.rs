//! Completions for bash, zsh and fish, of what the tools say about themselves.
//!
//! ```text
//!   drystone <tool> <command> <options and files>          qemu-img <command> <options and files>
//! ```
//! One script per shell knows the binary and, as commands of their own, the tools under their other names. Behind an option
//! with a fixed choice (`human|json`) the choice is offered, behind any other option and in any other place files are.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::help::{Entry, Page};
use super::tools::{Drystone, Tool};

/// A place where words are expected, and the words.
struct Place<'a> {
    /// The words before it: `img convert`.
    path: String,
    page: &'a Page,
}

fn places<'a>(name: &str, page: &'a Page, commands: &'a [(String, Page)]) -> Vec<Place<'a>> {
    let below = commands.iter().map(|(command, page)| Place { path: format!("{name} {command}"), page });
    std::iter::once(Place { path: name.to_owned(), page }).chain(below).collect()
}

/// Every place, by the words before it; the tools under both names.
fn all(drystone: &Drystone) -> Vec<Place<'_>> {
    let mut all = vec![Place { path: "drystone".into(), page: &drystone.page }];
    for tool in &drystone.tools {
        all.extend(places(&format!("drystone {}", tool.name), &tool.page, &tool.commands));
        if let Some(alias) = tool.alias() {
            all.extend(places(alias, &tool.page, &tool.commands));
        }
    }
    all
}

/// The names of commands that the scripts complete.
fn programs(drystone: &Drystone) -> Vec<&str> {
    std::iter::once("drystone").chain(drystone.tools.iter().filter_map(Tool::alias)).collect()
}

/// The words that may follow an option, if they are few and fixed.
fn choices(entry: &Entry) -> Vec<&str> {
    let value = entry.value.trim_start_matches('=').trim_matches(['<', '>']);
    let is_word = |word: &&str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    let words: Vec<&str> = value.split('|').collect();
    if words.len() > 1 && words.iter().all(is_word) { words } else { Vec::new() }
}

fn flags(page: &Page) -> BTreeSet<&str> {
    page.options.iter().flat_map(|entry| entry.flags.iter().map(String::as_str)).collect()
}

fn words(page: &Page) -> Vec<&str> {
    page.commands.iter().map(|(name, _)| name.as_str()).collect()
}

/// The script for bash.
pub(crate) fn bash(drystone: &Drystone) -> String {
    let mut cases = String::new();
    for place in all(drystone) {
        let options: Vec<&str> = flags(place.page).into_iter().collect();
        let _ = writeln!(
            cases,
            "    '{}') words='{}' options='{}' ;;",
            place.path,
            words(place.page).join(" "),
            options.join(" ")
        );
    }
    let mut values = String::new();
    for place in all(drystone) {
        for entry in place.page.options.iter().filter(|entry| !choices(entry).is_empty()) {
            for flag in &entry.flags {
                let _ =
                    writeln!(values, "    '{} {flag}') values='{}' ;;", place.path, choices(entry).join(" "));
            }
        }
    }
    format!(
        "# Completions of drystone and its tools for bash. Made from their help texts.\n\
         _drystone() {{\n\
         \x20 local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} place words options values word\n\
         \x20 place=${{COMP_WORDS[0]##*/}}\n\
         \x20 for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n\
         \x20   _drystone_words \"$place\"\n\
         \x20   [[ \" $words \" == *\" $word \"* ]] && place+=\" $word\"\n\
         \x20 done\n\
         \x20 _drystone_words \"$place\"\n\
         \x20 case \"$place $before\" in\n{values}\
         \x20   *) values= ;;\n\
         \x20 esac\n\
         \x20 if [[ -n $values ]]; then COMPREPLY=($(compgen -W \"$values\" -- \"$current\"))\n\
         \x20 elif [[ $current == -* ]]; then COMPREPLY=($(compgen -W \"$options\" -- \"$current\"))\n\
         \x20 elif [[ -n $words ]]; then COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n\
         \x20 else COMPREPLY=($(compgen -f -- \"$current\"))\n\
         \x20 fi\n\
         }}\n\
         _drystone_words() {{\n\
         \x20 words= options=\n\
         \x20 case \"$1\" in\n{cases}\
         \x20 esac\n\
         }}\n\
         complete -o filenames -F _drystone {}\n",
        programs(drystone).join(" ")
    )
}

/// The script for zsh.
pub(crate) fn zsh(drystone: &Drystone) -> String {
    let mut cases = String::new();
    for place in all(drystone) {
        let mut options = String::new();
        for entry in &place.page.options {
            for flag in &entry.flags {
                let _ = write!(
                    options,
                    " {}",
                    single(&format!("{}:{}", flag.replace(':', "\\:"), short(&entry.text)))
                );
            }
        }
        let mut commands = String::new();
        for (name, text) in &place.page.commands {
            let _ = write!(commands, " {}", single(&format!("{name}:{}", short(text))));
        }
        let _ = writeln!(cases, "    '{}') commands=({commands}) options=({options}) ;;", place.path);
    }
    format!(
        "#compdef {}\n\
         # Completions of drystone and its tools for zsh. Made from their help texts.\n\
         _drystone_words() {{\n\
         \x20 commands=() options=()\n\
         \x20 case \"$1\" in\n{cases}\
         \x20 esac\n\
         }}\n\
         _drystone() {{\n\
         \x20 local place=${{words[1]:t}} word\n\
         \x20 local -a commands options\n\
         \x20 for word in ${{words[2,CURRENT-1]}}; do\n\
         \x20   _drystone_words \"$place\"\n\
         \x20   (( ${{commands[(I)${{word}}:*]}} )) && place+=\" $word\"\n\
         \x20 done\n\
         \x20 _drystone_words \"$place\"\n\
         \x20 if [[ ${{words[CURRENT]}} == -* ]]; then _describe -o option options\n\
         \x20 elif (( $#commands )); then _describe command commands\n\
         \x20 else _files\n\
         \x20 fi\n\
         }}\n\
         _drystone \"$@\"\n",
        programs(drystone).join(" ")
    )
}

/// The scripts for fish: one for each program, since fish looks them up by its name.
pub(crate) fn fish(drystone: &Drystone) -> Vec<(String, String)> {
    let mut scripts: Vec<(String, String)> = programs(drystone)
        .into_iter()
        .map(|program| {
            (program.to_owned(), format!("# Completions of {program} for fish. Made from its help texts.\n"))
        })
        .collect();
    for place in all(drystone) {
        let mut path = place.path.split(' ');
        let program = path.next().unwrap_or_default();
        let Some((_, script)) = scripts.iter_mut().find(|(name, _)| name == program) else { continue };
        let before: Vec<&str> = path.collect();
        let mut condition: Vec<String> =
            before.iter().map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
        if !place.page.commands.is_empty() {
            let words = words(place.page).join(" ");
            condition.push(format!("not __fish_seen_subcommand_from {words}"));
        }
        fish_place(script, program, &condition.join("; and "), place.page);
    }
    scripts
}

fn fish_place(script: &mut String, program: &str, condition: &str, page: &Page) {
    let when = if condition.is_empty() { String::new() } else { format!(" -n {}", single(condition)) };
    for (name, text) in &page.commands {
        let _ = writeln!(script, "complete -c {program}{when} -f -a {name} -d {}", single(&short(text)));
    }
    for entry in &page.options {
        let mut line = format!("complete -c {program}{when}");
        for flag in &entry.flags {
            let _ = match flag.strip_prefix("--") {
                Some(long) => write!(line, " -l {long}"),
                None => write!(line, " -s {}", flag.trim_start_matches('-')),
            };
        }
        let choices = choices(entry);
        if !choices.is_empty() {
            let _ = write!(line, " -x -a {}", single(&choices.join(" ")));
        } else if !entry.value.is_empty() {
            line.push_str(" -r");
        }
        let _ = writeln!(script, "{line} -d {}", single(&short(&entry.text)));
    }
}

/// Up to the end of the first clause.
fn short(text: &str) -> String {
    let end = text.find([';', ':']).unwrap_or(text.len());
    text.get(..end).unwrap_or(text).trim_end_matches('.').to_owned()
}

/// In single quotes, for any of the shells.
fn single(text: &str) -> String {
    format!("'{}'", text.replace('\'', ""))
}
