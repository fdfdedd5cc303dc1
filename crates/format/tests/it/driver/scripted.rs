//! [`Scripted`]: a script on a chain of images as what a power cut is looked at for.
//!
//! Whatever survived: the images open, the check finds no corruption and no mark that they need a repair, what was flushed is
//! there and nothing that was never written, a bitmap has what was acknowledged or is in use, the backing file has its old name or the new one, images below are as they
//! were. Then the guest goes on: requests work, and what they do stands another cut.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_format::qcow2::feature::IncompatibleBit;
use drystone_testkit::crash::Subject;
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, demand_consistent, header, is_data};
use super::script::Stage;
use super::state::{State, demand_raw_data, read_all};
use super::tracked::Tracked;

/// A script and the images that it is done to.
pub(crate) struct Scripted<'s> {
    pub(crate) state: &'s State,
    pub(crate) script: &'s str,
}

/// What may be found on the disks.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) model: ByteModel,
    /// Of the backing file of the image on top.
    names: Vec<Option<Vec<u8>>>,
    bitmaps: Tracked,
}

fn name_of(image: &Image) -> Option<Vec<u8>> {
    header(image).backing_name().map(<[u8]>::to_vec)
}

/// Whether requests may fail.
fn are_disturbed(disks: &[SimDisk]) -> bool {
    disks.iter().any(|disk| disk.power().is_off() || disk.faults_hit() > 0)
}

impl Known {
    /// With another model of the disk's bytes.
    pub(crate) fn with_model(&self, model: ByteModel) -> Self {
        Self { model, ..self.clone() }
    }
}

impl Scripted<'_> {
    pub(crate) fn before(&self) -> Known {
        let names = vec![name_of(self.state.images.last().unwrap())];
        Known { model: self.state.model.clone(), names, bitmaps: self.state.bitmaps.clone() }
    }

    /// Opens the chain, works with it and closes it. What is known if the power goes off then.
    pub(crate) fn use_chain(
        &self,
        sim: &Sim,
        disks: &[SimDisk],
        known: &Known,
        work: impl FnOnce(&Stage<'_, '_>),
    ) -> Known {
        let (model, names) = (Rc::new(RefCell::new(known.model.clone())), RefCell::new(known.names.clone()));
        let bitmaps = RefCell::new(known.bitmaps.clone());
        let graph = SimGraph::start(sim);
        let done = Chain::open(&graph, disks, self.state.options).and_then(|chain| {
            let (model, names, bitmaps) = (&model, &names, &bitmaps);
            work(&Stage { sim, graph: &graph, chain: &chain, model, names, bitmaps });
            // Closing stores everything.
            let flush = model.borrow_mut().begin_flush();
            chain.close(&graph)?;
            model.borrow_mut().end_flush(flush);
            bitmaps.borrow_mut().stored();
            Ok(())
        });
        if let Err(error) = done {
            assert!(are_disturbed(disks), "{}", error.report());
        }
        let mut model = model.borrow().clone();
        model.crash();
        Known { model, names: names.take(), bitmaps: bitmaps.take() }
    }

    /// Runs a script that only a power cut may stop.
    fn run(&self, sim: &Sim, disks: &[SimDisk], known: &Known, script: &str) -> Known {
        self.use_chain(sim, disks, known, |stage| {
            if let Err(error) = stage.run(script) {
                assert!(are_disturbed(disks), "{}", error.report());
            }
        })
    }
}

impl Subject for Scripted<'_> {
    type Known = Known;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Known {
        self.run(sim, disks, &self.before(), self.script)
    }

    fn verify(&self, sim: &Sim, disks: &[SimDisk], known: &Known) -> Known {
        let (top, below) = disks.split_last().unwrap();
        let image = top.image();
        demand_consistent(&image);
        let header = header(&image);
        for bit in [IncompatibleBit::Dirty, IncompatibleBit::Corrupt] {
            assert!(!header.incompatible().has(bit), "the image says that it needs a repair");
        }
        let name = name_of(&image);
        assert!(known.names.contains(&name), "the backing file is called {name:?}, not {:?}", known.names);
        let unchanged = below.iter().zip(&self.state.images).filter(|(disk, _)| !is_data(disk));
        for (disk, before) in unchanged {
            assert!(disk.image() == *before, "an image below has changed");
        }
        let mut model = known.model.clone();
        model.found_len(header.len_guest());
        let model = Rc::new(RefCell::new(model));
        let graph = SimGraph::start(sim);
        let chain = Chain::open(&graph, disks, self.state.options).unwrap();
        let contents = read_all(sim, &chain, &model).unwrap();
        demand_raw_data(disks, &contents);
        let mut bitmaps = known.bitmaps.clone();
        let bitmaps = chain.bitmaps(&graph, move |found| {
            bitmaps.check(&found.list(), |name, range| {
                found.run(name, range).map(|run| run == (true, range.len()))
            });
            bitmaps
        });
        chain.close(&graph).unwrap();
        assert!(top.image() == image, "reading has changed the image");
        let model = model.borrow().clone();
        Known { model, names: vec![name], bitmaps }
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], known: Known) -> Known {
        let len = known.model.len();
        let last = len - 1024;
        let script = format!(
            "write 0..1K & write {last}..{len}; flush; unmap 512..1536; write 3K+700; flush; write 0..600"
        );
        self.run(sim, disks, &known, &script)
    }
}
