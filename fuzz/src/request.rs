//! Requests to a disk, each out of three bytes, and who makes them.

use drystone_base::{Error, GuestOffset, GuestRange, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_testkit::client::{BackendClient, SharedModel, Target, Watched};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk, Timing};
use drystone_testkit::model::DiscardRule;
use drystone_testkit::sim::{Sim, SimOptions};

/// So much is read and written at the start and the end of a disk.
const WINDOW_BYTES: u64 = 64 << 10;
/// Most steps of tasks that one input may take.
const STEPS_MAX: u64 = 200_000;

/// A simulation that ends.
#[must_use]
pub fn sim() -> Sim {
    Sim::new(SimOptions { steps_max: STEPS_MAX, ..SimOptions::seeded(0) })
}

/// A disk that holds `image` and on which all operations end at once.
#[must_use]
pub fn disk(image: &Image) -> SimDisk {
    SimDisk::new(image.clone(), DiskOptions { timing: Timing::Instant, ..DiskOptions::seeded(0) })
}

/// The start and the end of a disk.
pub fn windows(len: u64) -> impl Iterator<Item = GuestRange> {
    let first = len.min(WINDOW_BYTES);
    let second = (len - first).min(WINDOW_BYTES);
    let ranges = [(0, first), (len - second, second)];
    ranges.into_iter().filter(|(_, len)| *len > 0).map(|(at, len)| GuestRange::new(GuestOffset::new(at), len))
}

/// Makes the requests of a script through `user`; errors are returned. Answers are compared with `model` if there is one.
///
/// # Panics
/// If an answer is wrong, or does not come.
pub fn run(
    sim: &Sim,
    user: &Backend<ReadWrite>,
    len: u64,
    script: &[u8],
    model: Option<&SharedModel>,
) -> Vec<Error> {
    let client = BackendClient::new(user, &sim.io(1));
    let done = sim.block_on(&sim.io(1), async {
        let mut client = match model {
            None => Client::Plain(client),
            Some(model) => Client::Watched(Watched::new(client, model)),
        };
        let mut errors = Vec::new();
        for request in script.as_chunks::<3>().0 {
            if let Some(range) = place(*request, len) {
                errors.extend(client.make(request[0], range).await.err());
            }
        }
        errors
    });
    done.unwrap()
}

/// Where a request goes: inside of a window.
fn place([_, at, count]: [u8; 3], len: u64) -> Option<GuestRange> {
    let windows: Vec<GuestRange> = windows(len).collect();
    let window = windows.get(usize::from(at) % windows.len().max(1))?;
    let unit = if at % 5 == 0 { 17 } else { 512 };
    let start = u64::from(at) * unit % window.len();
    let count = (1 + u64::from(count)) * if count % 3 == 0 { 100 } else { 64 };
    Some(GuestRange::new(window.start().plus(start), count.min(window.len() - start)))
}

enum Client {
    Plain(BackendClient),
    Watched(Watched<BackendClient>),
}

impl Client {
    async fn make(&mut self, kind: u8, range: GuestRange) -> Result<()> {
        match self {
            Self::Plain(client) => plain(client, kind, range).await,
            Self::Watched(client) => watched(client, kind, range).await,
        }
    }
}

async fn plain(client: &mut BackendClient, kind: u8, range: GuestRange) -> Result<()> {
    match kind % 8 {
        0..=2 => {
            let data = vec![0xd7; usize::try_from(range.len()).unwrap()];
            client.write(range.start().get(), &data, kind > 128).await
        }
        3 => client.write_zeroes(range, kind > 128).await,
        4 => client.discard(range).await,
        5 => client.flush().await,
        _ => client.read(range).await.map(drop),
    }
}

async fn watched(client: &mut Watched<BackendClient>, kind: u8, range: GuestRange) -> Result<()> {
    match kind % 8 {
        0..=2 => client.write(range, kind > 128).await,
        3 => client.write_zeroes(range, kind > 128).await,
        4 => client.discard(range, DiscardRule::Any).await,
        5 => client.flush().await,
        _ => client.read(range).await.map(drop),
    }
}
