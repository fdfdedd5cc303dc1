//! The scripts of the repository, and what the C daemon said to each.

use std::path::{Path, PathBuf};

use super::play::Transcript;
use super::script;

/// A script and where its record is.
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) steps: script::Script,
    /// What the C daemon said.
    pub(crate) record: PathBuf,
}

/// Every script, or those whose names contain `DRYSTONE_SCRIPT`.
pub(crate) fn all() -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let wanted = std::env::var("DRYSTONE_SCRIPT").unwrap_or_default();
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "qmp"));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let steps = script::Script::parse(&std::fs::read_to_string(&path).unwrap());
        name.contains(&wanted).then(|| Script { name, steps, record: path.with_extension("out") })
    };
    paths.into_iter().filter_map(read).collect()
}

impl Script {
    /// What was said otherwise than it is recorded; empty if nothing was.
    pub(crate) fn compare(&self, said: &Transcript) -> String {
        self.differs(&std::fs::read_to_string(&self.record).unwrap_or_default(), said)
    }

    /// The same with what this daemon is to say where it differs from the C daemon: `NAME.ours` says so, and why.
    pub(crate) fn compare_ours(&self, said: &Transcript) -> String {
        let as_recorded = self.compare(said).is_empty();
        match std::fs::read_to_string(self.record.with_extension("ours")) {
            Ok(_) if as_recorded => format!("=== {}: nothing differs, so '.ours' has to go\n", self.name),
            Ok(ours) => {
                let lines: Vec<&str> = ours.lines().filter(|line| !line.starts_with('#')).collect();
                self.differs(&(lines.join("\n") + "\n"), said)
            }
            Err(_) => self.compare(said),
        }
    }

    /// Writes down that this daemon says something else, and why.
    pub(crate) fn accept(&self, said: &Transcript, why: &str) {
        std::fs::write(self.record.with_extension("ours"), format!("# {why}\n{}", said.text())).unwrap();
    }

    fn differs(&self, recorded: &str, said: &Transcript) -> String {
        let said = said.text();
        if recorded == said {
            return String::new();
        }
        let (recorded, said): (Vec<&str>, Vec<&str>) = (recorded.lines().collect(), said.lines().collect());
        let mut text = format!("=== {}\n", self.name);
        for index in 0..recorded.len().max(said.len()) {
            let (recorded, said) = (recorded.get(index), said.get(index));
            if recorded != said {
                let shown = |line: Option<&&str>| (*line.unwrap_or(&"(nothing)")).to_owned();
                text += &format!("recorded: {}\nsaid:     {}\n", shown(recorded), shown(said));
            }
        }
        text
    }
}

/// What `check` says of the scripts, several at a time.
pub(crate) fn differences(scripts: Vec<Script>, check: impl Fn(&Script) -> String + Sync) -> String {
    let chunks: Vec<&[Script]> = scripts.chunks(scripts.len().div_ceil(4).max(1)).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = chunks
            .into_iter()
            .map(|chunk| scope.spawn(|| chunk.iter().map(|script| run(script, &check)).collect::<String>()))
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

/// A script that panics is a difference too, and the others go on.
fn run(script: &Script, check: &(impl Fn(&Script) -> String + Sync)) -> String {
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(script)));
    checked.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no text)");
        format!("=== {}\npanicked: {text}\n", script.name)
    })
}
