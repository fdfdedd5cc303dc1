//! `cargo xtask dist`: an archive to install from.
//!
//! ```text
//!   drystone-VERSION-TARGET/
//!     bin/drystone, and links under the names of the tools of the C block layer
//!     share/man/man1, share/bash-completion, share/zsh, share/fish      made of what the tools say about themselves
//!     lib/systemd/system/drystone-daemon.service                        a unit for the daemon
//!     share/doc/drystone                                                pages, licences
//!     install.sh, MANIFEST                                              installs what the manifest names, and takes it out
//! ```
//! The binary is static, against musl, where that target is installed or `rustup` can get it; else it is built against the
//! C library of the system, and the name of the archive says so.
//!
//! Equal sources give equal archives apart from the binary: files are sorted, and have the time of the last commit.

mod check;
mod completions;
mod help;
mod manual;
mod tools;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::run;
use tools::{ALIASES, Drystone};

pub(crate) use check::check;

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";
/// Pages for users.
const DOCUMENTS: [&str; 9] = [
    "README.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "docs/differences.md",
    "docs/performance.md",
    "docs/reliability.md",
    "docs/security.md",
    "docs/history.md",
];

/// What is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Dist {
    /// Where the archive goes.
    out: Option<PathBuf>,
    /// What the binary is built for.
    target: Option<String>,
    /// A binary that is there already.
    binary: Option<PathBuf>,
    /// Install it in a folder of its own, try it, take it out again.
    is_tried: bool,
}

/// Builds, packs, and prints the name of the archive.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let Dist { out, target, binary, is_tried } = parse(args)?;
    let (binary, target) = match binary {
        Some(binary) => (binary, target.unwrap_or_else(host)),
        None => build(root, target)?,
    };
    let out = out.unwrap_or_else(|| root.join("target/dist"));
    if is_tried {
        check(root, &binary, &out.join("tried"))?;
    }
    let archive = pack(root, &binary, &target, &out)?;
    println!("{}", archive.display());
    Ok(true)
}

fn parse(args: &[String]) -> Result<Dist, String> {
    let mut dist = Dist::default();
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        if option == "--try" {
            dist.is_tried = true;
            continue;
        }
        let value = rest.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--out" => dist.out = Some(value.into()),
            "--target" => dist.target = Some(value.clone()),
            "--binary" => dist.binary = Some(value.into()),
            _ => return Err(format!("unknown argument: {option}")),
        }
    }
    Ok(dist)
}

/// The machine that this program was built for.
fn host() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// Builds the binary; where it is, and what for.
fn build(root: &Path, wanted: Option<String>) -> Result<(PathBuf, String), String> {
    let target = wanted.or_else(|| can_be_static().then(|| STATIC_TARGET.to_owned()));
    let mut command = run::cargo();
    command.current_dir(root).args([
        "rustc",
        "--release",
        "--locked",
        "--package",
        "drystone-cli",
        "--bin",
        "drystone",
    ]);
    let mut folder = root.join("target");
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        folder = dir.into();
    }
    match &target {
        Some(target) => {
            command.args(["--target", target]);
            folder.push(target);
        }
        None => eprintln!("dist: {STATIC_TARGET} cannot be had: built against the C library of this system"),
    }
    // The names of functions stay, for a backtrace; the rest is nine tenths of the file.
    command.args(["--", "-C", "strip=debuginfo"]);
    match run::run(&mut command, BUILD_LIMIT).failure {
        None => Ok((folder.join("release/drystone"), target.unwrap_or_else(host))),
        Some(failure) => Err(format!("cannot build: {failure}")),
    }
}

/// Whether a static binary can be built: its standard library is there, or comes, and so does a C compiler for it.
fn can_be_static() -> bool {
    if !run::succeeds(Command::new("musl-gcc").arg("--version")) {
        eprintln!("dist: musl-gcc is missing; on Debian: apt-get install musl-tools");
        return false;
    }
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", STATIC_TARGET]);
    let is_there = run::quiet(&mut rustc).is_ok_and(|folder| Path::new(folder.trim()).is_dir());
    is_there || run::succeeds(Command::new("rustup").args(["target", "add", STATIC_TARGET]))
}

