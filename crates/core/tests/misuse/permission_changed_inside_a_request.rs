//! A driver cannot change permissions while it serves a request. (Changing the keys of an encrypted image takes rights of
//! its own: a control step before, the request, a control step after.)
use drystone_base::Result;
use drystone_core::control::Plan;
use drystone_core::request::io::Io;

async fn rewrite_key_slots(io: Io<'_>) -> Result<()> {
    let plan = Plan::new();
    io.apply(plan).await?; //~ E0599
    io.flush().await
}

fn main() {}
