//! The misuse catalogue: one small program per rule of `core` that the compiler enforces. None of them compiles.
//!
//! ```text
//!  //! The rule, in words.
//!  ...
//!      task.drain(&[node]).await; //~ E0499            the compiler reports this error on this line (`lifetime`: one of
//!      //~ says: this user only reads                  those about lifetimes), and its report contains these words of ours
//! ```
//! A program's errors are exactly those that it announces, so it cannot fail for another reason than its rule. A program
//! that announces none has to compile: `correct.rs` uses everything as it is meant.
//!
//! Not by `trybuild`, which compares everything that the compiler prints: a catalogue of that size would break with each
//! release of the compiler, in lines that are not ours. And it starts one build per program; here all programs are
//! binaries of one generated package, checked by one `cargo check --keep-going`, whose messages are read as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What announces an error, and what announces words in its report.
const ERROR: &str = "//~ ";
const SAYS: &str = "//~ says: ";
/// The compiler reports one mistake with a lifetime under several numbers and under none, as it sees fit.
const LIFETIME: &str = "lifetime";
const LIFETIME_CODES: &[&str] = &["E0521", "E0621"];
const LIFETIME_TEXT: &str = "lifetime may not live long enough";

/// Errors by line, and what their reports contain.
type Errors = BTreeMap<usize, BTreeSet<String>>;

/// A program and what the compiler shall say about it.
struct Program {
    name: String,
    path: PathBuf,
    /// The codes that are announced for a line.
    expected: Errors,
    /// Texts in the report of an error that is announced for a line.
    says: Vec<(usize, String)>,
}

/// What the compiler said about one program.
#[derive(Default)]
struct Verdict {
    found: Errors,
    reports: BTreeMap<usize, String>,
}

#[test]
fn every_program_is_rejected_for_its_own_reason_and_the_correct_one_is_not() {
    let programs = programs();
    assert!(programs.len() > 30, "the catalogue has got lost: {} programs", programs.len());
    let verdicts = check(&programs);
    let mut complaints = String::new();
    for program in &programs {
        let silent = Verdict::default();
        compare(program, verdicts.get(&program.name).unwrap_or(&silent), &mut complaints);
    }
    assert!(complaints.is_empty(), "{complaints}");
}

#[test]
fn the_catalogue_has_misuses_and_correct_use() {
    let (correct, misuses): (Vec<_>, Vec<_>) =
        programs().into_iter().partition(|program| program.expected.is_empty());
    assert_eq!(correct.iter().map(|program| program.name.as_str()).collect::<Vec<_>>(), ["correct"]);
    assert!(misuses.len() >= 30);
}

#[test]
fn an_annotation_belongs_to_the_line_of_the_last_error() {
    let text = "//! Rule.\nlet a = 1;\nbad(a); //~ E0499\n//~ says: one thing\n//~ says: another\nworse(a) //~ lifetime\n";
    let program = Program::parse("p", Path::new("p.rs"), text);
    let expected =
        Errors::from([(3, BTreeSet::from(["E0499".to_owned()])), (6, BTreeSet::from([LIFETIME.to_owned()]))]);
    assert_eq!(program.expected, expected);
    assert_eq!(program.says, [(3, "one thing".to_owned()), (3, "another".to_owned())]);
}

/// The programs beside this file.
fn programs() -> Vec<Program> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/misuse");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let is_program = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("main.rs")
    };
    paths.iter().filter(|path| is_program(path)).map(|path| Program::load(path)).collect()
}

impl Program {
    fn load(path: &Path) -> Self {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(text.starts_with("//! "), "{}: begin with the rule that it breaks", path.display());
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(&name, path, &text)
    }

    fn parse(name: &str, path: &Path, text: &str) -> Self {
        let mut expected = Errors::new();
        let mut says = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            if let Some((_, text)) = content.split_once(SAYS) {
                let last = expected.keys().next_back();
                let last = *last.unwrap_or_else(|| panic!("{name}:{line}: words of no error"));
                says.push((last, text.trim().to_owned()));
            } else if let Some((_, code)) = content.split_once(ERROR) {
                expected.entry(line).or_default().insert(code.trim().to_owned());
            }
        }
        Self { name: name.to_owned(), path: path.to_owned(), expected, says }
    }
}

/// Adds to `complaints` how the verdict differs from what the program announces.
fn compare(program: &Program, verdict: &Verdict, complaints: &mut String) {
    let Program { name, expected, .. } = program;
    let mut complain = |line: usize, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(complaints, "{name}.rs:{line}: {text}");
    };
    let lines: BTreeSet<usize> = expected.keys().chain(verdict.found.keys()).copied().collect();
    let none = BTreeSet::new();
    for line in lines {
        let wanted = expected.get(&line).unwrap_or(&none);
        let found = verdict.found.get(&line).unwrap_or(&none);
        if wanted != found {
            let report = verdict.reports.get(&line).map_or("", String::as_str);
            complain(line, &format!("announced {wanted:?}, found {found:?}\n{report}"));
        }
    }
    for (line, text) in &program.says {
        let report = verdict.reports.get(line).map_or("", String::as_str);
        if !report.contains(text) {
            complain(*line, &format!("the report does not say \"{text}\"\n{report}"));
        }
    }
}