/// Makes the folder and the archive of it.
fn pack(root: &Path, binary: &Path, target: &str, out: &Path) -> Result<PathBuf, String> {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("drystone-{version}-{target}");
    let stage = out.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).map_err(|error| failed("remove", &stage, &error))?;
    }
    let mut tree = Tree { stage: stage.clone(), files: Vec::new() };
    tree.copy(binary, "bin/drystone")?;
    for (_, alias) in ALIASES {
        tree.link("drystone", &format!("bin/{alias}"))?;
    }
    let drystone = Drystone::ask(&stage.join("bin/drystone"))?;
    manuals(&mut tree, root, &drystone)?;
    tree.write("share/bash-completion/completions/drystone", &completions::bash(&drystone))?;
    for (_, alias) in ALIASES {
        tree.link("drystone", &format!("share/bash-completion/completions/{alias}"))?;
    }
    tree.write("share/zsh/site-functions/_drystone", &completions::zsh(&drystone))?;
    for (program, script) in completions::fish(&drystone) {
        tree.write(&format!("share/fish/vendor_completions.d/{program}.fish"), &script)?;
    }
    let unit = "drystone-daemon.service";
    tree.copy(&root.join("dist").join(unit), &format!("lib/systemd/system/{unit}"))?;
    for document in DOCUMENTS {
        let file = document.rsplit('/').next().unwrap_or(document);
        tree.copy(&root.join(document), &format!("share/doc/drystone/{file}"))?;
    }
    let manifest = tree.manifest();
    tree.write("MANIFEST", &manifest)?;
    tree.copy(&root.join("dist/install.sh"), "install.sh")?;
    archive(root, out, &name)
}

fn manuals(tree: &mut Tree, root: &Path, drystone: &Drystone) -> Result<(), String> {
    let by_hand = |name: &str| {
        let path = root.join(format!("dist/man/{name}.roff"));
        fs::read_to_string(&path).map_err(|error| failed("read", &path, &error))
    };
    let day = last_change(root, "%cs");
    let edition = manual::Edition { version: env!("CARGO_PKG_VERSION"), day: &day };
    let mut pages = vec![manual::of_drystone(drystone, &edition, &by_hand("drystone")?)];
    for tool in &drystone.tools {
        pages.push(manual::of_tool(tool, &edition, &by_hand(&tool.name)?));
    }
    for page in pages {
        tree.write(&format!("share/man/man1/{}", page.file), &page.text)?;
    }
    for (name, alias) in ALIASES {
        tree.link(&format!("drystone-{name}.1"), &format!("share/man/man1/{alias}.1"))?;
    }
    Ok(())
}

/// When the tree was changed last, as git is asked to say it; empty where there is no history.
fn last_change(root: &Path, format: &str) -> String {
    let mut git = Command::new("git");
    git.current_dir(root).args(["log", "-1", &format!("--format={format}")]);
    run::quiet(&mut git).unwrap_or_default().trim().to_owned()
}

fn archive(root: &Path, out: &Path, name: &str) -> Result<PathBuf, String> {
    let time = last_change(root, "%ct");
    let time = if time.is_empty() { "0" } else { &time };
    let file = out.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--use-compress-program=gzip -n9",
    ]);
    tar.arg(format!("--mtime=@{time}")).arg("--file").arg(&file).arg("--directory").arg(out).arg(name);
    run::quiet(&mut tar)?;
    Ok(file)
}

/// The folder that is packed.
struct Tree {
    stage: PathBuf,
    /// What is in it, relative to it.
    files: Vec<String>,
}

impl Tree {
    fn place(&mut self, name: &str) -> Result<PathBuf, String> {
        let path = self.stage.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| failed("make", folder, &error))?;
        }
        self.files.push(name.to_owned());
        Ok(path)
    }

    fn copy(&mut self, from: &Path, name: &str) -> Result<(), String> {
        let to = self.place(name)?;
        fs::copy(from, &to).map(drop).map_err(|error| failed("copy", from, &error))
    }

    fn write(&mut self, name: &str, text: &str) -> Result<(), String> {
        let to = self.place(name)?;
        fs::write(&to, text).map_err(|error| failed("write", &to, &error))
    }

    fn link(&mut self, target: &str, name: &str) -> Result<(), String> {
        let at = self.place(name)?;
        symlink(target, &at).map_err(|error| failed("link", &at, &error))
    }

    /// A line for each file that is installed.
    fn manifest(&mut self) -> String {
        self.files.sort();
        self.files.iter().map(|file| format!("{file}\n")).collect()
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}
