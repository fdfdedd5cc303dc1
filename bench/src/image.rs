//! Disk images in memory, and the folder that holds them.
//!
//! What servers serve is pseudo-random and written everywhere: zeroes and holes would let a server answer without reading.
//! What is converted is mixed, as disks are.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process;

const PREFIX: &str = "drystone-bench-";
/// For preparations: a compressed image of 4 GiB takes the C tool most of a minute.
const TOOL_LIMIT: Duration = Duration::from_secs(600);

/// Format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Guest bytes as they are.
    Raw,
    /// qcow2 as the installed tool creates it by default.
    Qcow2,
}

impl Format {
    /// Its name on command lines.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Pseudo-random numbers, the same in each run.
struct Noise(u64);

impl Noise {
    const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Seven small letters and a blank.
    fn word(&mut self) -> [u8; 8] {
        let mut word = self.next().to_le_bytes().map(|byte| b'a' + byte % 26);
        word[7] = b' ';
        word
    }

    /// Writes `len_bytes`, a multiple of eight, eight at a time.
    fn fill(
        &mut self,
        file: &mut impl Write,
        len_bytes: u64,
        of: impl Fn(&mut Self) -> [u8; 8],
    ) -> std::io::Result<()> {
        (0..len_bytes / 8).try_for_each(|_| file.write_all(&of(self)))
    }
}

/// One of the words.
fn pick(words: &[[u8; 8]], number: u64) -> [u8; 8] {
    let index = usize::try_from(number).unwrap_or_default() % words.len().max(1);
    words.get(index).copied().unwrap_or_default()
}

/// A folder for images, sockets and logs that goes away with this value.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// A new folder below `parent`; folders of runs that were killed are removed first.
    pub(crate) fn new(parent: &Path) -> Result<Self, String> {
        remove_stale(parent);
        let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Self { dir })
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A raw image of `len_mib` MiB without holes.
    pub(crate) fn full_raw(&self, name: &str, len_mib: usize) -> Result<PathBuf, String> {
        let path = self.path(name);
        let write = || {
            let mut file = BufWriter::new(File::create(&path)?);
            let mut noise = Noise::new();
            for _ in 0..len_mib << 17 {
                file.write_all(&noise.next().to_le_bytes())?;
            }
            file.flush()
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// A raw image in runs of 64 KiB to 4 MiB: of 100 runs 34 are noise, 28 words of a few letters, 13 stored zeroes, the
    /// rest holes. The same bytes each time.
    pub(crate) fn mixed_raw(&self, name: &str, len_bytes: u64) -> Result<PathBuf, String> {
        let path = self.path(name);
        let write = || {
            let mut file = BufWriter::new(File::create(&path)?);
            let mut noise = Noise::new();
            let words: Vec<[u8; 8]> = (0..4096).map(|_| noise.word()).collect();
            let mut at = 0;
            while at < len_bytes {
                let run = ((64 << 10) << (noise.next() % 7)).min(len_bytes - at);
                match noise.next() % 100 {
                    0..34 => noise.fill(&mut file, run, |noise| noise.next().to_le_bytes())?,
                    34..62 => noise.fill(&mut file, run, |noise| pick(&words, noise.next()))?,
                    62..75 => noise.fill(&mut file, run, |_| [0; 8])?,
                    _ => {
                        file.seek(SeekFrom::Current(i64::try_from(run).unwrap_or_default()))?;
                    }
                }
                at += run;
            }
            file.into_inner()?.set_len(len_bytes)
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// The same bytes in another format.
    pub(crate) fn convert(&self, raw: &Path, format: Format, name: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", format.name()]).arg(raw).arg(&path);
        process::output(&mut command, TOOL_LIMIT, &self.path("convert.log"))?;
        Ok(path)
    }

    /// A new, empty folder; what was in an old one of that name is removed.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// A chain of `layers` qcow2 images with data everywhere, and the path of its top: all of it in the lowest, or, if it
    /// is to be scattered, one cluster in each layer in turn.
    pub(crate) fn chain(
        &self,
        name: &str,
        layers: usize,
        is_scattered: bool,
        len_mib: usize,
    ) -> Result<PathBuf, String> {
        let dir = self.folder(name)?;
        let layer = |index: usize| dir.join(format!("l{index}.qcow2"));
        let raw = self.full_raw(&format!("{name}.raw"), len_mib)?;
        for index in 0..layers {
            let path = layer(index);
            if is_scattered {
                let part = self.clusters_of(&raw, index, layers)?;
                self.convert(&part, Format::Qcow2, &format!("{name}/l{index}.qcow2"))?;
                std::fs::remove_file(&part).map_err(|error| format!("{}: {error}", part.display()))?;
            } else if index == 0 {
                self.convert(&raw, Format::Qcow2, &format!("{name}/l0.qcow2"))?;
            }
            let Some(below) = index.checked_sub(1).map(&layer) else { continue };
            let mut command = Command::new("qemu-img");
            if is_scattered {
                command.args(["rebase", "-f", "qcow2", "-u", "-F", "qcow2", "-b"]).arg(&below).arg(&path);
            } else {
                command
                    .args(["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b"])
                    .arg(&below)
                    .arg(&path);
                command.arg(format!("{len_mib}M"));
            }
            process::output(&mut command, TOOL_LIMIT, &self.path("chain.log"))?;
        }
        std::fs::remove_file(&raw).map_err(|error| format!("{}: {error}", raw.display()))?;
        Ok(layer(layers - 1))
    }

    /// A file of the same length with each cluster whose number is `index` modulo `count`, and holes elsewhere.
    pub(crate) fn clusters_of(&self, raw: &Path, index: usize, count: usize) -> Result<PathBuf, String> {
        const CLUSTER: usize = 64 << 10;
        let path = self.path(&format!("part{index}.raw"));
        let copy = || {
            let (from, to) = (File::open(raw)?, File::create(&path)?);
            let len = from.metadata()?.len();
            to.set_len(len)?;
            let mut cluster = vec![0; CLUSTER];
            for at in (0..len).step_by(CLUSTER).skip(index).step_by(count) {
                from.read_exact_at(&mut cluster, at)?;
                to.write_all_at(&cluster, at)?;
            }
            Ok::<_, std::io::Error>(())
        };
        copy().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// An empty qcow2 image.
    pub(crate) fn create_qcow2(
        &self,
        name: &str,
        virtual_len: &str,
        options: &str,
    ) -> Result<PathBuf, String> {
        let path = self.path(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-o", options]).arg(&path).arg(virtual_len);
        process::output(&mut command, TOOL_LIMIT, &self.path("create.log"))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Removes the folders of processes that are gone: images in memory are memory.
fn remove_stale(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
