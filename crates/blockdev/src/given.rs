//! [`Given`]: what a node was given when it was opened or last reopened. The graph remembers it with the node.

use std::rc::Rc;

use drystone_base::Result;
use drystone_core::control::{GraphView, NodeView, Plan, Task};
use drystone_core::graph::node::NodeId;
use serde_json::Value;

use crate::options::Options;
use crate::settings::Settings;

/// Options that decide which bytes a node shows, beside its children.
const STRONG: [&str; 5] = ["offset", "size", "latency-ns", "read-zeroes", "encrypt"];

/// What a node was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// What was said of the node, option by option; its children are left out, its driver is always there.
    pub explicit: Options,
    /// What came of that, and of what it took over from its parent. Whether it can be written, the node itself knows.
    pub settings: Settings,
    /// The parent from which it takes over what it is not told: the one with whose options it was opened.
    pub heir_of: Option<NodeId>,
    /// Those of the explicit options that decide which bytes are shown; `None` for one with options below it. Names of nodes
    /// depend on them, and are asked for of all nodes at once.
    pub(crate) strong: Box<[(&'static str, Option<Value>)]>,
}

impl Given {
    pub(crate) fn new(explicit: Options, settings: Settings) -> Self {
        let value_of = |name| explicit.plain().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let said = STRONG.into_iter().filter(|name| explicit.has(name));
        let strong = said.map(|name| (name, value_of(name))).collect();
        Self { explicit, settings, heir_of: None, strong }
    }

    /// Nobody has said the driver; it was found out.
    pub(crate) fn driver(&mut self, name: &str) -> Result<()> {
        if self.explicit.has("driver") { Ok(()) } else { self.explicit.set("driver", name) }
    }

    /// What a node of the graph was given; nothing if it was not opened by options.
    #[must_use]
    pub fn of(graph: &GraphView<'_>, node: NodeId) -> Option<Rc<Self>> {
        Self::of_view(graph.view(node)?)
    }

    /// The same.
    pub(crate) fn of_view(view: NodeView<'_>) -> Option<Rc<Self>> {
        Rc::clone(view.memo()?).downcast().ok()
    }

    /// The same, once `plan` is done.
    pub(crate) fn planned(task: &Task<'_>, plan: &Plan, node: NodeId) -> Option<Rc<Self>> {
        plan.memo(task.gs(), node)?.downcast().ok()
    }
}
