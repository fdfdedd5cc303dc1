//! What a guest does, in words: `write 0..4K & write 8K+512 fua; flush; grow 2M`.
//!
//! | word | request |
//! |---|---|
//! | `write RANGE`, `write RANGE fua` | new data |
//! | `press RANGE` | new data, stored compressed |
//! | `zero RANGE`, `unmap RANGE` | zeroes, which may not or may give up space |
//! | `discard RANGE`, `flush`, `read RANGE` | |
//! | `state RANGE` | new data in the state of a machine, behind the disk |
//! | `grow LEN`, `shrink LEN`, `grow LEN MODE` | another length; `metadata`, `falloc` or `full` space for what is new |
//! | `amend v2`, `amend v3`, `amend BITS`, `amend lazy` | likewise; to write after most of them, the image is opened again |
//! | `bitmap ...` | of a persistent bitmap ([`tracked::action`]) |
//! | `ro`, `rw`, `cache LEN`, `name NAME`, `no name` | not requests: changes of the graph and the header ([`Stage`]) |
//! | `empty` | nor is this: gives up all of an image whose backing file shows zeroes |
//!
//! A semicolon waits for what was before; requests with `&` between them run side by side on different threads.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{Amendment, BackingFile};
use drystone_format::qcow2::driver::caches::CacheOptions;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_testkit::client::{BackendClient, SharedModel, Watched};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::{Content, DiscardRule, Ending};
use drystone_testkit::notation::{len, range};
use drystone_testkit::sim::Sim;

use super::chain::{Chain, SMALL};
use super::tracked::{self, Tracked};

pub(crate) type Client = Watched<BackendClient>;

/// A client of a chain on I/O thread `thread`.
pub(crate) fn client(sim: &Sim, thread: u16, chain: &Chain, model: &SharedModel) -> Client {
    Watched::new(BackendClient::new(&chain.backend, &sim.io(thread)), model)
}

/// Runs requests; what follows a failed one is not done.
pub(crate) fn run(sim: &Sim, chain: &Chain, model: &SharedModel, script: &str) -> Result<()> {
    steps(script).try_for_each(|step| run_step(sim, chain, model, step))
}

/// An open chain, its guest, and those who change both.
pub(crate) struct Stage<'g, 's> {
    pub(crate) sim: &'s Sim,
    pub(crate) graph: &'g SimGraph<'s>,
    pub(crate) chain: &'g Chain,
    pub(crate) model: &'g SharedModel,
    /// The names that the backing file may have on disk: the one that it has, and one that it may have.
    pub(crate) names: &'g RefCell<Vec<Option<Vec<u8>>>>,
    /// What bitmaps must have.
    pub(crate) bitmaps: &'g RefCell<Tracked>,
}

impl Stage<'_, '_> {
    /// Runs a script; what follows a failed step is not done.
    pub(crate) fn run(&self, script: &str) -> Result<()> {
        steps(script).try_for_each(|step| self.step(step))
    }

    /// As [`Self::run`], for somebody who is stopped at an error and tries once more.
    pub(crate) fn run_stubborn(&self, script: &str) -> Result<()> {
        steps(script).try_for_each(|step| self.step(step).or_else(|_| self.step(step)))
    }

