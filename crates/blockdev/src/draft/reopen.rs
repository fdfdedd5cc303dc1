//! Reopening: nodes that are in the graph get other options and children.
//!
//! | what is said of | means |
//! |---|---|
//! | an option that can change | it changes; unsaid, it is as it is by default, or as the parent has it |
//! | any other option | it has to be said as it was |
//! | a child, by the name of the child it has | nothing |
//! | a child, by another name | that node takes its place |
//! | a child, by options | the child that was opened with the node is reopened with them |
//! | `backing`, by `null` | there is none any more |
//!
//! Children that were opened by options of a node take over from it what they are not told, at a reopen as when they were
//! opened. A parent comes before its heirs.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use drystone_base::{Error, Kind, Result};
use drystone_core::control::Task;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::role::Role;

use super::Draft;
use crate::given::Given;
use crate::known;
use crate::options::{Child, Options};
use crate::query::filename;
use crate::settings::Settings;
use crate::spec::{CHILDREN, ImageSpec, NodeSpec, ProtocolDriver, Speaker, file_key};

/// A node that is to be reopened.
struct Item {
    node: NodeId,
    name: String,
    given: Rc<Given>,
    /// All that is said of it, children included.
    said: Options,
    /// It is not asked for, and comes along with its parent: what is not said of children stays.
    comes_along: bool,
}

/// A reopening of several nodes.
struct Reopening<'d, 't> {
    draft: &'d mut Draft,
    task: &'d Task<'t>,
    /// What is asked for, as far as it was not carried out.
    asked: BTreeMap<NodeId, Item>,
    done: BTreeSet<NodeId>,
}

impl Draft {
    /// `blockdev-reopen`: reopens nodes with other options, all of them in one moment. Every entry names its node
    /// (`node-name`) and its driver.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidInput`] naming the option that cannot change, or not like that;
    /// [`Kind::Unsupported`]. Whether users, files and locks allow it is found out when the draft is applied.
    pub fn reopen(&mut self, task: &Task<'_>, wanted: Vec<Options>) -> Result<()> {
        let mut asked = BTreeMap::new();
        for said in wanted {
            let item = self.item(task, said)?;
            let name = item.name.clone();
            if asked.insert(item.node, item).is_some() {
                return Err(Error::new(Kind::InvalidInput, "it is to be reopened twice").on_node(name));
            }
        }
        self.reopen_items(task, asked)
    }

    /// The same for one node that may have no name of its own; `said` does not name it.
    ///
    /// # Errors
    /// As [`Self::reopen`].
    pub fn reopen_node(&mut self, task: &Task<'_>, node: NodeId, said: Options) -> Result<()> {
        let handle = self.plan.node(task.gs(), node);
        let name = handle.map(|node| node.name().to_owned()).unwrap_or_default();
        let given = self.given(task, node, &name)?;
        let item = Item { node, name, given, said, comes_along: false };
        self.reopen_items(task, BTreeMap::from([(node, item)]))
    }

    fn reopen_items(&mut self, task: &Task<'_>, asked: BTreeMap<NodeId, Item>) -> Result<()> {
        let mut reopening = Reopening { draft: self, task, asked, done: BTreeSet::new() };
        while let Some(item) = reopening.next() {
            reopening.run(item, Settings::default())?;
        }
        Ok(())
    }

    fn item(&self, task: &Task<'_>, said: Options) -> Result<Item> {
        let Some(name) = said.clone().take_text("node-name")? else {
            return Err(Error::new(Kind::InvalidInput, "it is missing").in_option("node-name"));
        };
        let node = self.find(task, &name)?;
        self.given(task, node, &name).map(|given| Item { node, name, given, said, comes_along: false })
    }

    fn given(&self, task: &Task<'_>, node: NodeId, name: &str) -> Result<Rc<Given>> {
        Given::planned(task, &self.plan, node).ok_or_else(|| {
            Error::new(Kind::Unsupported, "it was not opened by options, and cannot be reopened")
                .on_node(name)
        })
    }
}

impl Reopening<'_, '_> {
    /// The next node none of whose heritage is to be reopened, too.
    fn next(&mut self) -> Option<Item> {
        let waits = |item: &Item| item.given.heir_of.is_some_and(|parent| self.asked.contains_key(&parent));
        let next = self.asked.values().find(|item| !waits(item)).map(|item| item.node)?;
        self.asked.remove(&next)
    }

    /// Reopens one node, which takes over `base`.
    fn run(&mut self, item: Item, base: Settings) -> Result<()> {
        let name = item.name.clone();
        self.run_unnamed(item, base).map_err(|error| error.on_node(name))
    }

