//! The rules of `blkdebug`, what state they are in, and which requests breakpoints hold. No I/O.
//!
//! ```text
//!   event ──► rules for it, in this state ──► inject-error: active from now on, instead of those of the last event
//!                                             set-state:    the state after this event
//!                                             breakpoint:   used up; the request is held until it is resumed
//!   request ─► active rules ──► the first that fits its kind and place: its errno; gone for good with `once`
//! ```
//! The rules of event `none` are active from the start.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use drystone_base::GuestRange;
use drystone_core::request::event::Event;

/// Kinds of requests, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// Reads.
    pub const READ: Self = Self(0x01);
    /// Writes.
    pub const WRITE: Self = Self(0x02);
    /// Writing zeroes.
    pub const WRITE_ZEROES: Self = Self(0x04);
    /// Discards.
    pub const DISCARD: Self = Self(0x08);
    /// Flushes.
    pub const FLUSH: Self = Self(0x10);
    /// Questions about block status.
    pub const BLOCK_STATUS: Self = Self(0x20);
    /// What is meant if nothing is said: all but questions.
    pub const DEFAULT: Self = Self(0x1f);

    /// The names in options.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("read", Self::READ),
        ("write", Self::WRITE),
        ("write-zeroes", Self::WRITE_ZEROES),
        ("discard", Self::DISCARD),
        ("flush", Self::FLUSH),
        ("block-status", Self::BLOCK_STATUS),
    ];

    const fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }
}

/// An error to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InjectError {
    /// What makes the rule active.
    pub event: Event,
    /// The state that it needs; 0 for any.
    pub state: u64,
    /// Which requests fail.
    pub kinds: Kinds,
    /// With which errno; 0 for none, which keeps others from failing.
    pub errno: i32,
    /// Requests that touch this byte, or all.
    pub offset: Option<u64>,
    /// Once only.
    pub once: bool,
}

/// A change of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetState {
    /// What makes it happen.
    pub event: Event,
    /// The state that it needs; 0 for any.
    pub state: u64,
    /// The state that follows.
    pub new_state: u64,
}

/// A rule that was given as an option or in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Requests fail.
    InjectError(InjectError),
    /// The state changes.
    SetState(SetState),
}

/// What a breakpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// A request is held.
    Suspended,
    /// It goes on.
    Resuming,
}

/// Who is told what breakpoints do, and under which tag.
pub type Listener = Box<dyn Fn(Halt, &str) + Send + Sync>;

/// Rules, state, breakpoints. Any thread.
pub(super) struct Rules(Mutex<State>);

struct State {
    next_id: u64,
    state: u64,
    errors: Vec<(u64, InjectError)>,
    changes: Vec<SetState>,
    /// Of those rules that inject errors: active ones, by number.
    active: Vec<u64>,
    /// The latest first.
    breakpoints: Vec<(Event, String)>,
    held: Vec<Held>,
    waiting: Vec<Waker>,
    listener: Option<Listener>,
}

/// A request that a breakpoint holds.
struct Held {
    id: u64,
    tag: String,
    is_resumed: bool,
    waker: Option<Waker>,
}

