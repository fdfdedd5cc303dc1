//! Whether what `dist` makes can be installed, works from there, and leaves nothing behind when it goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::ALIASES;
use super::{failed, host, pack};
use crate::run;

/// Packs `binary`, and installs, tries and removes it below `folder`, which is made anew.
pub(crate) fn check(root: &Path, binary: &Path, folder: &Path) -> Result<(), String> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| failed("remove", folder, &error))?;
    }
    let archive = pack(root, binary, &host(), &folder.join("out"))?;
    let unpacked = folder.join("unpacked");
    fs::create_dir_all(&unpacked).map_err(|error| failed("make", &unpacked, &error))?;
    run::quiet(
        Command::new("tar")
            .args(["--extract", "--strip-components=1", "--file"])
            .arg(&archive)
            .arg("-C")
            .arg(&unpacked),
    )?;
    let destdir = folder.join("destdir");
    let install = |more: &[&str]| {
        let mut script = Command::new("sh");
        script.arg(unpacked.join("install.sh")).args(["--prefix", "/opt/disks"]);
        run::quiet(script.arg("--destdir").arg(&destdir).args(more)).map(drop)
    };
    let prefix = destdir.join("opt/disks");
    foreign_files_stay(&prefix, &install)?;
    install(&[])?;
    install(&[]).map_err(|error| format!("not twice: {error}"))?;
    tools_answer(&prefix)?;
    scripts_are_sound(&prefix)?;
    pages_are_sound(&prefix)?;
    install(&["--uninstall"])?;
    match files_in(&destdir)?.first() {
        None => Ok(()),
        Some(left) => Err(format!("{} is left behind", left.display())),
    }
}

/// A file that somebody else put there is not overwritten.
fn foreign_files_stay(prefix: &Path, install: &dyn Fn(&[&str]) -> Result<(), String>) -> Result<(), String> {
    let foreign = prefix.join("bin/qemu-img");
    fs::create_dir_all(prefix.join("bin")).map_err(|error| failed("make", prefix, &error))?;
    fs::write(&foreign, "theirs").map_err(|error| failed("write", &foreign, &error))?;
    if install(&[]).is_ok() {
        return Err("another qemu-img was overwritten".into());
    }
    let files = files_in(prefix)?;
    if files != [foreign.clone()] {
        return Err(format!("a refused installation has changed something: {files:?}"));
    }
    fs::remove_file(&foreign).map_err(|error| failed("remove", &foreign, &error))
}

fn tools_answer(prefix: &Path) -> Result<(), String> {
    for name in ALIASES.map(|(_, alias)| alias).into_iter().chain(["drystone"]) {
        let said = run::quiet(Command::new(prefix.join("bin").join(name)).arg("--version"))?;
        if !said.contains(name) && !said.contains("drystone") {
            return Err(format!("{name} --version says: {said}"));
        }
        let page = prefix.join(format!("share/man/man1/{name}.1"));
        let text = fs::read_to_string(&page).map_err(|error| failed("read", &page, &error))?;
        if !text.starts_with(".TH") {
            return Err(format!("{} is no man page", page.display()));
        }
    }
    Ok(())
}

/// The shells take the completions, those that are installed.
fn scripts_are_sound(prefix: &Path) -> Result<(), String> {
    let scripts = [
        ("bash", "-n", "share/bash-completion/completions/drystone"),
        ("zsh", "-n", "share/zsh/site-functions/_drystone"),
        ("fish", "--no-execute", "share/fish/vendor_completions.d/drystone.fish"),
        ("fish", "--no-execute", "share/fish/vendor_completions.d/qemu-img.fish"),
    ];
    for (shell, option, script) in scripts {
        if run::succeeds(Command::new(shell).arg("--version")) {
            run::quiet(Command::new(shell).arg(option).arg(prefix.join(script)))?;
        }
    }
    let unit = prefix.join("lib/systemd/system/drystone-daemon.service");
    let text = fs::read_to_string(&unit).map_err(|error| failed("read", &unit, &error))?;
    if text.contains('@') || !text.contains("ExecStart=/opt/disks/bin/drystone daemon") {
        return Err("the unit does not start what was installed".into());
    }
    for (line, expected) in
        [("qemu-img create --backing-f", "--backing-format"), ("drystone img cr", "create")]
    {
        completes(line, expected, prefix)?;
        if run::succeeds(Command::new("fish").arg("--version")) {
            fish_completes(line, expected, prefix)?;
        }
    }
    Ok(())
}

/// No formatter that is installed finds anything in a man page.
fn pages_are_sound(prefix: &Path) -> Result<(), String> {
    let folder = prefix.join("share/man/man1");
    let pages: Vec<PathBuf> = files_in(&folder)?.into_iter().filter(|page| !page.is_symlink()).collect();
    for formatter in [&["groff", "-ww", "-man", "-Tascii", "-z"][..], &["mandoc", "-Tlint", "-Wwarning"]] {
        let Some((program, options)) = formatter.split_first() else { continue };
        if !run::succeeds(Command::new("sh").args(["-c", &format!("command -v {program}")])) {
            continue;
        }
        for page in &pages {
            let both = format!("{program} {} \"$1\" 2>&1", options.join(" "));
            let said = run::quiet(Command::new("sh").args(["-c", &both, "sh"]).arg(page));
            if !said.as_ref().is_ok_and(|said| said.trim().is_empty()) {
                return Err(format!("{program} says: {}", said.unwrap_or_else(|error| error)));
            }
        }
    }
    Ok(())
}

/// What fish offers, which looks at the names of programs, too.
fn fish_completes(line: &str, expected: &str, prefix: &Path) -> Result<(), String> {
    let folder = prefix.join("share/fish/vendor_completions.d");
    let script = format!(
        "set -p PATH {}; set -p fish_complete_path {}; complete -C '{line}'",
        prefix.join("bin").display(),
        folder.display()
    );
    let offered = run::quiet(Command::new("fish").args(["--no-config", "-c", &script]))?;
    match offered.split('\t').next() {
        Some(word) if word == expected && offered.lines().count() == 1 => Ok(()),
        _ => Err(format!("fish completes '{line}' to '{}'", offered.trim())),
    }
}

/// What bash offers for the last word of a line.
fn completes(line: &str, expected: &str, prefix: &Path) -> Result<(), String> {
    let script = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _drystone; echo \"${COMPREPLY[*]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash"]).arg(prefix.join("share/bash-completion/completions/drystone"));
    let offered = run::quiet(bash.args(line.split(' ')))?;
    if offered.trim() == expected {
        Ok(())
    } else {
        Err(format!("'{line}' is completed to '{}'", offered.trim()))
    }
}

/// Everything below a folder that is no folder.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed("read", folder, &error))?.path();
        if path.is_dir() && !path.is_symlink() {
            files.extend(files_in(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}
