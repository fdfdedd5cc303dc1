//! `blkdebug`: requests fail, or are held, at events that drivers above tell of.
//!
//! ```text
//!   [ qcow2 ] ── event(l2_load), read, write ... ──► [ blkdebug ] ── what no rule lets fail ──► child `image`
//!                                                        rules, state, breakpoints ([`rules`])
//! ```
//! | option | what |
//! |---|---|
//! | `inject-error`, `set-state`, a file with the same ([`config`]) | rules |
//! | `align` | requests to the child begin and end at multiples of it |
//! | `max-transfer`, `max-write-zero`, `max-discard` | no request to the child is longer |
//! | `opt-write-zero`, `opt-discard` | such requests to the child begin and end at multiples of it |
//! | `take-child-perms`, `unshare-child-perms` | permissions that are taken of the child, or kept from others, besides |
//!
//! A breakpoint holds a request until it is resumed, or a drain begins that waits for it, or a minute has passed
//! ([`Io::hold`]): so a drain ends, and loses nothing of it.
//!
//! Invariant: a request fails before it has reached the child, or not at all.

pub mod config;
pub mod rules;

use std::future::poll_fn;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::Preallocation;
use drystone_core::driver::{Access, BufResult, Driver, Extent, StageRequest, Staged, WriteFlags, ZeroFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

use self::rules::{Kinds, Listener, Rule, Rules};
use crate::pieces;
use crate::same_length::{self, Reopening};
use crate::through;

/// The driver's name.
pub const FORMAT_NAME: &str = "blkdebug";

/// What a node is told when it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlkDebugOptions {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Limits of requests to the child.
    pub limits: Limits,
    /// Permissions that are taken of the child besides.
    pub take: Perm,
    /// Permissions that others are refused besides.
    pub unshare: Perm,
}

/// Limits of requests to the child, in bytes; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `align`.
    pub align: u64,
    /// `max-transfer`.
    pub max_transfer: u64,
    /// `opt-write-zero`.
    pub opt_write_zero: u64,
    /// `max-write-zero`.
    pub max_write_zero: u64,
    /// `opt-discard`.
    pub opt_discard: u64,
    /// `max-discard`.
    pub max_discard: u64,
}

/// The largest limit: they are numbers of 31 bits.
const LIMIT_MAX: u64 = i32::MAX as u64;

impl Limits {
    /// Checks that the limits can be met together.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] naming the option.
    pub fn check(self) -> Result<()> {
        let refuse = |name: &str, value: u64, text: &str| {
            Err(Error::new(Kind::InvalidInput, format!("{value} is {text}")).in_option(name))
        };
        if self.align != 0 && !(self.align.is_power_of_two() && self.align < LIMIT_MAX) {
            return refuse("align", self.align, "no power of two below 2^31");
        }
        let unit = self.align.max(1);
        let limits = [
            ("max-transfer", self.max_transfer, unit),
            ("opt-write-zero", self.opt_write_zero, unit),
            ("max-write-zero", self.max_write_zero, unit.max(self.opt_write_zero)),
            ("opt-discard", self.opt_discard, unit),
            ("max-discard", self.max_discard, unit.max(self.opt_discard)),
        ];
        for (name, value, unit) in limits {
            if value > LIMIT_MAX || value % unit != 0 {
                return refuse(name, value, &format!("no multiple of {unit} below 2^31"));
            }
        }
        Ok(())
    }
}

/// What a filter with these options wants of its child.
#[must_use]
pub fn image_grant(options: &BlkDebugOptions, parent: ParentState) -> Grant {
    let ParentState { users: Grant { perm, shared }, .. } = parent;
    let perm = perm.with(options.take);
    // A misaligned write reads what is around it.
    let reads = options.limits.align > 1 && perm.writes();
    let perm = if reads { perm.with(Perm::CONSISTENT_READ) } else { perm };
    Grant { perm, shared: shared.without(options.unshare) }
}

/// The driver.
pub struct BlkDebug {
    options: BlkDebugOptions,
    rules: Rules,
}

