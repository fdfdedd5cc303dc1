//! What is being read is neither built further nor brought into the graph meanwhile.
use drystone_base::Result;
use drystone_core::control::{NewNode, Opening, Plan};
use drystone_core::graph::node::NodeId;

async fn add_a_parent(opening: &mut Opening, file: NodeId, format: NewNode) -> Result<()> {
    let visit = opening.visit(file).await?;
    opening.add(format)?; //~ E0502
    visit.io().flush().await
}

async fn bring_it_in(opening: Opening, file: NodeId, mut plan: Plan) -> Result<()> {
    let visit = opening.visit(file).await?;
    plan.insert(opening); //~ E0505
    visit.io().flush().await
}

fn main() {}