    fn run_unnamed(&mut self, item: Item, base: Settings) -> Result<()> {
        self.done.insert(item.node);
        let driver = item.given.explicit.clone().take_text("driver")?.unwrap_or_default();
        let own = item.said.without(&CHILDREN);
        known::refuse(&driver, &own)?;
        check_fixed(&driver, &item.given.explicit, &own)?;
        let speaker = Speaker { settings: base, is_image: false };
        let mut said = item.said.clone();
        if !said.has("driver") {
            said.set("driver", driver.as_str())?;
        }
        match NodeSpec::image(said, speaker)? {
            NodeSpec::Existing(_) => Ok(()),
            NodeSpec::Protocol(spec) => {
                self.set(&item, own, spec.settings);
                if let ProtocolDriver::File(options) = spec.driver {
                    self.draft.plan.reopen(item.node, Box::new(options));
                }
                Ok(())
            }
            NodeSpec::Image(spec) => self.image(&item, own, *spec),
        }
    }

    /// What every node has.
    fn set(&mut self, item: &Item, explicit: Options, settings: Settings) {
        let is_read_only =
            self.draft.plan.node(self.task.gs(), item.node).is_some_and(|node| node.is_read_only());
        // What could not be written, and does not have to be, is not tried again.
        let stays = is_read_only && settings.auto_read_only && !item.given.settings.read_only;
        let plan = &mut self.draft.plan;
        plan.set_read_only(item.node, settings.read_only || stays);
        plan.set_policy(item.node, settings.policy());
        let given = Given { heir_of: item.given.heir_of, ..Given::new(explicit, settings) };
        plan.remember(item.node, Rc::new(given));
    }

    fn image(&mut self, item: &Item, explicit: Options, spec: ImageSpec) -> Result<()> {
        let ImageSpec { settings, format, options: mut own, .. } = spec;
        let format = self.draft.opener.formats.find(format.as_deref().unwrap_or_default())?;
        let configured = format.configure(&mut own, settings)?;
        known::refuse(format.name(), &own)?;
        own.finish(format.name())?;
        let has_backing = format.has_backing();
        let options = configured.into_reopen().ok_or_else(|| {
            let text = format!("driver '{}' does not support reopening", item.driver());
            Error::new(Kind::Unsupported, text)
        })?;
        self.set(item, explicit, settings);
        self.draft.plan.reopen(item.node, options);
        let mut said = item.said.clone();
        let file = said.take_child(file_key(&item.driver()))?;
        self.child(item, ChildKey::File, file, settings.for_file())?;
        let data_file = said.take_child("data-file")?;
        self.demand_data_file(item, &data_file)?;
        self.child(item, ChildKey::DataFile, data_file, settings.for_file())?;
        let backing = said.take_child("backing")?;
        if !has_backing && backing != Child::Unsaid {
            return Err(Error::new(
                Kind::InvalidInput,
                format!("driver '{}' has no backing file", item.driver()),
            )
            .in_option("backing"));
        }
        self.demand_backing(item, &backing)?;
        self.child(item, ChildKey::Backing, backing, settings.for_backing())
    }

    /// Whoever forgets the backing image must not lose it.
    fn demand_backing(&self, item: &Item, backing: &Child) -> Result<()> {
        if item.comes_along || *backing != Child::Unsaid {
            return Ok(());
        }
        let node = self.draft.plan.node(self.task.gs(), item.node);
        let is_named = node.is_some_and(|node| filename::recorded_backing(&node).is_some());
        if is_named || self.current(item.node, ChildKey::Backing).is_some() {
            let text =
                "it is missing: what is behind the image has to be said again, or that nothing is (null)";
            return Err(Error::new(Kind::InvalidInput, text).in_option("backing"));
        }
        Ok(())
    }

    /// The data stays in its file.
    fn demand_data_file(&self, item: &Item, said: &Child) -> Result<()> {
        let current = self.current(item.node, ChildKey::DataFile);
        let named = match said {
            Child::Node(name) => {
                Some(self.draft.find(self.task, name).map_err(|error| error.in_option("data-file"))?)
            }
            _ => None,
        };
        let text = match said {
            Child::Unsaid => return Ok(()),
            Child::Node(_) if current.is_some() && current == named => return Ok(()),
            Child::New(_) if current.is_some() => return Ok(()),
            _ if current.is_none() => "the image has no data file",
            _ => "it cannot be changed",
        };
        Err(Error::new(Kind::InvalidInput, text).in_option("data-file"))
    }

