//! A buffer belongs to its operation until that is done: the caller has nothing to change or free meanwhile.
use drystone_base::GuestOffset;
use drystone_buf::Buf;
use drystone_core::backend::ReadWrite;
use drystone_core::lane::Ticket;

async fn scribble(ticket: &mut Ticket<'_, ReadWrite>, mut buf: Buf) {
    let writing = ticket.write(GuestOffset::ZERO, buf, Default::default());
    buf.as_mut_slice().fill(0); //~ E0382
    writing.await.0.ok();
}

async fn free(ticket: &mut Ticket<'_, ReadWrite>, buf: Buf) {
    let reading = ticket.read(GuestOffset::ZERO, buf);
    drop(buf); //~ E0382
    reading.await.0.ok();
}

fn main() {}