impl Rules {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut state = State {
            next_id: 0,
            state: 1,
            errors: Vec::new(),
            changes: Vec::new(),
            active: Vec::new(),
            breakpoints: Vec::new(),
            held: Vec::new(),
            waiting: Vec::new(),
            listener: None,
        };
        for rule in rules {
            match rule {
                Rule::InjectError(error) => {
                    let id = state.id();
                    state.errors.push((id, *error));
                }
                Rule::SetState(change) => state.changes.push(*change),
            }
        }
        state.happen(Event::None);
        Self(Mutex::new(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is about to happen: the numbers of the breakpoints that hold the request.
    pub(super) fn happen(&self, event: Event) -> Vec<u64> {
        let mut state = self.state();
        state.happen(event);
        let held = state.halt(event);
        for waker in std::mem::take(&mut state.waiting) {
            waker.wake();
        }
        held
    }

    /// The errno that a request fails with, if it does. `range` is empty for one that touches no bytes.
    pub(super) fn errno(&self, kind: Kinds, range: GuestRange) -> Option<i32> {
        let mut state = self.state();
        let State { errors, active, .. } = &mut *state;
        let fits = |error: &InjectError| {
            let touches = |at: u64| (range.start().get()..range.end().get()).contains(&at);
            error.kinds.has(kind) && error.offset.is_none_or(touches)
        };
        let (id, error) =
            active.iter().find_map(|id| errors.iter().find(|(known, error)| known == id && fits(error)))?;
        let (id, error) = (*id, *error);
        if error.errno != 0 && error.once {
            active.retain(|known| *known != id);
            errors.retain(|(known, _)| *known != id);
        }
        (error.errno != 0).then_some(error.errno)
    }

    /// Sets a breakpoint.
    pub(super) fn set_breakpoint(&self, event: Event, tag: &str) {
        self.state().breakpoints.insert(0, (event, tag.to_owned()));
    }

    /// Takes breakpoints away and lets the requests that they hold go on; whether there was one.
    pub(super) fn remove_breakpoints(&self, tag: &str) -> bool {
        let mut state = self.state();
        let before = state.breakpoints.len();
        state.breakpoints.retain(|(_, known)| known != tag);
        let is_gone = state.breakpoints.len() < before;
        while state.resume(tag) {}
        is_gone
    }

    /// Lets one request go on; whether there was one.
    pub(super) fn resume(&self, tag: &str) -> bool {
        self.state().resume(tag)
    }

    /// Ready once a breakpoint holds a request under that tag.
    pub(super) fn poll_held(&self, tag: &str, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.held.iter().any(|held| held.tag == tag && !held.is_resumed) {
            return Poll::Ready(());
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn listen(&self, listener: Listener) {
        self.state().listener = Some(listener);
    }

    /// Ready once a held request was resumed.
    pub(super) fn poll_resumed(&self, id: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        match state.held.iter_mut().find(|held| held.id == id) {
            Some(held) if !held.is_resumed => {
                held.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The tag under which a request is held.
    pub(super) fn tag(&self, id: u64) -> String {
        let state = self.state();
        state.held.iter().find(|held| held.id == id).map(|held| held.tag.clone()).unwrap_or_default()
    }

    /// A request is not held any more.
    pub(super) fn go_on(&self, id: u64) {
        let mut state = self.state();
        if let Some(index) = state.held.iter().position(|held| held.id == id) {
            let held = state.held.remove(index);
            if !held.is_resumed {
                state.tell(Halt::Resuming, &held.tag);
            }
        }
    }
}

impl State {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn happen(&mut self, event: Event) {
        let fits = |wanted: Event, state: u64| wanted == event && (state == 0 || state == self.state);
        let fitting = self.errors.iter().filter(|(_, error)| fits(error.event, error.state));
        let active: Vec<u64> = fitting.map(|(id, _)| *id).collect();
        let next = self.changes.iter().rfind(|change| fits(change.event, change.state));
        let next = next.map(|change| change.new_state);
        if !active.is_empty() {
            self.active = active;
        }
        self.state = next.unwrap_or(self.state);
    }

    /// Lets one request go on that is held under a tag; whether there is one.
    fn resume(&mut self, tag: &str) -> bool {
        let Some(held) = self.held.iter_mut().find(|held| held.tag == tag && !held.is_resumed) else {
            return false;
        };
        held.is_resumed = true;
        if let Some(waker) = held.waker.take() {
            waker.wake();
        }
        self.tell(Halt::Resuming, tag);
        true
    }

    /// Uses up the breakpoints for an event.
    fn halt(&mut self, event: Event) -> Vec<u64> {
        let mut ids = Vec::new();
        while let Some(index) = self.breakpoints.iter().position(|(wanted, _)| *wanted == event) {
            let (_, tag) = self.breakpoints.remove(index);
            let id = self.id();
            self.tell(Halt::Suspended, &tag);
            self.held.push(Held { id, tag, is_resumed: false, waker: None });
            ids.push(id);
        }
        ids
    }

    fn tell(&self, halt: Halt, tag: &str) {
        if let Some(listener) = &self.listener {
            listener(halt, tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_base::GuestOffset;

    const EVERY: InjectError = InjectError {
        event: Event::ReadAio,
        state: 0,
        kinds: Kinds::DEFAULT,
        errno: 5,
        offset: None,
        once: false,
    };

    fn sectors(first: u64, count: u64) -> GuestRange {
        GuestRange::new(GuestOffset::new(first * 512), count * 512)
    }

    #[test]
    fn an_error_stays_active_until_another_event_brings_others() {
        let write = InjectError { event: Event::WriteAio, errno: 28, ..EVERY };
        let rules = Rules::new(&[Rule::InjectError(EVERY), Rule::InjectError(write)]);
        assert_eq!(rules.errno(Kinds::READ, sectors(0, 1)), None, "before the event");
        rules.happen(Event::ReadAio);
        assert_eq!(rules.errno(Kinds::READ, sectors(0, 1)), Some(5));
        rules.happen(Event::L2Load);
        assert_eq!(rules.errno(Kinds::WRITE, sectors(0, 1)), Some(5), "of another kind, too");
        rules.happen(Event::WriteAio);
        assert_eq!(rules.errno(Kinds::READ, sectors(0, 1)), Some(28));
    }

    #[test]
    fn rules_without_an_event_are_active_at_once() {
        let rules = Rules::new(&[Rule::InjectError(InjectError { event: Event::None, ..EVERY })]);
        assert_eq!(rules.errno(Kinds::FLUSH, sectors(0, 0)), Some(5));
        assert_eq!(rules.errno(Kinds::BLOCK_STATUS, sectors(0, 1)), None, "unless it is asked for");
    }

    #[test]
    fn a_rule_may_be_about_a_kind_a_place_and_one_time() {
        let rule =
            InjectError { event: Event::None, kinds: Kinds::READ, offset: Some(512), once: true, ..EVERY };
        let rules = Rules::new(&[Rule::InjectError(rule)]);
        assert_eq!(rules.errno(Kinds::WRITE, sectors(1, 1)), None);
        assert_eq!(rules.errno(Kinds::READ, sectors(0, 1)), None);
        assert_eq!(rules.errno(Kinds::READ, sectors(2, 1)), None);
        assert_eq!(rules.errno(Kinds::READ, sectors(0, 2)), Some(5));
        assert_eq!(rules.errno(Kinds::READ, sectors(0, 2)), None);
    }

    #[test]
    fn a_state_follows_from_an_event_and_the_state_before() {
        let change = SetState { event: Event::WriteAio, state: 1, new_state: 2 };
        let error = InjectError { event: Event::WriteAio, state: 2, ..EVERY };
        let rules = Rules::new(&[Rule::InjectError(error), Rule::SetState(change)]);
        rules.happen(Event::WriteAio);
        assert_eq!(rules.errno(Kinds::WRITE, sectors(0, 1)), None);
        rules.happen(Event::WriteAio);
        assert_eq!(rules.errno(Kinds::WRITE, sectors(0, 1)), Some(5));
    }

    #[test]
    fn a_breakpoint_holds_one_request_and_several_hold_one_together() {
        let rules = Rules::new(&[]);
        rules.set_breakpoint(Event::Pwritev, "a");
        rules.set_breakpoint(Event::Pwritev, "b");
        let held = rules.happen(Event::Pwritev);
        assert_eq!(held.iter().map(|id| rules.tag(*id)).collect::<Vec<_>>(), ["b", "a"]);
        assert!(rules.happen(Event::Pwritev).is_empty());
        assert!(rules.resume("a"));
        assert!(!rules.resume("a"), "it goes on already");
        assert!(!rules.resume("c"));
        assert!(!rules.remove_breakpoints("b"), "it is used up, and its request goes on");
        assert!(!rules.resume("b"));
    }
}
