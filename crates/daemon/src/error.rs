//! Errors as QMP says them, and as the command line does.

use drystone_base::{Error, Kind};
use drystone_qmp::{ErrorClass, QmpError};

/// As a client is told.
pub(crate) fn to_qmp(error: &Error) -> QmpError {
    QmpError::new(ErrorClass::GenericError, error.report())
}

/// A refusal of the schema, as an error of ours.
pub(crate) fn of_qmp(error: &QmpError) -> Error {
    Error::new(Kind::InvalidInput, error.desc.clone())
}
