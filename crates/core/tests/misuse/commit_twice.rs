//! A change takes effect once.
use drystone_core::control::Settled;

async fn commit(settled: Settled<'_>) {
    settled.commit().finish().await;
    settled.commit().finish().await; //~ E0382
}

fn main() {}
