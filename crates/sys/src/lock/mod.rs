//! Image locks: what keeps two processes from damaging one image.
//!
//! ```text
//!   byte of the file    100  101    102              103        200  201  202  203
//!   locked (shared)     the permission is wanted                the permission is not shared
//!   permission (bit)    consistent read, write, write unchanged, resize            the same
//! ```
//! Every lock is a shared one, so locking never excludes anybody by itself. Conflicts are found by asking whether an
//! exclusive lock *could* be had: for each wanted permission on the byte that says "not shared", and for each unshared
//! one on the byte that says "wanted". First lock, then ask: of two processes that race, both may fail, never both
//! succeed. The bytes are those of the C tools, which take part in this.
//!
//! ```text
//!   prepare: lock what is new, ask --conflict--> unlock it again
//!     '--> Prepared --commit--> unlock what is not wanted any more
//!                   --drop----> unlock what was new
//! ```
//! Several changes can be prepared at the same time; what one of them wants, none of the others unlocks.
//! On a file system of this machine all that is done on the spot. Elsewhere, and as soon as somebody is in the way (finding
//! out who that is takes a while), it is done on a thread that may wait.
//!
//! | module | what |
//! |---|---|
//! | `bytes` | locking, unlocking and asking |
//! | `holder` | who holds the lock in the way |
//!
//! Invariants: a set that only shrinks is not asked about; the old set and those of all prepared changes stay locked until
//! they are given up. Locks belong to the open file (OFD locks) and end when its last descriptor is closed; a program that is
//! being started has copies of all descriptors for a moment, and keeps the locks as long.

mod bytes;
mod holder;

use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drystone_base::{Error, Kind, Result};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::runtime::Local;
use rustix::io::Errno;

use self::bytes::{Table, query, set};
use crate::file::inner::Flag;
use crate::file::{File, Reopened};
use crate::local::SysLocal;

/// Whether an image is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locking {
    /// If the system has locks that belong to open files.
    #[default]
    Auto,
    /// Always; where there is nothing better with POSIX locks, which belong to processes and are lost when any
    /// descriptor of the file is closed. See [`ImageLock::is_fragile`].
    On,
    /// Never.
    Off,
}

/// How long to wait, again and again, for locks that nobody seems to hold any more.
const DESERTED_WAITS: &[Duration] = &[
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(75),
    Duration::from_millis(150),
    Duration::from_millis(250),
];

/// The image locks of one open file.
#[derive(Clone)]
pub struct ImageLock(Arc<Inner>);

struct Inner {
    file: File,
    table: Option<Table>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is in force.
    held: LockBytes,
    /// What changes that are under way want, by their numbers.
    prepared: Vec<(u64, LockBytes)>,
    last_number: u64,
}

/// Which of the eight bytes: low half 100 to 103, high half 200 to 203.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct LockBytes(u8);

/// New locks are held beside the old ones, and nobody is in the way. Dropping it gives the new ones up.
#[must_use = "dropping it gives the new locks up"]
pub struct Prepared {
    lock: ImageLock,
    number: u64,
    new: LockBytes,
}

impl State {
    /// What has to be locked now.
    fn wanted(&self) -> LockBytes {
        self.prepared.iter().fold(self.held, |sum, (_, bytes)| sum.with(*bytes))
    }

    fn begin(&mut self, new: LockBytes) -> u64 {
        self.last_number += 1;
        self.prepared.push((self.last_number, new));
        self.last_number
    }

    fn end(&mut self, number: u64) {
        self.prepared.retain(|(known, _)| *known != number);
    }
}

impl LockBytes {
    const ALL: Self = Self(0xff);

    fn of(grant: Grant) -> Self {
        Self(grant.perm.bits() | (Perm::ALL.without(grant.shared).bits() << 4))
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The positions in the file.
    fn positions(self) -> impl Iterator<Item = i64> {
        (0..8)
            .filter(move |bit| self.0 & (1 << bit) != 0)
            .map(|bit| if bit < 4 { 100 + bit } else { 196 + bit })
    }

    /// The same permissions, wanted for unshared and the other way round: where others would be in the way.
    fn opposite(self) -> Self {
        Self(self.0.rotate_left(4))
    }
}

impl ImageLock {
    /// The locks of `file`, none of which is held yet.
    #[must_use]
    pub fn new(file: &File, locking: Locking) -> Self {
        let table = match locking {
            Locking::Off => None,
            Locking::Auto => Table::of_open_files(&*file.inner),
            Locking::On => Some(Table::of_open_files(&*file.inner).unwrap_or(Table::OfProcess)),
        };
        Self(Arc::new(Inner { file: file.clone(), table, state: Mutex::default() }))
    }

