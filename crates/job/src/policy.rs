//! What a job does when a request fails.
//!
//! | `on-error` | no space left | another error |
//! |---|---|---|
//! | `report` | report | report |
//! | `ignore` | ignore | ignore |
//! | `enospc`, `auto` | stop | report |
//! | `stop` | stop | stop |

use drystone_base::{Error, Kind};

use crate::event::ErrorAction;

/// The option `on-error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// End the job.
    #[default]
    Report,
    /// Go on with the rest, and fail at the end.
    Ignore,
    /// Pause the job if the device is full, else end it.
    Enospc,
    /// Pause the job.
    Stop,
    /// The same as `Enospc`.
    Auto,
}

impl OnError {
    /// What to do about `error`.
    #[must_use]
    pub fn action(self, error: &Error) -> ErrorAction {
        match self {
            Self::Report => ErrorAction::Report,
            Self::Ignore => ErrorAction::Ignore,
            Self::Stop => ErrorAction::Stop,
            Self::Enospc | Self::Auto if error.kind() == Kind::NoSpace => ErrorAction::Stop,
            Self::Enospc | Self::Auto => ErrorAction::Report,
        }
    }
}

/// Whether a job was stopped by an error. A resume makes it well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoStatus {
    /// It was not.
    #[default]
    Ok,
    /// Something failed.
    Failed,
    /// The device was full.
    NoSpace,
}

impl IoStatus {
    /// What `error` leaves.
    pub(crate) fn after(error: &Error) -> Self {
        if error.kind() == Kind::NoSpace { Self::NoSpace } else { Self::Failed }
    }

    /// Its name in QMP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::NoSpace => "nospace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_meets_each_error() {
        use ErrorAction::{Ignore, Report, Stop};
        let errors = [Kind::NoSpace, Kind::Io].map(|kind| Error::new(kind, "cannot write"));
        let actions = |policy: OnError| errors.each_ref().map(|error| policy.action(error));
        assert_eq!(actions(OnError::Report), [Report, Report]);
        assert_eq!(actions(OnError::Ignore), [Ignore, Ignore]);
        assert_eq!(actions(OnError::Enospc), [Stop, Report]);
        assert_eq!(actions(OnError::Auto), [Stop, Report]);
        assert_eq!(actions(OnError::Stop), [Stop, Stop]);
    }
}
