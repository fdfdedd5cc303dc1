//! No ticket is alive while a peer outside the graph is awaited: sockets and rings borrow the lane. A client that sends
//! half a request, or does not read its reply, keeps nobody's drain waiting.
use drystone_base::GuestOffset;
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::lane::Lane;
use stand_in::Socket;

async fn payload_inside(lane: &mut Lane, disk: &Backend<ReadWrite>, client: &Socket) {
    let mut ticket = lane.enter(disk).await;
    let payload = client.receive(lane).await; //~ E0499
    ticket.write(GuestOffset::ZERO, payload, Default::default()).await.0.ok();
}

async fn reply_inside(lane: &mut Lane, disk: &Backend<ReadWrite>, client: &Socket) {
    let mut ticket = lane.enter(disk).await;
    let (result, data) = ticket.read(GuestOffset::ZERO, Buf::zeroed(512)).await;
    client.send(lane, data).await; //~ E0499
    drop((result, ticket));
}

fn main() {}