impl BlkDebug {
    /// A filter with these options, which were [checked](Limits::check).
    #[must_use]
    pub fn new(options: BlkDebugOptions) -> Self {
        let rules = Rules::new(&options.rules);
        Self { options, rules }
    }

    /// Holds the next request that comes to an event, under a name. A breakpoint holds once; several may have one name.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such event.
    pub fn set_breakpoint(&self, event: &str, tag: &str) -> Result<()> {
        let event = Event::named(event)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no event '{event}'")))?;
        self.rules.set_breakpoint(event, tag);
        Ok(())
    }

    /// Takes breakpoints away, and lets the requests go on that they hold.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there was no breakpoint; requests go on all the same.
    pub fn remove_breakpoints(&self, tag: &str) -> Result<()> {
        if self.rules.remove_breakpoints(tag) { Ok(()) } else { Err(unknown("breakpoint", tag)) }
    }

    /// Lets a request go on that is held.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none.
    pub fn resume(&self, tag: &str) -> Result<()> {
        if self.rules.resume(tag) { Ok(()) } else { Err(unknown("request", tag)) }
    }

    /// Waits until a request is held under that name.
    pub async fn wait_until_held(&self, tag: &str) {
        poll_fn(|cx| self.rules.poll_held(tag, cx)).await;
    }

    /// Who is told what breakpoints do, on whichever thread they do it.
    pub fn listen(&self, listener: Listener) {
        self.rules.listen(listener);
    }

    /// Fails if a rule says so.
    fn demand(&self, kind: Kinds, range: GuestRange) -> Result<()> {
        match self.rules.errno(kind, range) {
            Some(errno) => Err(Error::os(errno, "do what a rule of 'blkdebug' lets fail")),
            None => Ok(()),
        }
    }

    fn align(&self) -> u64 {
        self.options.limits.align.max(1)
    }

    fn transfer_max(&self) -> u64 {
        match self.options.limits.max_transfer {
            0 => u64::MAX,
            bytes => bytes,
        }
    }

    /// Reads the aligned range around `range`.
    async fn read_around(&self, image: Io<'_>, range: GuestRange, mut buf: Buf) -> BufResult {
        let outer = range.align_out(self.align());
        let bounce = Buf::zeroed(usize::try_from(outer.len()).unwrap_or(usize::MAX));
        // What lies past the end of the child reads as zeroes.
        let (result, bounce) = pieces::read_clamped(image, outer.start(), bounce, self.transfer_max()).await;
        if result.is_ok() {
            pieces::copy(&bounce, pieces::index(range.start().get() - outer.start().get()), &mut buf);
        }
        (result, buf)
    }

    /// Reads the aligned range around what is to be written, and writes it back with that.
    async fn write_around(&self, io: Io<'_>, range: GuestRange, buf: Buf, flags: WriteFlags) -> BufResult {
        let outer = range.align_out(self.align());
        let _range = io.lock_range(outer).await;
        let image = match io.file() {
            Ok(image) => image,
            Err(error) => return (Err(error), buf),
        };
        let (head, tail) = (range.start() > outer.start(), range.end() < outer.end());
        if head {
            io.event(Event::PwritevRmwHead).await;
        }
        let bounce = Buf::zeroed(usize::try_from(outer.len()).unwrap_or(usize::MAX));
        let (result, mut bounce) =
            pieces::read_clamped(image, outer.start(), bounce, self.transfer_max()).await;
        if head {
            io.event(Event::PwritevRmwAfterHead).await;
        }
        if tail {
            io.event(Event::PwritevRmwTail).await;
            io.event(Event::PwritevRmwAfterTail).await;
        }
        if result.is_err() {
            return (result, buf);
        }
        pieces::patch(&mut bounce, pieces::index(range.start().get() - outer.start().get()), &buf);
        // The child is as long as it is: nothing is written past its end that was not asked for.
        let len = image.len().max(range.end().get()).saturating_sub(outer.start().get());
        drop(pieces::split(&mut bounce, len));
        let (result, _) = pieces::write(image, outer.start(), bounce, flags, self.transfer_max()).await;
        (result, buf)
    }
}

