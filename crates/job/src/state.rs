//! The life of a job: its states, the ways between them, and what may be asked of it in each. One table, no I/O.
//!
//! ```text
//!   undefined -> created -> running <-> paused
//!                   |          |  \
//!                   |          |   '-> ready <-> standby
//!                   |          v         |          |
//!                   |       waiting <----'          |
//!                   v          v                    v
//!                null <-.   pending -> aborting (from everything that has begun)
//!                       |      v          |
//!                       '-- concluded <---'
//! ```
//! Nobody sees `undefined` and `null`. Every change that users see is an event.

use std::fmt;

use drystone_base::{Error, Kind, Result};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It is being made.
    Undefined,
    /// It was made and has not begun.
    Created,
    /// It works.
    Running,
    /// It stands still and will go on.
    Paused,
    /// All is copied, new writes are copied as they come, and it waits to be told to complete.
    Ready,
    /// As `Ready`, standing still.
    Standby,
    /// It has done its work and waits for the others of its group.
    Waiting,
    /// Its last step is left, which changes the graph.
    Pending,
    /// It failed or was cancelled, and cleans up.
    Aborting,
    /// It has ended, well or not.
    Concluded,
    /// It is gone.
    Null,
}

/// What can be asked of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// End without success.
    Cancel,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Change the rate limit.
    SetSpeed,
    /// Change an option.
    Change,
    /// Finish, being ready.
    Complete,
    /// Do the last step.
    Finalize,
    /// Be forgotten.
    Dismiss,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::Undefined,
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Ready,
        Self::Standby,
        Self::Waiting,
        Self::Pending,
        Self::Aborting,
        Self::Concluded,
        Self::Null,
    ];

    /// The statuses that may follow, and the verbs that are accepted.
    const fn row(self) -> (&'static [Self], &'static [Verb]) {
        use Verb as V;
        const ALIVE: &[Verb] = &[V::Cancel, V::Pause, V::Resume, V::SetSpeed, V::Change];
        const READY: &[Verb] = &[V::Cancel, V::Pause, V::Resume, V::SetSpeed, V::Change, V::Complete];
        match self {
            Self::Undefined => (&[Self::Created], &[]),
            Self::Created => (&[Self::Running, Self::Aborting, Self::Null], ALIVE),
            Self::Running => (&[Self::Paused, Self::Ready, Self::Waiting, Self::Aborting], ALIVE),
            Self::Paused => (&[Self::Running], ALIVE),
            Self::Ready => (&[Self::Standby, Self::Waiting, Self::Aborting], READY),
            Self::Standby => (&[Self::Ready], READY),
            Self::Waiting => (&[Self::Pending, Self::Aborting], &[V::Cancel]),
            Self::Pending => (&[Self::Aborting, Self::Concluded], &[V::Cancel, V::Finalize]),
            Self::Aborting => (&[Self::Aborting, Self::Concluded], &[]),
            Self::Concluded => (&[Self::Null], &[V::Dismiss]),
            Self::Null => (&[], &[]),
        }
    }

    /// Whether `next` may follow.
    #[must_use]
    pub fn leads_to(self, next: Self) -> bool {
        self.row().0.contains(&next)
    }

    /// Whether `verb` is accepted.
    #[must_use]
    pub fn accepts(self, verb: Verb) -> bool {
        self.row().1.contains(&verb)
    }

    /// Whether the work is done, well or not.
    #[must_use]
    pub const fn is_completed(self) -> bool {
        matches!(self, Self::Waiting | Self::Pending | Self::Aborting | Self::Concluded | Self::Null)
    }

    /// Whether all is copied and the job waits to be told to complete.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Standby)
    }

    /// Its name in QMP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ready => "ready",
            Self::Standby => "standby",
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Aborting => "aborting",
            Self::Concluded => "concluded",
            Self::Null => "null",
        }
    }

    /// Fails unless `verb` is accepted of job `id`.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`], naming job, state and verb.
    pub fn demand(self, id: &str, verb: Verb) -> Result<()> {
        if self.accepts(verb) {
            return Ok(());
        }
        let text = format!("job '{id}' in state '{self}' cannot accept command verb '{verb}'");
        Err(Error::new(Kind::InvalidInput, text))
    }
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 8] = [
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::SetSpeed,
        Self::Change,
        Self::Complete,
        Self::Finalize,
        Self::Dismiss,
    ];

    /// Its name in QMP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SetSpeed => "set-speed",
            Self::Change => "change",
            Self::Complete => "complete",
            Self::Finalize => "finalize",
            Self::Dismiss => "dismiss",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAPSHOT: &str = "\
undefined  | created
created    | running aborting null          | cancel pause resume set-speed change
running    | paused ready waiting aborting  | cancel pause resume set-speed change
paused     | running                        | cancel pause resume set-speed change
ready      | standby waiting aborting       | cancel pause resume set-speed change complete
standby    | ready                          | cancel pause resume set-speed change complete
waiting    | pending aborting               | cancel
pending    | aborting concluded             | cancel finalize
aborting   | aborting concluded
concluded  | null                           | dismiss
null       |
";

    #[test]
    fn the_whole_life_of_a_job() {
        let mut table = String::new();
        for status in Status::ALL {
            let next: Vec<_> =
                Status::ALL.into_iter().filter(|next| status.leads_to(*next)).map(Status::name).collect();
            let verbs: Vec<_> =
                Verb::ALL.into_iter().filter(|verb| status.accepts(*verb)).map(Verb::name).collect();
            let row = format!("{:<10} | {:<30} | {}", status.name(), next.join(" "), verbs.join(" "));
            table.push_str(row.trim_end_matches([' ', '|']));
            table.push_str(if next.is_empty() { " |\n" } else { "\n" });
        }
        assert_eq!(table, SNAPSHOT.replace("null       |", "null |"));
    }

    #[test]
    fn a_refused_verb_names_job_state_and_verb() {
        for status in Status::ALL {
            for verb in Verb::ALL.into_iter().filter(|verb| !status.accepts(*verb)) {
                let error = status.demand("disk0", verb).unwrap_err();
                for name in ["disk0", status.name(), verb.name()] {
                    assert!(error.report().contains(&format!("'{name}'")), "{}", error.report());
                }
            }
        }
    }

    #[test]
    fn every_status_but_the_last_leads_to_the_end() {
        for start in Status::ALL {
            let mut seen = vec![start];
            while let Some(next) = Status::ALL
                .into_iter()
                .find(|next| !seen.contains(next) && seen.iter().any(|at| at.leads_to(*next)))
            {
                seen.push(next);
            }
            assert!(seen.contains(&Status::Null), "{start}");
        }
    }
}
