//! [`Progress`]: how far a command is.
//!
//! | | printed |
//! |---|---|
//! | with `-p` | `    (12.34/100%)` and a carriage return to standard output, at the start, at each per cent, and at the end |
//! | without, on SIGUSR1 | the same with a line feed to standard error, once |

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How far a command is, in per cent. Any thread.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `-p` was given.
    is_shown: bool,
    /// The line is to be ended, whatever comes of the command.
    has_line: bool,
    /// A signal asks.
    is_asked: bool,
    percent: f64,
    shown_percent: Option<f64>,
}

impl Progress {
    /// Nothing is done yet, and nothing is printed unless somebody asks.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `-p`: prints from now on, and ends the line when the command ends.
    pub(crate) fn show(&self) {
        self.begin();
        self.show_open();
    }

    /// `-p`: prints from now on; the line is ended by the caller.
    pub(crate) fn show_open(&self) {
        let mut state = self.state();
        state.is_shown = true;
        state.report();
    }

    /// `-p`: ends the line when the command ends, also if nothing is shown.
    pub(crate) fn begin(&self) {
        self.state().has_line = true;
    }

    /// `done` of `all` is done.
    #[expect(clippy::cast_precision_loss, reason = "two digits are printed")]
    pub(crate) fn set(&self, done: u64, all: u64) {
        let mut state = self.state();
        state.percent = if all == 0 { 100.0 } else { done as f64 / all as f64 * 100.0 };
        state.report();
    }

    /// Prints once, as a signal asks.
    pub(super) fn ask(&self) {
        let mut state = self.state();
        state.is_asked = true;
        state.report();
    }

    /// Everything is done.
    pub(crate) fn finish(&self) {
        let mut state = self.state();
        state.percent = 100.0;
        state.shown_percent = None;
        state.report();
    }

    /// The command has ended: the end of the line.
    pub(super) fn end(&self) {
        if std::mem::take(&mut self.state().has_line) {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(b"\n").and_then(|()| out.flush());
        }
    }
}

impl State {
    fn report(&mut self) {
        let text = format!("    ({:.2}/100%)", self.percent);
        if !self.is_shown {
            if std::mem::take(&mut self.is_asked) {
                crate::console::note(text);
            }
            return;
        }
        let is_due = |shown: f64| self.percent - shown >= 1.0 || (self.percent >= 100.0 && shown < 100.0);
        if self.shown_percent.is_none_or(is_due) {
            self.shown_percent = Some(self.percent);
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "{text}\r").and_then(|()| out.flush());
        }
    }
}
