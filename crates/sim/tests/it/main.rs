//! The simulation itself: scripts as text, equal runs of equal scripts, and the scripts that found something once.

mod script;
mod seeds;
