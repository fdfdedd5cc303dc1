//! [`QmpError`]: what a client is told when a request is refused.
//!
//! A client may branch on the class, never on the text. Nearly everything is [`ErrorClass::GenericError`].

use std::fmt;

/// Spec "Error": the class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// No command has this name, or none may run now.
    CommandNotFound,
    /// The device exists, and what was asked for is not active on it (a job that does not run).
    DeviceNotActive,
    /// No device or node has this name.
    DeviceNotFound,
}

impl ErrorClass {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
        }
    }
}

/// A refusal: a class to branch on and one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpError {
    /// What a program may branch on.
    pub class: ErrorClass,
    /// What a person reads.
    pub desc: String,
}

impl QmpError {
    /// An error of a class.
    #[must_use]
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        Self { class, desc: desc.into() }
    }

    /// An error of the class that nearly all have.
    #[must_use]
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::GenericError, desc)
    }

    /// The text of a request is no JSON.
    pub(crate) fn json(what: impl fmt::Display) -> Self {
        Self::generic(format!("JSON parse error, {what}"))
    }
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

impl std::error::Error for QmpError {}

/// The whole report. No class but the general one: release 10.0 gives the others for its object tree and for the older
/// job commands only, which name them themselves.
impl From<drystone_base::Error> for QmpError {
    fn from(error: drystone_base::Error) -> Self {
        Self::generic(error.report())
    }
}