    /// One step of a script.
    pub(crate) fn step(&self, step: &str) -> Result<()> {
        let Self { sim, graph, chain, model, .. } = *self;
        match *step.split_whitespace().collect::<Vec<_>>() {
            ["ro"] => {
                // What cannot be written any more is stored.
                let flush = model.borrow_mut().begin_flush();
                chain.set_read_only(graph, true)?;
                self.bitmaps.borrow_mut().stored();
                model.borrow_mut().end_flush(flush);
                Ok(())
            }
            ["rw"] => chain.set_read_only(graph, false),
            ["cache", bytes] => {
                let bytes = len(bytes);
                chain.reopen(graph, Qcow2Options { caches: CacheOptions::of_bytes(bytes), ..SMALL })
            }
            ["name", name] => self.rename(Some(name.as_bytes().to_vec())),
            ["no", "name"] => self.rename(None),
            ["amend", "v2"] => self.amend(Amendment::Version(2)),
            ["amend", "v3"] => self.amend(Amendment::Version(3)),
            ["amend", "lazy"] => self.amend(Amendment::LazyRefcounts(true)),
            ["amend", "unraw"] => self.amend(Amendment::DataFileRaw(false)),
            ["amend", "data", name] => self.amend(Amendment::DataFileName(name.as_bytes().to_vec())),
            ["amend", bits] => self.amend(Amendment::RefcountBits(len(bits))),
            ["bitmap", ref words @ ..] => {
                let action = tracked::action(words, chain.top);
                self.bitmaps.borrow_mut().before(&action);
                chain.bitmap(graph, action.clone())?;
                self.bitmaps.borrow_mut().after(&action);
                Ok(())
            }
            ["empty"] => {
                let all = GuestRange::new(GuestOffset::ZERO, model.borrow().len());
                let zeroing = model.borrow_mut().begin_write(all, Content::Zero);
                let result = chain.empty(graph);
                model.borrow_mut().end_write(zeroing, Ending::from(&result));
                result
            }
            _ => {
                run_step(sim, chain, model, step)?;
                self.bitmaps.borrow_mut().acknowledged(step);
                Ok(())
            }
        }
    }

    fn amend(&self, what: Amendment) -> Result<()> {
        let flush = self.model.borrow_mut().begin_flush();
        self.chain.alone(self.graph, async move |io| io.node().driver().amend(io, what).await)?;
        self.model.borrow_mut().end_flush(flush);
        Ok(())
    }

    fn rename(&self, name: Option<Vec<u8>>) -> Result<()> {
        self.names.borrow_mut().push(name.clone());
        let format = Some(b"qcow2".to_vec());
        let backing = name.clone().map(|name| BackingFile { name, format });
        self.chain.rename(self.graph, backing)?;
        *self.names.borrow_mut() = vec![name];
        Ok(())
    }
}

/// The requests, and groups of requests, that come one after the other.
pub(crate) fn steps(script: &str) -> impl Iterator<Item = &str> {
    script.split(';').map(str::trim).filter(|step| !step.is_empty())
}

fn run_step(sim: &Sim, chain: &Chain, model: &SharedModel, step: &str) -> Result<()> {
    let results = Rc::new(RefCell::new(Vec::new()));
    let parts: Vec<&str> = step.split('&').map(str::trim).collect();
    for (thread, part) in (1..).zip(&parts) {
        let thread = 1 + (thread - 1) % sim.io_threads();
        let (mut client, part) = (client(sim, thread, chain, model), (*part).to_owned());
        let results = Rc::clone(&results);
        sim.spawn(&sim.io(thread), part.clone(), async move {
            let result = request(&mut client, &part).await;
            results.borrow_mut().push(result);
        });
    }
    sim.run_until(|| results.borrow().len() == parts.len()).unwrap();
    results.take().into_iter().collect()
}

async fn request(client: &mut Client, text: &str) -> Result<()> {
    match *text.split_whitespace().collect::<Vec<_>>() {
        ["write", at] => client.write(range(at), false).await,
        ["write", at, "fua"] => client.write(range(at), true).await,
        ["press", at] => client.write_compressed(range(at)).await,
        ["state", at] => client.write_state(range(at)).await,
        ["zero", at] => client.write_zeroes(range(at), false).await,
        ["unmap", at] => client.write_zeroes(range(at), true).await,
        ["discard", at] => client.discard(range(at), DiscardRule::OldOrZero).await,
        ["read", at] => client.read(range(at)).await.map(drop),
        ["grow" | "shrink", to] => client.resize(len(to)).await,
        ["grow", to, "metadata"] => client.resize_with(len(to), Preallocation::Metadata).await,
        ["grow", to, "falloc"] => client.resize_with(len(to), Preallocation::Falloc).await,
        ["grow", to, "full"] => client.resize_with(len(to), Preallocation::Full).await,
        ["flush"] => client.flush().await,
        _ => panic!("'{text}' is no request"),
    }
}