    /// Whether the locks are of the kind that this process may lose without noticing: worth a warning.
    #[must_use]
    pub fn is_fragile(&self) -> bool {
        self.0.table == Some(Table::OfProcess)
    }

    /// Takes the locks for `grant` beside those that are held, and makes sure that nobody is in the way.
    ///
    /// # Errors
    /// [`Kind::InUse`], naming the permission and, where it can be found out, the process; then the locks are as before.
    /// Those of the operating system.
    pub async fn prepare(&self, local: &dyn Local, grant: Grant) -> Result<Prepared> {
        let new = LockBytes::of(grant);
        let (number, held) = {
            let mut state = self.state();
            (state.begin(new), state.held)
        };
        let prepared = Prepared { lock: self.clone(), number, new };
        if self.0.table.is_none() || new.without(held).is_empty() {
            return Ok(prepared);
        }
        if self.0.file.inner.has(Flag::Local) && self.acquire_at_once(held, new) {
            return Ok(prepared);
        }
        // The call owns what it has prepared, so that nothing stays locked if nobody waits for it any more.
        let acquire = move || prepared.lock.acquire(held, new).map(|()| prepared);
        SysLocal::of(local)?.blocking(self.queue(), acquire).await?
    }

    fn acquire(&self, held: LockBytes, new: LockBytes) -> Result<()> {
        let Some(table) = self.0.table else { return Ok(()) };
        let file = &*self.0.file.inner;
        for position in new.without(held).positions() {
            set(file, table, position, true).map_err(|errno| self.refused(position, errno))?;
        }
        // What we want and others do not share comes first: it is what the user asked for.
        let (unshared, wanted): (Vec<_>, Vec<_>) =
            new.opposite().positions().partition(|position| *position >= 200);
        for position in unshared.into_iter().chain(wanted) {
            match self.free(table, position) {
                Ok(None) => {}
                Ok(Some(holder)) => return Err(self.in_the_way(position, holder)),
                Err(errno) => return Err(os(errno).at_path(self.0.file.path())),
            }
        }
        Ok(())
    }

    /// As [`Self::acquire`], where that does not wait and nobody is in the way. Otherwise it is to be done once more: who
    /// is in the way may take a while to find out.
    fn acquire_at_once(&self, held: LockBytes, new: LockBytes) -> bool {
        let (Some(table), file) = (self.0.table, &*self.0.file.inner) else { return false };
        let is_free = |position| matches!(query(file, table, position), Ok(None));
        new.without(held).positions().all(|position| set(file, table, position, true).is_ok())
            && new.opposite().positions().all(is_free)
    }

    /// Nobody has an exclusive lock's way blocked at `position`, or who does, as a phrase. A lock that no process in
    /// sight holds may be one of a process that was killed: the kernel gives up what its rings held a little later.
    fn free(&self, table: Table, position: i64) -> Result<Option<String>, Errno> {
        let mut patience = DESERTED_WAITS;
        loop {
            let Some(holder) = query(&*self.0.file.inner, table, position)? else { return Ok(None) };
            match (self.holder(position, holder.pid), patience.split_first()) {
                (Some(holder), _) => return Ok(Some(holder)),
                (None, None) => return Ok(Some("another process".into())),
                (None, Some((wait, rest))) => {
                    std::thread::sleep(*wait);
                    patience = rest;
                }
            }
        }
    }

    /// Only a foreign exclusive lock refuses a shared one.
    fn refused(&self, position: i64, errno: Errno) -> Error {
        match errno {
            Errno::AGAIN | Errno::ACCESS => {
                let holder = self.holder(position, None);
                self.in_the_way(position, holder.unwrap_or_else(|| "another process".into()))
            }
            errno => os(errno).at_path(self.0.file.path()),
        }
    }

    fn holder(&self, position: i64, pid: Option<u32>) -> Option<String> {
        holder::find(self.0.file.id(), self.0.file.inner.as_fd(), position, pid)
    }

    fn in_the_way(&self, position: i64, who: String) -> Error {
        let perm = Perm::from_bits(1 << (position % 100));
        let text = if position >= 200 {
            format!("cannot get the \"{perm}\" lock: {who} uses the image and does not share it")
        } else {
            format!("cannot get the lock that excludes \"{perm}\": {who} uses the image that way")
        };
        Error::new(Kind::InUse, text).at_path(self.0.file.path())
    }

