//! Child processes: no standard input, a time limit, output shown and kept.
//!
//! ```text
//!  child -- stdout --> reader thread --+
//!        -- stderr --> reader thread --+--> one loop: print, keep, watch the clock and the child
//! ```
//! Invariant: [`run`] returns within its limit plus [`GRACE`]: at the limit the child and everything below it is
//! killed, and a process that outlives the child while it holds our pipe is an error, not a hang.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a pipe may stay open after the child has ended.
const GRACE: Duration = Duration::from_secs(2);
/// How often the loop looks at the child when it prints nothing.
const TICK: Duration = Duration::from_millis(20);

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Everything it printed, both streams, in the order in which lines arrived.
    pub(crate) output: String,
    /// Why it counts as failed; `None` if it ended with status 0 in time.
    pub(crate) failure: Option<String>,
}

/// `cargo` as it was called for us, without the variables that it sets for the program it runs.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Whether a program can be started and says that it succeeded; prints nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    quiet(command).is_ok()
}

/// Standard output of a short-lived program.
pub(crate) fn quiet(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done =
        command.stdin(Stdio::null()).output().map_err(|error| format!("cannot start {name}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{name}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a program to its end or to `limit`, showing what it prints.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Outcome {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let failure = format!("cannot start {}: {error}", command.get_program().to_string_lossy());
            return Outcome { output: String::new(), failure: Some(failure) };
        }
    };
    let (sender, lines) = channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, sender.clone(), false);
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, sender, true);
    }
    let mut output = String::new();
    let failure = watch(&mut child, &lines, Instant::now() + limit, &mut output).err();
    Outcome { output, failure }
}

/// Sends the lines of one stream until it ends.
fn forward(stream: impl Read + Send + 'static, lines: Sender<(bool, String)>, is_stderr: bool) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
            if lines.send((is_stderr, String::from_utf8_lossy(&bytes).into_owned())).is_err() {
                return;
            }
            bytes.clear();
        }
    });
}

/// Shows lines until both streams and the child have ended, or the deadline has passed.
fn watch(
    child: &mut Child,
    lines: &Receiver<(bool, String)>,
    deadline: Instant,
    output: &mut String,
) -> Result<(), String> {
    let mut ended: Option<(ExitStatus, Instant)> = None;
    let mut open = true;
    loop {
        match lines.recv_timeout(TICK) {
            Ok((is_stderr, line)) => show(is_stderr, &line, output),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                open = false;
                thread::sleep(TICK);
            }
        }
        if ended.is_none() {
            let status = child.try_wait().map_err(|error| format!("cannot wait: {error}"))?;
            ended = status.map(|status| (status, Instant::now()));
        }
        match ended {
            Some((status, _)) if !open => return verdict(status),
            Some((_, at)) if at.elapsed() > GRACE => {
                return Err("it left a process behind that holds its output open".into());
            }
            None if Instant::now() > deadline => {
                kill_tree(child);
                while let Ok((is_stderr, line)) = lines.recv_timeout(GRACE) {
                    show(is_stderr, &line, output);
                }
                return Err("it did not end within its time limit and was killed".into());
            }
            _ => {}
        }
    }
}

fn show(is_stderr: bool, line: &str, output: &mut String) {
    if is_stderr {
        eprint!("{line}");
    } else {
        print!("{line}");
    }
    output.push_str(line);
}

fn verdict(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// Kills a child and everything below it. The child stays in our process group, so that an interrupt from the
/// terminal reaches it too; that is why its descendants are looked up instead of killing a group.
fn kill_tree(child: &mut Child) {
    let mut doomed = vec![child.id()];
    let parents = parents();
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let pids = doomed.iter().map(ToString::to_string);
    let _ = quiet(Command::new("kill").arg("-KILL").args(pids));
    let _ = child.kill();
    let _ = child.wait();
}

/// Every process and its parent, from `/proc/PID/stat`; empty where that does not exist.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parent_in_stat(&stat)?))
        })
        .collect()
}

/// The parent's id in a line of `/proc/PID/stat`: the second field after the command name, which is in parentheses
/// and may itself hold spaces and parentheses.
fn parent_in_stat(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_are_kept_and_standard_input_is_empty() {
        let outcome = run(&mut shell("cat; echo out; echo err >&2"), Duration::from_secs(20));
        assert_eq!(outcome.failure, None);
        assert!(outcome.output.contains("out\n"), "{}", outcome.output);
        assert!(outcome.output.contains("err\n"), "{}", outcome.output);
    }

    #[test]
    fn a_failing_child_says_its_status() {
        let outcome = run(&mut shell("exit 3"), Duration::from_secs(20));
        assert_eq!(outcome.failure.as_deref(), Some("exit status: 3"));
    }

    #[test]
    fn a_child_that_hangs_is_killed_with_what_it_started() {
        let began = Instant::now();
        let outcome = run(&mut shell("sleep 1000 & echo $!; sleep 1000"), Duration::from_millis(300));
        assert!(outcome.failure.is_some_and(|text| text.contains("time limit")));
        assert!(began.elapsed() < Duration::from_secs(20));
        let grandchild: u32 = outcome.output.trim().parse().unwrap();
        let is_alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while is_alive() {
            assert!(began.elapsed() < Duration::from_secs(20), "{grandchild} lives on");
            thread::yield_now();
        }
    }

    #[test]
    fn a_process_left_behind_is_an_error_and_not_a_hang() {
        let outcome = run(&mut shell("sleep 30 & echo $!"), Duration::from_secs(60));
        let _ = quiet(Command::new("kill").arg(outcome.output.trim()));
        assert!(outcome.failure.is_some_and(|text| text.contains("left a process behind")));
    }

    #[test]
    fn the_parent_is_found_behind_any_command_name() {
        assert_eq!(parent_in_stat("12 (a) b) (c)) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent_in_stat("garbage"), None);
    }
}
