//! The error numbers of the transmission phase, and how ours become them.
//!
//! | ours (errno) | on the wire |
//! |---|---|
//! | EPERM, EACCES, EROFS | `EPERM` |
//! | ENOMEM | `ENOMEM` |
//! | ENOSPC, EDQUOT, EFBIG | `ENOSPC` |
//! | EINVAL, E2BIG | `EINVAL` |
//! | ENOTSUP | `ENOTSUP` for a `WRITE_ZEROES` with `FAST_ZERO`, else `EINVAL` |
//! | EOVERFLOW | `EOVERFLOW` for a `READ` with `DF`, else `EINVAL` |
//! | ESHUTDOWN | `ESHUTDOWN` |
//! | all others | `EIO` |
//!
//! Spec "Error values": nothing else may go out, the last two special cases included. Unlike the C tools, which turn an
//! errno they do not know into `EINVAL`, we say `EIO`: a time-out below is not the client's mistake.

use crate::request::{Command, Request};
use crate::wire::CommandFlags;
use drystone_base::Error;

/// Spec "Error values".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum NbdError {
    /// Operation not permitted.
    NotPermitted = 1,
    /// Input/output error.
    Io = 5,
    /// Cannot allocate memory.
    NoMemory = 12,
    /// Invalid argument.
    Invalid = 22,
    /// No space left on device.
    NoSpace = 28,
    /// Value too large.
    Overflow = 75,
    /// Operation not supported.
    NotSupported = 95,
    /// The server is being shut down.
    Shutdown = 108,
}

impl NbdError {
    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        self as u32
    }

    /// The error of a number that is not zero. Spec "Error values": an unexpected one counts as `EINVAL`.
    #[must_use]
    pub const fn from_wire(number: u32) -> Self {
        match number {
            1 => Self::NotPermitted,
            5 => Self::Io,
            12 => Self::NoMemory,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            _ => Self::Invalid,
        }
    }

    /// The Linux errno: the same number.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// What a client is told about `error`, which ended `request`.
    #[must_use]
    pub fn for_reply(error: &Error, request: &Request) -> Self {
        Self::from_errno(error.errno(), request.command, request.flags)
    }

    /// What a client is told about a Linux errno that ended a request.
    #[must_use]
    pub const fn from_errno(errno: i32, command: Command, flags: CommandFlags) -> Self {
        match errno {
            1 | 13 | 30 => Self::NotPermitted,
            12 => Self::NoMemory,
            27 | 28 | 122 => Self::NoSpace,
            95 if matches!(command, Command::WriteZeroes) && flags.has(CommandFlags::FAST_ZERO) => {
                Self::NotSupported
            }
            75 if matches!(command, Command::Read) && flags.has(CommandFlags::DF) => Self::Overflow,
            7 | 22 | 75 | 95 => Self::Invalid,
            108 => Self::Shutdown,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_base::Kind;

    const ALL: [NbdError; 8] = [
        NbdError::NotPermitted,
        NbdError::Io,
        NbdError::NoMemory,
        NbdError::Invalid,
        NbdError::NoSpace,
        NbdError::Overflow,
        NbdError::NotSupported,
        NbdError::Shutdown,
    ];

    fn told(kind: Kind, command: Command, flags: CommandFlags) -> NbdError {
        let request = Request { cookie: 0, command, flags, offset_bytes: 0, len_bytes: 0 };
        NbdError::for_reply(&Error::new(kind, "x"), &request)
    }

    #[test]
    fn every_number_survives_the_wire_and_strangers_are_invalid() {
        for error in ALL {
            assert_eq!(NbdError::from_wire(error.to_wire()), error);
            assert_eq!(i64::from(error.errno()), i64::from(error.to_wire()));
        }
        assert_eq!(NbdError::from_wire(4), NbdError::Invalid);
        assert_eq!(NbdError::from_wire(u32::MAX), NbdError::Invalid);
    }

    #[test]
    fn a_full_disk_stays_a_full_disk_and_a_broken_one_is_an_io_error() {
        assert_eq!(told(Kind::NoSpace, Command::Write, CommandFlags::NONE), NbdError::NoSpace);
        assert_eq!(told(Kind::ReadOnly, Command::Write, CommandFlags::NONE), NbdError::NotPermitted);
        for kind in
            [Kind::Io, Kind::Corrupt, Kind::TimedOut, Kind::Cancelled, Kind::InUse, Kind::Disconnected]
        {
            assert_eq!(told(kind, Command::Read, CommandFlags::NONE), NbdError::Io, "{kind:?}");
        }
    }

    #[test]
    fn not_supported_goes_out_for_a_fast_zero_only() {
        let fast = CommandFlags::FAST_ZERO;
        assert_eq!(told(Kind::Unsupported, Command::WriteZeroes, fast), NbdError::NotSupported);
        assert_eq!(told(Kind::Unsupported, Command::WriteZeroes, CommandFlags::NONE), NbdError::Invalid);
        assert_eq!(told(Kind::Unsupported, Command::Trim, CommandFlags::NONE), NbdError::Invalid);
        assert_eq!(NbdError::from_errno(75, Command::Read, CommandFlags::DF), NbdError::Overflow);
        assert_eq!(NbdError::from_errno(75, Command::Read, CommandFlags::NONE), NbdError::Invalid);
    }
}