    fn current(&self, node: NodeId, key: ChildKey) -> Option<NodeId> {
        let children = self.draft.plan.children(self.task.gs(), node);
        children.into_iter().find(|(known, _)| *known == key).map(|(_, child)| child)
    }

    fn child(&mut self, item: &Item, key: ChildKey, said: Child, base: Settings) -> Result<()> {
        let current = self.current(item.node, key);
        match (said, current) {
            (Child::Unsaid, Some(child)) => self.heir(item, child, None, base),
            (Child::Node(name), current) => {
                let child =
                    self.draft.find(self.task, &name).map_err(|error| error.in_option(key.to_string()))?;
                if current == Some(child) {
                    return self.heir(item, child, None, base);
                }
                self.disinherit(item, current);
                let is_apart = self.current(item.node, ChildKey::DataFile).is_some();
                let role = match key {
                    ChildKey::Backing => Role::COW,
                    _ if is_apart => Role::METADATA.with(Role::PRIMARY),
                    _ => Role::IMAGE,
                };
                self.draft.plan.set_child(item.node, key, child, role);
                Ok(())
            }
            (Child::New(options), Some(child)) if self.is_heir(item, child) => {
                self.heir(item, child, Some(options), base)
            }
            (Child::New(_), _) => {
                let text = "it cannot be changed by options: name a node";
                Err(Error::new(Kind::InvalidInput, text).in_option(key.to_string()))
            }
            (Child::None, Some(child)) => {
                self.disinherit(item, Some(child));
                self.draft.plan.remove_child(item.node, key);
                Ok(())
            }
            (Child::Unsaid | Child::None, None) => Ok(()),
        }
    }

    fn is_heir(&self, item: &Item, child: NodeId) -> bool {
        Given::planned(self.task, &self.draft.plan, child)
            .is_some_and(|given| given.heir_of == Some(item.node))
    }

    /// Reopens a child that takes over from its parent what it is not told: with new options, or those that it has.
    fn heir(&mut self, item: &Item, child: NodeId, said: Option<Options>, base: Settings) -> Result<()> {
        if !self.is_heir(item, child) || self.done.contains(&child) {
            return Ok(());
        }
        if let Some(asked) = self.asked.remove(&child) {
            return self.run(asked, base);
        }
        let name = self.draft.plan.node(self.task.gs(), child).map(|node| node.name().to_owned());
        let name = name.unwrap_or_default();
        let given = self.draft.given(self.task, child, &name)?;
        let comes_along = said.is_none();
        let mut said = said.unwrap_or_else(|| given.explicit.clone());
        let driver = given.explicit.clone().take_text("driver")?.unwrap_or_default();
        let file_key = file_key(&driver);
        if let Some(file) = self.current(child, ChildKey::File).filter(|_| !said.has(file_key)) {
            let file = self.draft.plan.node(self.task.gs(), file).map(|file| file.name().to_owned());
            said.set(file_key, file.unwrap_or_default())?;
        }
        self.run(Item { node: child, name, given, said, comes_along }, base)
    }

    /// A child that loses the parent from which it took over what it was not told.
    fn disinherit(&mut self, item: &Item, child: Option<NodeId>) {
        let Some(child) = child.filter(|child| self.is_heir(item, *child)) else { return };
        if let Some(given) = Given::planned(self.task, &self.draft.plan, child) {
            self.draft.plan.remember(child, Rc::new(Given { heir_of: None, ..(*given).clone() }));
        }
    }
}

impl Item {
    fn driver(&self) -> String {
        self.given.explicit.clone().take_text("driver").ok().flatten().unwrap_or_default()
    }
}

/// Options that cannot change have to be as they were.
fn check_fixed(driver: &str, before: &Options, now: &Options) -> Result<()> {
    let (before, now) = (before.flat(), now.flat());
    let refuse = |key: &str, text| Err(Error::new(Kind::InvalidInput, text).in_option(key));
    for (key, value) in &now {
        let is_fixed = key == "driver" || !known::is_changeable(driver, key);
        if is_fixed && before.get(key) != Some(value) {
            return refuse(key, "it cannot be changed");
        }
    }
    let is_lost =
        |key: &&String| !now.contains_key(*key) && *key != "node-name" && !known::is_changeable(driver, key);
    match before.keys().find(is_lost) {
        Some(key) => refuse(key, "it was given when the node was opened, and cannot be reset to its default"),
        None => Ok(()),
    }
}
