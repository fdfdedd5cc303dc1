//! Connecting: an address, a socket, a handshake; also to learn what a server offers.
//!
//! Every step has one time limit, which a server that says nothing, or says it slowly, runs into. What a server can make us
//! keep meanwhile is bounded by [`drystone_nbd::limit`].

use std::io::IoSlice;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_nbd::Style;
use drystone_nbd::client::{
    ClientHandshake, ExportFacts, Goal, HandshakeError, ListedExport, Step, Transmission,
};
use drystone_nbd::uri::Address;
use drystone_sys::{Closer, Network, Receiver, Sender};

/// A server that takes longer to let us in is not there.
pub(super) const CONNECT_NS: u64 = 10_000_000_000;

/// A connection that has entered an export; what is buffered in the receiver are replies.
pub(super) struct Entered {
    pub(super) receiver: Receiver,
    pub(super) sender: Sender,
    pub(super) closer: Closer,
    pub(super) transmission: Box<Transmission>,
}

/// How a handshake ended.
enum Ended {
    Entered(Entered),
    Listed(Vec<ListedExport>),
    Inspected(ExportFacts),
}

/// Connects to the export and enters it, with `context` selected if the server has it.
pub(super) async fn enter(
    lane: &mut Lane,
    network: &Network,
    address: &Address,
    export: &str,
    context: &str,
) -> Result<Entered> {
    let goal = Goal::Enter { export: export.to_owned(), contexts: vec![context.to_owned()] };
    match negotiate(lane, network, address, goal).await? {
        Ended::Entered(entered) => Ok(entered),
        Ended::Listed(_) | Ended::Inspected(_) => Err(HandshakeError::Over.into()),
    }
}

/// What a server offers: of each export what it says, with the metadata contexts that there are.
///
/// # Errors
/// Those of the socket and the handshake; [`Kind::TimedOut`] for a server that takes more than ten seconds over one export.
pub async fn list(
    lane: &mut Lane,
    network: &Network,
    address: &Address,
) -> Result<Vec<(ListedExport, ExportFacts)>> {
    let listed = match negotiate(lane, network, address, Goal::List).await {
        Ok(Ended::Listed(listed)) => listed,
        Ok(Ended::Entered(_) | Ended::Inspected(_)) => return Err(HandshakeError::Over.into()),
        Err(error) if is_oldstyle(&error) => return only_one(lane, network, address).await,
        Err(error) => return Err(error),
    };
    let mut exports = Vec::with_capacity(listed.len());
    for entry in listed {
        let goal = Goal::Inspect { export: entry.name.clone() };
        if let Ended::Inspected(facts) = negotiate(lane, network, address, goal).await? {
            exports.push((entry, facts));
        }
    }
    Ok(exports)
}

fn is_oldstyle(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(HandshakeError::Oldstyle))
}

/// The export of a server of the old style: whoever connects has entered it.
async fn only_one(
    lane: &mut Lane,
    network: &Network,
    address: &Address,
) -> Result<Vec<(ListedExport, ExportFacts)>> {
    let entered = enter(lane, network, address, "", "").await?;
    let entry = ListedExport { name: String::new(), description: String::new() };
    Ok(vec![(entry, entered.transmission.facts().clone())])
}

async fn negotiate(lane: &mut Lane, network: &Network, address: &Address, goal: Goal) -> Result<Ended> {
    let until_ns = lane.local().now_ns().saturating_add(CONNECT_NS);
    let stream = connect(lane, network, address, until_ns).await?;
    let closer = stream.closer();
    let (mut receiver, mut sender) = stream.split();
    receiver.set_deadline(Some(until_ns));
    sender.set_deadline(Some(until_ns));
    let mut handshake = ClientHandshake::new(goal, Style::Extended)?;
    let step = loop {
        let received = receiver.fill(lane, 1).await?;
        let mut output = Vec::new();
        let step = if received {
            let (used, step) = talk(&mut handshake, receiver.buffered(), &mut output);
            receiver.consume(used);
            step
        } else {
            handshake.closed()
        };
        // A goodbye is for servers that listen.
        let is_over = !matches!(step, Ok(Step::More));
        if !output.is_empty() {
            let sent = sender.send(lane, &mut [IoSlice::new(&output)]).await;
            if !is_over {
                sent?;
            }
        }
        if is_over {
            break step?;
        }
    };
    receiver.set_deadline(None);
    sender.set_deadline(None);
    Ok(match step {
        Step::Entered(transmission) => Ended::Entered(Entered { receiver, sender, closer, transmission }),
        Step::Listed(listed) => Ended::Listed(listed),
        Step::Inspected(facts) => Ended::Inspected(facts),
        Step::More => return Err(HandshakeError::Closed.into()),
    })
}

/// One step, and how many bytes it used.
fn talk(
    handshake: &mut ClientHandshake,
    input: &[u8],
    output: &mut Vec<u8>,
) -> (usize, Result<Step, HandshakeError>) {
    match handshake.receive(input, output) {
        Ok((used, step)) => (used, Ok(step)),
        Err(error) => (input.len(), Err(error)),
    }
}

/// Connects to the first of the addresses that somebody listens at.
async fn connect(
    lane: &mut Lane,
    network: &Network,
    address: &Address,
    until_ns: u64,
) -> Result<drystone_sys::Stream> {
    let addresses = match address {
        Address::Unix { socket } => vec![drystone_sys::Address::Unix(socket.clone())],
        Address::Tcp { host, port } => network.resolve(lane, host, *port).await?,
    };
    let mut result = Err(Error::new(Kind::NotFound, "there is no address"));
    for address in addresses {
        result = network.connect(lane, &address, Some(until_ns)).await;
        if result.is_ok() {
            break;
        }
    }
    result
}
