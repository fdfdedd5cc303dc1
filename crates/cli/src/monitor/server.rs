//! The server's end of the control socket.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io::IoSlice;
use std::rc::Rc;

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_sys::{Closer, Listener, Receiver, Sender, Stream};
use serde_json::Value;

use super::{LINE_BYTES_MAX, Request, answer};

/// Most connections at a time; more are closed when they come.
pub(crate) const CLIENTS_MAX: usize = 16;

/// A control socket that listens.
pub(crate) struct Server {
    listener: Closer,
    clients: Clients,
}

/// The connections, by number.
type Clients = Rc<RefCell<BTreeMap<u64, Closer>>>;

impl Server {
    /// Listens on the calling thread. `run` carries out a command.
    pub(crate) fn start<F, R>(local: &LocalRef, listener: Listener, run: F) -> Self
    where
        F: Fn(Request) -> R + 'static,
        R: Future<Output = Result<Value>> + 'static,
    {
        let server = Self { listener: listener.closer(), clients: Clients::default() };
        let clients = Rc::clone(&server.clients);
        local.spawn(Box::pin(accept(local.clone(), listener, clients, Rc::new(run))));
        server
    }

    /// Takes no more connections and ends those that are there. A command that runs goes on without its client.
    pub(crate) fn close(self) {
        self.listener.close();
        self.clients.borrow().values().for_each(Closer::close);
    }
}

async fn accept<F, R>(local: LocalRef, listener: Listener, clients: Clients, run: Rc<F>)
where
    F: Fn(Request) -> R + 'static,
    R: Future<Output = Result<Value>> + 'static,
{
    let mut lane = Lane::new(local.clone());
    let mut last = 0;
    while let Ok(stream) = listener.accept(&mut lane).await {
        if clients.borrow().len() >= CLIENTS_MAX {
            continue;
        }
        last += 1;
        clients.borrow_mut().insert(last, stream.closer());
        let (run, clients, lane, number) =
            (Rc::clone(&run), Rc::clone(&clients), Lane::new(local.clone()), last);
        local.spawn(Box::pin(async move {
            // A client that has gone or writes nonsense has its connection ended; nobody else cares why.
            let _ = converse(stream, lane, &*run).await;
            clients.borrow_mut().remove(&number);
        }));
    }
}

async fn converse<F, R>(stream: Stream, mut lane: Lane, run: &F) -> Result<()>
where
    F: Fn(Request) -> R,
    R: Future<Output = Result<Value>>,
{
    let (mut receiver, mut sender) = stream.split();
    while let Some(line) = read_line(&mut receiver, &mut lane, LINE_BYTES_MAX).await? {
        let line = match Request::parse(&line) {
            Ok(mut request) => {
                let id = request.id.take();
                answer(run(request).await, id)
            }
            Err(error) => answer(Err(error), None),
        };
        write_line(&mut sender, &mut lane, &line).await?;
    }
    Ok(())
}

/// The next line without its end, of at most `max_bytes`; `None` if there is none any more.
///
/// # Errors
/// [`Kind::TooLarge`] for a line that is too long; those of the connection.
pub(super) async fn read_line(
    receiver: &mut Receiver,
    lane: &mut Lane,
    max_bytes: usize,
) -> Result<Option<Vec<u8>>> {
    loop {
        let buffered = receiver.buffered();
        if let Some(end) = buffered.iter().position(|byte| *byte == b'\n') {
            let line = buffered.get(..end).unwrap_or_default().to_vec();
            receiver.consume(end + 1);
            return Ok(Some(line));
        }
        let wanted = buffered.len() + 1;
        if wanted > max_bytes {
            return Err(Error::new(Kind::TooLarge, "a line is too long"));
        }
        if !receiver.fill(lane, wanted).await? {
            return Ok(None);
        }
    }
}

/// Sends a line with its end.
pub(super) async fn write_line(sender: &mut Sender, lane: &mut Lane, line: &str) -> Result<()> {
    sender.send(lane, &mut [IoSlice::new(line.as_bytes())]).await
}
