//! An I/O path cannot take or drop a permission. A client that resizes through an export needs `RESIZE` from the moment
//! when the export is made; the export's thread has no way to ask for it later.
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::disk::Preallocation;
use drystone_core::graph::permission::Grant;
use drystone_core::lane::Lane;

async fn truncate(lane: &mut Lane, backend: &Backend<ReadWrite>, len: u64) {
    backend.set_grant(Grant::WRITER); //~ E0599
    let mut ticket = lane.enter(backend).await;
    ticket.set_grant(Grant::WRITER); //~ E0599
    ticket.resize(len, Preallocation::Off).await.ok();
}

fn main() {}
