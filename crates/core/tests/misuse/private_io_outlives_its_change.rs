//! Private I/O ends before its change is settled: nothing is in flight when the commit rewrites edges.
use drystone_base::Result;
use drystone_core::control::Change;
use drystone_core::graph::node::NodeId;

async fn read_on(change: Change<'_>, node: NodeId) -> Result<()> {
    let private = change.private(node)?;
    let settled = change.settle().await?; //~ E0505
    private.io().flush().await?;
    settled.commit().finish().await;
    Ok(())
}

fn main() {}
