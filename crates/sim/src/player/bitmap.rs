//! Pairs of bitmaps: a persistent one, and its twin that is only in memory. All that is done to one is done to the other.
//!
//! Whatever happens to the image (it becomes read-only and writable again, its length changes, devices fail), the two are
//! equal, or the image says that the persistent one is inconsistent.

use drystone_base::Result;
use drystone_core::bitmap::action::BitmapAction;
use drystone_core::bitmap::{BitmapInfo, Bits, Granularity, NodeBitmaps};
use drystone_core::control::{Plan, Task};

use super::graph::Desk;
use crate::step::BitmapVerb;

/// How many pairs an image has at most.
const PAIRS: u64 = 3;

fn action(verb: BitmapVerb, name: String, granularity: Granularity, persistent: bool) -> BitmapAction {
    match verb {
        BitmapVerb::Add => BitmapAction::Add { name, granularity, persistent, recording: true },
        BitmapVerb::Drop => BitmapAction::Remove { name },
        BitmapVerb::Clear => BitmapAction::Clear { name },
        BitmapVerb::Start => BitmapAction::Record { name, recording: true },
        BitmapVerb::Stop => BitmapAction::Record { name, recording: false },
    }
}

/// Looks at the pair, and changes it.
///
/// # Panics
/// If the two are not equal.
pub(super) async fn change(
    task: &mut Task<'_>,
    desk: &Desk,
    verb: BitmapVerb,
    number: u64,
) -> Option<Result<()>> {
    let head = task.gs().find(&desk.front.head()).ok()?;
    let number = number % PAIRS;
    let names = [format!("stored-{number}"), format!("twin-{number}")];
    let quiet = task.drain(&[head]).await;
    let node = task.gs().with(|graph| graph.node_handle(head));
    if let Some(node) = &node {
        demand_equal(node.bitmaps(), &names);
    }
    drop((node, quiet));
    let granularity = Granularity::from_bytes(512 << (2 * number)).unwrap_or(Granularity::FINEST);
    let mut plan = Plan::new();
    for (name, persistent) in names.into_iter().zip([true, false]) {
        plan.change_bitmap(head, action(verb, name, granularity, persistent));
    }
    Some(task.apply(plan).await)
}

fn demand_equal(bitmaps: &NodeBitmaps, names: &[String; 2]) {
    let infos: Vec<BitmapInfo> = names.iter().filter_map(|name| bitmaps.info(name)).collect();
    let [stored, twin] = &infos[..] else { return };
    if stored.inconsistent {
        return;
    }
    let bits = |info: &BitmapInfo| bitmaps.bits(&info.name).unwrap_or(Bits::new(Granularity::FINEST, 0));
    let (stored_bits, twin_bits) = (bits(stored), bits(twin));
    assert!(
        stored_bits == twin_bits,
        "'{}' is not what its twin is: {stored_bits:?}, {twin_bits:?}",
        stored.name
    );
    assert_eq!(stored.recording, twin.recording, "'{}' follows writes", stored.name);
}
