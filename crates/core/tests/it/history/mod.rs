//! Bugs that block layers have had, as scenarios of this one: one test per story, named after its number in
//! `docs/history.md`. Stories that a type makes impossible are in the misuse catalogue instead.

mod change;
mod drain;
mod later;
mod lock;
mod permission;
