//! The demo: what happens, with which clients, and what must be so at each step.
//!
//! ```text
//!  base.qcow2    filled by nbdcopy, read back by nbdcopy: the same bytes
//!      ^
//!  top.qcow2     served; fio writes to its first half and checks what it reads back
//!      ^                 '── meanwhile: snapshot, snapshot
//!  one.qcow2 <─ two.qcow2
//! ```
//! In the end the whole disk is copied from the running server, all layers are checked, and the chain is opened again: the
//! copies are equal, and the half that nobody wrote to still shows the base.
//!
//! Only the standard library is used, so that a test can play it too.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long one step may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(50);
/// How often something that another process does is looked at.
const TICK: Duration = Duration::from_millis(5);
/// Names of the layers, from the base up.
const LAYERS: [&str; 4] = ["base.qcow2", "top.qcow2", "one.qcow2", "two.qcow2"];
const MIB: u64 = 1 << 20;

/// One run of the demo.
pub(crate) struct Demo<'a> {
    /// The program.
    pub(crate) drystone: &'a Path,
    /// An empty folder.
    pub(crate) dir: &'a Path,
    /// Length of the disk in bytes: a multiple of 4 MiB.
    pub(crate) len_bytes: u64,
}

impl Demo<'_> {
    /// Plays it, telling each step through `say`.
    pub(crate) fn play(&self, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        self.make_base(say)?;
        self.make_top(say)?;
        let server = Server::start(self, LAYERS[1])?;
        say(&format!("\n[2] the chain is served at\n    {}", server.uri));
        self.copy_out(&server.uri, "before")?;
        self.must_equal("before", "pattern", 0)?;
        say("    nbdcopy reads it through the chain: the bytes of the base");
        self.snapshot_under_writes(&server, say)?;
        self.copy_out(&server.uri, "running")?;
        say(&format!(
            "\n[4] the nodes now:\n{}",
            indented(&self.tool(&["graph", "--control", &server.control()])?)
        ));
        server.stop()?;
        self.look_again(say)
    }

    /// A base image full of bytes that are known.
    fn make_base(&self, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        write_pattern(&self.path("pattern"), self.len_bytes)?;
        self.tool(&["img", "create", "-q", "-f", "qcow2", LAYERS[0], &self.len_bytes.to_string()])?;
        let server = Server::start(self, LAYERS[0])?;
        self.client("nbdcopy", &["--flush", "pattern", &server.uri])?;
        self.copy_out(&server.uri, "back")?;
        server.stop()?;
        self.must_equal("back", "pattern", 0)?;
        say(&format!(
            "[1] {} filled by nbdcopy over NBD with {} MiB, and read back: equal",
            LAYERS[0],
            self.len_bytes / MIB
        ));
        Ok(())
    }

    fn make_top(&self, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        self.tool(&["img", "create", "-q", "-f", "qcow2", "-b", LAYERS[0], "-F", "qcow2", LAYERS[1]])?;
        say(&format!("    {} lies on it", LAYERS[1]));
        Ok(())
    }

    /// Two snapshots while fio writes, which checks all that it wrote at the end.
    fn snapshot_under_writes(&self, server: &Server, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        let half = self.len_bytes / 2;
        let mut fio = Command::new("fio");
        fio.args([
            "--name=demo",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=16",
            "--randseed=7",
        ]);
        fio.args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--rate_iops=6000", "--minimal"]);
        fio.arg(format!("--uri={}", server.uri)).arg(format!("--size={half}"));
        fio.arg(format!("--io_size={}", half / 4)).current_dir(self.dir);
        let mut fio = Client::start(fio)?;
        for pair in LAYERS.windows(2).skip(1) {
            let [old, new] = pair else { continue };
            self.wait_for_growth(old, &mut fio)?;
            self.tool(&["snapshot", &server.control(), new])?;
            say(&format!(
                "{}snapshot while fio writes: {new} takes the writes now",
                if *old == LAYERS[1] { "\n[3] " } else { "    " }
            ));
        }
        self.wait_for_growth(LAYERS[3], &mut fio)?;
        fio.finish()?;
        say("    fio has read back everything that it wrote: not a byte is lost");
        Ok(())
    }

    /// Waits until a layer holds a megabyte more than when it was made.
    fn wait_for_growth(&self, layer: &str, client: &mut Client) -> Result<(), String> {
        let len = || std::fs::metadata(self.path(layer)).map_or(0, |data| data.len());
        let (goal, deadline) = (len() + MIB, Instant::now() + PATIENCE);
        while len() < goal {
            if client.has_ended() {
                return Err(format!("fio had ended before {layer} was written to"));
            }
            if Instant::now() > deadline {
                return Err(format!("nothing is written to {layer}"));
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Checks every layer, and the bytes once more in a new server.
    fn look_again(&self, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        say("\n[5] the server has stopped; every layer is checked:");
        for layer in LAYERS {
            let words = self.tool(&["img", "check", layer])?;
            say(&format!("    {layer}: {}", words.lines().next().unwrap_or_default()));
            if has_program("qemu-img") {
                self.client("qemu-img", &["check", "-q", "-f", "qcow2", layer])?;
            }
        }
        let server = Server::start_with(self, LAYERS[3], &["--read-only"])?;
        self.copy_out(&server.uri, "again")?;
        server.stop()?;
        self.must_equal("again", "running", 0)?;
        self.must_equal("again", "pattern", self.len_bytes / 2)?;
        say("    the chain, opened again, shows the same bytes as the running disk did,");
        say("    and the base where nobody has written");
        Ok(())
    }

    fn copy_out(&self, uri: &str, file: &str) -> Result<(), String> {
        let _ = std::fs::remove_file(self.path(file));
        self.client("nbdcopy", &[uri, file])
    }

    /// Two files must be equal from a byte on.
    fn must_equal(&self, a: &str, b: &str, from: u64) -> Result<(), String> {
        let open = |name: &str| -> Result<BufReader<File>, String> {
            let mut file = File::open(self.path(name)).map_err(|error| format!("{name}: {error}"))?;
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from))
                .map_err(|error| format!("{name}: {error}"))?;
            Ok(BufReader::with_capacity(1 << 20, file))
        };
        let (mut left, mut right) = (open(a)?, open(b)?);
        let mut at = from;
        loop {
            let [one, other] = [&mut left, &mut right].map(|file| {
                let mut bytes = vec![0; 1 << 20];
                let len = fill(file, &mut bytes);
                bytes.truncate(len);
                bytes
            });
            if one != other {
                let place =
                    one.iter().zip(&other).position(|(a, b)| a != b).unwrap_or(one.len().min(other.len()));
                return Err(format!("{a} and {b} differ at byte {}", at + place as u64));
            }
            if one.is_empty() {
                return Ok(());
            }
            at += one.len() as u64;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn tool(&self, args: &[&str]) -> Result<String, String> {
        let output =
            Command::new(self.drystone).args(args).current_dir(self.dir).stdin(Stdio::null()).output();
        check("drystone", args, output)
    }

    fn client(&self, program: &str, args: &[&str]) -> Result<(), String> {
        let output = Command::new(program).args(args).current_dir(self.dir).stdin(Stdio::null()).output();
        check(program, args, output).map(drop)
    }
}

/// What a person can do now.
pub(crate) fn next_steps(drystone: &Path) -> String {
    let drystone = drystone.display();
    format!(
        "  {drystone} img create -f qcow2 disk.qcow2 10G\n  \
         {drystone} serve disk.qcow2 --socket /tmp/disk.sock     (s: snapshot, q: quit)\n  \
         nbdinfo 'nbd+unix:///?socket=/tmp/disk.sock'\n  \
         {drystone} snapshot /tmp/disk.sock.ctl today.qcow2\n  \
         {drystone} graph --control /tmp/disk.sock.ctl\n  \
         {drystone} serve --help"
    )
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Reads until the buffer is full or the file ends; how much.
fn fill(file: &mut impl Read, into: &mut [u8]) -> usize {
    let mut len = 0;
    while let Some(rest) = into.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(moved @ 1..) => len += moved,
            _ => break,
        }
    }
    len
}

/// Bytes that say where they are, with some zeroes between.
fn write_pattern(path: &Path, len_bytes: u64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = std::io::BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let mut state = 1_u64;
    for at in (0..len_bytes).step_by(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(at | 1);
        let word = if (at >> 16) % 4 == 3 { 0 } else { state };
        file.write_all(&word.to_be_bytes()).map_err(failed)?;
    }
    file.flush().map_err(failed)
}

fn has_program(name: &str) -> bool {
    Command::new(name)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

fn check(program: &str, args: &[&str], output: std::io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| {
        format!("cannot start {program}: {error} (packages: libnbd-bin for nbdcopy, fio)")
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}: {}", args.join(" "), output.status, said.trim()))
}

/// A client in the background, killed when dropped.
struct Client(Child);

impl Client {
    fn start(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        command.spawn().map(Self).map_err(|error| format!("cannot start {name}: {error} (package: fio)"))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Waits for its end, which must be a good one.
    fn finish(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return Err("a client does not end".into());
            }
            std::thread::sleep(TICK);
        }
        let mut said = String::new();
        if let Some(stderr) = &mut self.0.stderr {
            let _ = stderr.read_to_string(&mut said);
        }
        let status = self.0.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("fio: {status}: {}", said.trim())) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `drystone serve`, killed when dropped.
struct Server {
    child: Child,
    socket: PathBuf,
    uri: String,
}

impl Server {
    fn start(demo: &Demo<'_>, image: &str) -> Result<Self, String> {
        Self::start_with(demo, image, &[])
    }

    fn start_with(demo: &Demo<'_>, image: &str, more: &[&str]) -> Result<Self, String> {
        let socket = demo.path("nbd.sock");
        let mut command = Command::new(demo.drystone);
        command.args(["serve", image, "--socket"]).arg(&socket).args(more).current_dir(demo.dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|error| format!("cannot start drystone: {error}"))?;
        let mut uri = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut uri);
        }
        let server = Self { child, socket, uri: uri.trim().to_owned() };
        if server.uri.is_empty() { Err(format!("drystone does not serve {image}")) } else { Ok(server) }
    }

    fn control(&self) -> String {
        format!("{}.ctl", self.socket.display())
    }

    /// Asks it to end; it must do so in time, with everything on disk.
    fn stop(mut self) -> Result<(), String> {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("drystone serve: {status}")),
                Ok(None) if Instant::now() > deadline => return Err("drystone serve does not end".into()),
                Ok(None) => std::thread::sleep(TICK),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
