//! Children with a time limit, and what the kernel says of them.
//!
//! Invariant: no child outlives its [`Process`]: dropping it kills and reaps.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// Ticks a second in `/proc/PID/stat`: the kernel's USER_HZ, 100 on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long a child may take to end when asked.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A thread that has worked less than this part of what the busiest one has does something else.
const WORKER_SHARE: u32 = 100;

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program without standard input; what it prints goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self, String> {
        spawn(command, log).map(|child| Self { child })
    }

    /// Tries again and again, until `attempt` succeeds, the child ends or the time is up. What it said goes into the error.
    pub(crate) fn until<T>(
        &mut self,
        limit: Duration,
        command: &Command,
        log: &Path,
        mut attempt: impl FnMut() -> Result<T, String>,
    ) -> Result<T, String> {
        let began = Instant::now();
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let why = match self.ended() {
                Some(status) => format!("ended with {status}"),
                None if began.elapsed() > limit => error,
                None => {
                    thread::sleep(Duration::from_micros(100));
                    continue;
                }
            };
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(format!("{:?} {why}: {}", command.get_program(), last_lines(&said)));
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end. Whether it did so in time; if not, dropping it makes it end.
    pub(crate) fn stop(&mut self) -> bool {
        let deadline = Instant::now() + STOP_LIMIT;
        let asked = self.ended().is_none() && signal(self.child.id(), "-TERM");
        while asked && Instant::now() < deadline {
            if self.ended().is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Processor time so far, threads and kernel included.
    pub(crate) fn cpu(&self) -> Result<Duration, String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        cpu_in_stat(&stat).ok_or_else(|| format!("{path}: not understood"))
    }

    /// The threads that work while `load` runs, other than the first, onto processor `one`; all others onto `other`. In both
    /// daemons the first thread carries out commands and clients are served by others.
    pub(crate) fn pin_workers<T>(
        &self,
        (one, other): (usize, usize),
        load: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        let before = self.threads()?;
        let done = load()?;
        let threads = self.threads()?;
        let spent = |(tid, after): &(u32, Duration)| {
            let known = before.iter().find(|(known, _)| known == tid);
            after.saturating_sub(known.map_or(Duration::ZERO, |(_, before)| *before))
        };
        let served: Vec<_> = threads.iter().filter(|(tid, _)| *tid != self.child.id()).collect();
        let most = served.iter().map(|thread| spent(thread)).max().unwrap_or_default();
        for (tid, _) in &threads {
            let is_worker =
                served.iter().any(|thread| thread.0 == *tid && spent(thread) * WORKER_SHARE > most);
            pin(*tid, if is_worker { one } else { other })?;
        }
        Ok(done)
    }

    /// Its threads, with their processor time so far.
    fn threads(&self) -> Result<Vec<(u32, Duration)>, String> {
        let path = format!("/proc/{}/task", self.child.id());
        let entries = std::fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
        let thread = |entry: std::fs::DirEntry| {
            let spent = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
            let spent_ns = spent.split_whitespace().next()?.parse().ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, Duration::from_nanos(spent_ns)))
        };
        Ok(entries.flatten().filter_map(thread).collect())
    }

    /// Memory that it holds, in KiB.
    pub(crate) fn rss_kib(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| format!("{path}: no VmRSS"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Binds the calling thread, and what it starts from now on, to a processor.
pub(crate) fn pin_this_thread(cpu: usize) -> Result<(), String> {
    let link =
        std::fs::read_link("/proc/thread-self").map_err(|error| format!("/proc/thread-self: {error}"))?;
    let tid = link.file_name().and_then(|name| name.to_str()?.parse().ok());
    pin(tid.ok_or("/proc/thread-self is not understood")?, cpu)
}

/// Binds a thread to a processor, if it has not ended meanwhile.
fn pin(tid: u32, cpu: usize) -> Result<(), String> {
    let mut taskset = Command::new("taskset");
    taskset.args(["--cpu-list", "--pid", &cpu.to_string(), &tid.to_string()]);
    let status = taskset.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.map(drop).map_err(|error| format!("taskset: {error}"))
}

/// User and system time in a line of `/proc/PID/stat`: fields 14 and 15, counted behind the name in parentheses.
fn cpu_in_stat(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Duration::from_secs_f64((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND))
}

/// Runs a program to its end and returns what it printed; it is killed at the limit.
///
/// A thread waits for the child, so that its end is seen at once: short programs are timed around this function.
pub(crate) fn output(command: &mut Command, limit: Duration, log: &Path) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = spawn(command, log)?;
    let pid = child.id();
    let (sender, ended) = channel();
    thread::spawn(move || sender.send(child.wait()));
    let Ok(status) = ended.recv_timeout(limit) else {
        signal(pid, "-KILL");
        return Err(format!("{name}: did not end within {limit:?}"));
    };
    let status = status.map_err(|error| format!("{name}: {error}"))?;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    if status.success() { Ok(text) } else { Err(format!("{name}: {status}: {}", last_lines(&text))) }
}

/// Starts a program without standard input; what it prints goes to `log`.
fn spawn(command: &mut Command, log: &Path) -> Result<Child, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let open = || File::create(log).and_then(|file| Ok((file.try_clone()?, file)));
    let (out, err) = open().map_err(|error| format!("{}: {error}", log.display()))?;
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    child.map_err(|error| format!("cannot start {name}: {error}"))
}

/// Sends a signal to a child of ours that has not been waited for; whether it could be sent.
fn signal(pid: u32, name: &str) -> bool {
    let sent = Command::new("kill").args([name, &pid.to_string()]).stdin(Stdio::null()).status();
    sent.is_ok_and(|status| status.success())
}

/// The end of a log, for an error.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) (b) S 1 7 7 0 -1 4 98 0 0 0 150 50 0 0 20 0 1 0 181191 0";
        assert_eq!(cpu_in_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_in_stat("7 (a"), None);
    }

    #[test]
    fn a_child_that_hangs_is_ended_at_its_limit() {
        let log = std::env::temp_dir().join(format!("drystone-bench-test-{}", std::process::id()));
        let began = Instant::now();
        let ended = output(Command::new("sleep").arg("1000"), Duration::from_millis(50), &log);
        let _ = std::fs::remove_file(&log);
        assert!(ended.is_err_and(|text| text.contains("did not end")));
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
