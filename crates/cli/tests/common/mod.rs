//! A folder to work in, programs to run in it, and what all tests agree to overlook.

pub(crate) mod daemon;
pub(crate) mod dice;
pub(crate) mod forked;
pub(crate) mod nbd;
pub(crate) mod serve;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Of Linux on x86 and most others; elsewhere it is a flag that a file in memory does not take.
const O_DIRECT: i32 = 0o40000;

/// A folder of its own, gone when dropped; kept after a failure if the variable `DRYSTONE_KEEP` is set.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        Self::below(&std::env::temp_dir(), name)
    }

    /// In memory, if there is such a place that takes direct I/O (tmpfs from Linux 6.6 on) and no other was named: for
    /// what flushes all the time and does not depend on what a flush does to a disk.
    pub(crate) fn in_memory(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        if std::env::var_os("TMPDIR").is_none() && memory.is_dir() {
            let scratch = Self::below(memory, name);
            let direct = OpenOptions::new()
                .write(true)
                .create(true)
                .custom_flags(O_DIRECT)
                .open(scratch.path().join("probe"));
            if direct.is_ok() {
                std::fs::remove_file(scratch.path().join("probe")).unwrap();
                return scratch;
            }
        }
        Self::new(name)
    }

    fn below(folder: &Path, name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("drystone-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("DRYSTONE_KEEP").is_some() {
            eprintln!("kept: {}", self.0.display());
            return;
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a program printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// 128 and more: a signal.
    pub(crate) status: i32,
}

/// Runs a program to its end, in English and UTC, with nothing to read.
pub(crate) fn run(program: &Path, args: &[String], dir: &Path) -> Ran {
    run_with_input(program, args, dir, "")
}

/// Runs a program to its end, in English and UTC. `input` is what it can read, and fits in a pipe.
pub(crate) fn run_with_input(program: &Path, args: &[String], dir: &Path, input: &str) -> Ran {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env("LC_ALL", "C").env("TZ", "UTC");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    // Whoever reads nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap()),
    }
}

/// Our program under the name of a tool.
pub(crate) fn our_tool(scratch: &Scratch, name: &str) -> PathBuf {
    let path = scratch.path().join("bin").join(name);
    if !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_drystone"), &path).unwrap();
    }
    path
}

/// Words of a command line; quotes keep spaces together, and nothing else has a meaning.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut quote = None;
    let mut word: Option<String> = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What is printed, less what depends on something else than the image: how many blocks the file system gave a file, how
/// long it took, how often it was said how far it is; and the list of options and commands, which we describe in our words.
pub(crate) fn normalised(printed: &str) -> String {
    let mut text = without_figures(printed);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn without_figures(printed: &str) -> String {
    if let Some((before, _)) = printed.split_once("Usage: qemu-") {
        return format!("{before}(help)\n");
    }
    if let Some((first, _)) =
        printed.split_once("  -h, --help ").filter(|_| !printed.starts_with("Supported "))
    {
        let before = first.rfind("Makes ").unwrap_or(0);
        return format!("{}(help)\n", &first[..before]);
    }
    if let Some(text) = requests(printed) {
        return text;
    }
    let lines = printed.split_inclusive('\n').filter_map(|line| {
        let key = line.trim_start();
        let indent = &line[..line.len() - key.len()];
        if key.starts_with("disk size: ") {
            return Some(format!("{indent}disk size: ...\n"));
        }
        if let Some(rest) = key.strip_prefix("\"actual-size\": ") {
            let comma = if rest.trim_end().ends_with(',') { "," } else { "" };
            return Some(format!("{indent}\"actual-size\": ...{comma}\n"));
        }
        if let Some((option, _about)) = line.split_once(" - ").filter(|(option, _)| option.contains("=<")) {
            let name = key.split('=').next().unwrap();
            let ours = !name.starts_with("encrypt");
            return ours.then(|| format!("{option} - ...\n"));
        }
        if line.starts_with("Run completed in ") {
            return Some("Run completed in ... seconds.\n".to_owned());
        }
        if let Some((_, rest)) = line.rsplit_once("/100%)\r") {
            return Some(format!("(...){rest}"));
        }
        if line.starts_with("The protocol level") || line.starts_with("Specify the target") {
            return None;
        }
        Some(line.to_owned())
    });
    let text: String = lines.collect();
    // What was left out behind a list of options was a paragraph of its own.
    if text.starts_with("Supported ") { text.trim_end().to_owned() + "\n" } else { text }
}

/// What the tool prints that makes requests, if it is that: without figures of time, and without descriptions.
fn requests(printed: &str) -> Option<String> {
    let is_command = |line: &str| line.contains(" -- ") && !line.contains("=<");
    let has_figures = |line: &str| line.contains(" ops; ") || is_figures(line);
    printed.lines().any(|line| is_command(line) || has_figures(line)).then(|| {
        let mut in_help = false;
        let lines = printed.lines().filter_map(|line| {
            if let Some((what, _)) = line.split_once(" ops; ") {
                return Some(format!("{what} ops; ...\n"));
            }
            if is_figures(line) {
                return Some(format!("{},...\n", line.rsplitn(4, ',').last().unwrap()));
            }
            let is_about = line.starts_with(' ') || line.is_empty();
            if is_command(line) && !line.starts_with("Parsing error") {
                in_help = true;
                return Some(format!("{} -- ...\n", line.split_once(" -- ").unwrap().0));
            }
            in_help &= is_about;
            (!in_help).then(|| format!("{line}\n"))
        });
        lines.collect()
    })
}

/// Whether a line is `65536,1,0:00:00.00,726442387.630,11084.631`.
fn is_figures(line: &str) -> bool {
    let parts: Vec<&str> = line.split(',').collect();
    parts.len() == 5
        && parts[1] == "1"
        && line.bytes().all(|byte| byte.is_ascii_digit() || b",:.".contains(&byte))
}

/// Bytes out of the text that `od -A x -t x1 -w32` prints.
pub(crate) fn parse_od(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut last = Vec::new();
    for line in text.lines().filter(|line| *line != "*") {
        let mut words = line.split(' ');
        let at = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        while bytes.len() < at {
            bytes.extend_from_slice(&last);
        }
        last = words.map(|word| u8::from_str_radix(word, 16).unwrap()).collect();
        bytes.extend_from_slice(&last);
    }
    bytes
}