/// Checks all programs and returns what the compiler said about each.
fn check(programs: &[Program]) -> BTreeMap<String, Verdict> {
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("misuse");
    write_package(&package, programs);
    let messages = cargo_check(&package);
    let mut verdicts: BTreeMap<String, Verdict> = BTreeMap::new();
    for message in messages.iter().filter(|message| message["reason"] == "compiler-message") {
        let target = text(message, "/target/name").unwrap_or_default();
        read(&message["message"], verdicts.entry(target.to_owned()).or_default());
    }
    let known = |name: &String| programs.iter().any(|program| program.name == *name);
    let broken = verdicts.iter().find(|(name, verdict)| !known(name) && !verdict.found.is_empty());
    if let Some((name, verdict)) = broken {
        panic!("`{name}` itself does not compile:\n{:?}", verdict.reports);
    }
    let seen: Vec<&Program> = programs.iter().filter(|program| is_checked(&messages, program)).collect();
    assert_eq!(seen.len(), programs.len(), "cargo left programs out");
    verdicts
}

/// The messages of one `cargo check` over all binaries of the package.
fn cargo_check(package: &Path) -> Vec<Value> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["check", "--bins", "--keep-going", "--offline", "--message-format=json"]);
    cargo.current_dir(package).env("CARGO_TARGET_DIR", package.join("target"));
    // Whatever the caller makes of warnings, the programs are full of them.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTC_WORKSPACE_WRAPPER");
    let output = cargo.output().unwrap_or_else(|error| panic!("cargo: {error}"));
    let lines = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let is_finished = messages.iter().any(|message| message["reason"] == "build-finished");
    assert!(is_finished, "cargo did not build:\n{}", String::from_utf8_lossy(&output.stderr));
    messages
}

/// Whether the compiler has looked at a program: it has left a complaint or something that compiled.
fn is_checked(messages: &[Value], program: &Program) -> bool {
    messages.iter().any(|message| text(message, "/target/name") == Some(&program.name))
}

/// Adds an error message of the compiler to the verdict.
fn read(message: &Value, verdict: &mut Verdict) {
    if message["level"] != "error" {
        return;
    }
    let spans = message["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(primary) = spans.iter().find(|span| span["is_primary"] == true) else { return };
    let line = primary["line_start"].as_u64().and_then(|line| usize::try_from(line).ok()).unwrap_or(0);
    verdict.found.entry(line).or_default().insert(code(message).to_owned());
    verdict.reports.entry(line).or_default().push_str(text(message, "/rendered").unwrap_or_default());
}

fn text<'m>(message: &'m Value, pointer: &str) -> Option<&'m str> {
    message.pointer(pointer)?.as_str()
}

fn code(message: &Value) -> &str {
    match text(message, "/code/code") {
        Some(code) if LIFETIME_CODES.contains(&code) => LIFETIME,
        Some(code) => code,
        None if text(message, "/message") == Some(LIFETIME_TEXT) => LIFETIME,
        None => "an error without a number",
    }
}

/// Writes the package of all programs, touching only what differs, so that a second run builds nothing twice.
fn write_package(package: &Path, programs: &[Program]) {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut manifest = String::from(
        "[package]\nname = \"misuse\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n[workspace]\n\n\
         [lints.rust]\nwarnings = \"allow\"\n\n[dependencies]\n",
    );
    for name in ["base", "buf", "core"] {
        let _ = writeln!(manifest, "drystone-{name} = {{ path = {:?} }}", crates.join(name));
    }
    let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/misuse/support/stand_in.rs");
    let _ = writeln!(manifest, "\n[lib]\nname = \"stand_in\"\npath = {support:?}");
    for Program { name, path, .. } in programs {
        let _ = writeln!(manifest, "\n[[bin]]\nname = \"{name}\"\npath = {path:?}");
    }
    std::fs::create_dir_all(package).unwrap_or_else(|error| panic!("{}: {error}", package.display()));
    write_if_different(&package.join("Cargo.toml"), &manifest);
    // The versions that the workspace was built with are there without asking a registry.
    if let Ok(lock) = std::fs::read_to_string(crates.join("../Cargo.lock")) {
        write_if_different(&package.join("Cargo.lock"), &lock);
    }
}

fn write_if_different(path: &Path, text: &str) {
    if std::fs::read_to_string(path).is_ok_and(|known| known == text) {
        return;
    }
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