fn unknown(what: &str, tag: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no {what} '{tag}'"))
}

impl Driver for BlkDebug {
    fn format_name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        if access == Access::Status {
            self.demand(Kinds::BLOCK_STATUS, range)?;
        }
        through::locate(io, range, access)
    }

    fn hears_events(&self) -> bool {
        true
    }

    fn event<'a>(&'a self, io: Io<'a>, event: Event) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            for id in self.rules.happen(event) {
                let what = format!("breakpoint '{}' at event '{event}'", self.rules.tag(id));
                io.hold(poll_fn(|cx| self.rules.poll_resumed(id, cx)), what).await;
                self.rules.go_on(id);
            }
        })
    }

    fn read_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(through::read_state(io, at, buf))
    }

    fn write_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(through::write_state(io, at, buf))
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let range = GuestRange::new(at, buf.len() as u64);
            let image = match self.demand(Kinds::READ, range).and_then(|()| io.file()) {
                Ok(image) => image,
                Err(error) => return (Err(error), buf),
            };
            if is_aligned(range, self.align()) {
                return pieces::read(image, at, buf, self.transfer_max()).await;
            }
            self.read_around(image, range, buf).await
        })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let range = GuestRange::new(at, buf.len() as u64);
            let image = match self.demand(Kinds::WRITE, range).and_then(|()| io.file()) {
                Ok(image) => image,
                Err(error) => return (Err(error), buf),
            };
            if self.align() == 1 {
                return pieces::write(image, at, buf, flags, self.transfer_max()).await;
            }
            if !is_aligned(range, self.align()) {
                return self.write_around(io, range, buf, flags).await;
            }
            // A misaligned write beside it must not bring back what was there before.
            let _range = io.lock_range(range).await;
            pieces::write(image, at, buf, flags, self.transfer_max()).await
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let Limits { opt_write_zero, max_write_zero, .. } = self.options.limits;
            let align = self.align().max(opt_write_zero);
            let (head, middle, tail) = pieces::split_aligned(range, align);
            let is_whole = head.is_empty() && tail.is_empty();
            if middle.is_empty() || (flags.fast_only && !is_whole) {
                let text = format!("less than {align} aligned bytes cannot be zeroed without writing");
                return Err(Error::new(Kind::Unsupported, text).on_node(io.node().name()));
            }
            self.demand(Kinds::WRITE_ZEROES, range)?;
            let image = io.file()?;
            {
                let _range = if self.align() == 1 { None } else { Some(io.lock_range(middle).await) };
                for part in pieces::parts(middle, max_write_zero) {
                    image.write_zeroes(part, flags).await?;
                }
            }
            for edge in [head, tail] {
                let zeroes = Buf::zeroed(pieces::index(edge.len()));
                let flags = WriteFlags { unchanged: flags.unchanged, ..WriteFlags::default() };
                if !edge.is_empty() {
                    self.write(io, edge.start(), zeroes, flags).await.0?;
                }
            }
            Ok(())
        })
    }

    fn discard<'a>(&'a self, io: Io<'a>, range: GuestRange) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let Limits { opt_discard, max_discard, .. } = self.options.limits;
            let (_, middle, _) = pieces::split_aligned(range, self.align().max(opt_discard));
            if middle.is_empty() {
                return Ok(());
            }
            self.demand(Kinds::DISCARD, range)?;
            let image = io.file()?;
            for part in pieces::parts(middle, max_discard) {
                image.discard(part).await?;
            }
            Ok(())
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.demand(Kinds::FLUSH, GuestRange::new(GuestOffset::ZERO, 0))?;
            io.file()?.flush().await
        })
    }

    /// Nothing is in memory here. So the filter can leave whatever its rules let fail.
    fn store<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.resize(len, preallocation).await })
    }

    fn stage<'a>(&'a self, request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        same_length::stage(request, Reopening::Nothing)
    }

    fn grant(&self, _child: ChildKey, _role: Role, parent: ParentState) -> Grant {
        image_grant(&self.options, parent)
    }
}

fn is_aligned(range: GuestRange, align: u64) -> bool {
    range.align_out(align) == range
}