    fn queue(&self) -> &crate::pool::BlockingQueue {
        &self.0.file.inner.queue
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives all locks up, before the file is closed: closing it would not end them while a process that was forked
    /// meanwhile has a copy of its descriptor. Never blocks for long, never fails.
    pub fn give_up(&self) {
        let mut state = self.state();
        state.held = LockBytes::default();
        self.release(LockBytes::ALL.without(state.wanted()));
    }

    /// Gives up `bytes`. A failure leaves locks that end with the file, which is the worst that can happen.
    fn release(&self, bytes: LockBytes) {
        let Some(table) = self.0.table else { return };
        for position in bytes.positions() {
            let _ = set(&*self.0.file.inner, table, position, false);
        }
    }
}

impl Prepared {
    /// Takes the new set on a file that is about to take the old one's place, without asking: the old one's locks are
    /// this process's own, and still keep others out.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn take_over(&self, local: &dyn Local, reopened: &Reopened) -> Result<()> {
        let Some(table) = self.lock.0.table else { return Ok(()) };
        let (lock, new) = (self.lock.clone(), self.new);
        let fd = Arc::clone(reopened.fd());
        let lock_all = move || {
            new.positions().try_for_each(|position| {
                set(&fd, table, position, true).map_err(|errno| lock.refused(position, errno))
            })
        };
        if self.lock.0.file.inner.has(Flag::Local) {
            return lock_all();
        }
        SysLocal::of(local)?.blocking(self.lock.queue(), lock_all).await?
    }

    /// The new set is in force; locks that nobody wants any more are given up. Never fails.
    pub fn commit(self) {
        let mut state = self.lock.state();
        let old = std::mem::replace(&mut state.held, self.new);
        state.end(self.number);
        self.lock.release(old.without(state.wanted()));
    }

    /// As [`Self::commit`], together with [`Reopened::commit`] of the file that [`Self::take_over`] was called for. The old
    /// file's locks are given up one by one: closing it would not end them while a process that was forked meanwhile
    /// has a copy of its descriptor.
    pub fn commit_with(self, reopened: Reopened) {
        let mut state = self.lock.state();
        state.held = self.new;
        state.end(self.number);
        let wanted = state.wanted();
        let Some(table) = self.lock.0.table else { return reopened.commit() };
        // What other changes have prepared since then.
        for position in wanted.without(self.new).positions() {
            let _ = set(reopened.fd(), table, position, true);
        }
        if table == Table::OfOpenFile {
            self.lock.release(LockBytes::ALL);
        }
        reopened.commit();
        if table == Table::OfProcess {
            // Closing the old descriptor has taken the process's locks with it.
            for position in wanted.positions() {
                let _ = set(&*self.lock.0.file.inner, table, position, true);
            }
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let mut state = self.lock.state();
        state.end(self.number);
        // Under the lock: what another change prepares from now on must not be unlocked here. After a commit, there is
        // nothing left to unlock.
        self.lock.release(self.new.without(state.wanted()));
    }
}

impl fmt::Debug for ImageLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<i64> = self.state().held.positions().collect();
        f.debug_struct("ImageLock").field("file", &self.0.file).field("held", &held).finish()
    }
}

fn os(errno: Errno) -> Error {
    Error::os(errno.raw_os_error(), "lock the image")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(perm: Perm, shared: Perm) -> Vec<i64> {
        LockBytes::of(Grant { perm, shared }).positions().collect()
    }

    #[test]
    fn wanted_permissions_lock_from_100_and_unshared_ones_from_200() {
        assert!(bytes(Perm::NONE, Perm::ALL).is_empty());
        assert_eq!(bytes(Perm::ALL, Perm::ALL), [100, 101, 102, 103]);
        assert_eq!(bytes(Perm::NONE, Perm::NONE), [200, 201, 202, 203]);
        let write_resize = Perm::WRITE.with(Perm::RESIZE);
        assert_eq!(bytes(write_resize, Perm::ALL.without(Perm::RESIZE)), [101, 103, 203]);
    }

    #[test]
    fn others_are_in_the_way_on_the_opposite_bytes() {
        let wanted = LockBytes::of(Grant { perm: Perm::WRITE, shared: Perm::ALL.without(Perm::RESIZE) });
        assert_eq!(wanted.opposite().positions().collect::<Vec<_>>(), [103, 201]);
    }
}
