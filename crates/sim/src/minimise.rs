//! [`minimise()`]: of a script that fails, as little as still fails in the same place.
//!
//! Actors, disks, images and steps are taken out, many at a time and then one by one, until nothing more can go. A shorter
//! script has another schedule, so each is tried with a few seeds.

use crate::run::{Failure, run_script};
use crate::script::Script;

/// With so many seeds each shorter script is tried.
const SEEDS: u64 = 6;

/// Takes out of the script what is not needed for its failure, running at most `runs_max` scripts.
#[must_use]
pub fn minimise(failure: &Failure, runs_max: u64) -> Failure {
    let mut search = Search { best: failure.clone(), place: place_of(&failure.message), runs_left: runs_max };
    loop {
        let before = search.best.script.clone();
        search.afters();
        search.actors();
        search.steps();
        search.images();
        if search.best.script == before || search.runs_left == 0 {
            return search.best;
        }
    }
}

/// Where a failure was found: the first line of its message, which names a line of the source.
fn place_of(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

struct Search {
    best: Failure,
    place: String,
    runs_left: u64,
}

impl Search {
    /// Keeps the shorter script if it fails in the same place.
    fn attempt(&mut self, shorter: &Script) -> bool {
        let first = self.best.script.seed;
        for seed in first..first.saturating_add(SEEDS) {
            if self.runs_left == 0 {
                return false;
            }
            self.runs_left -= 1;
            let script = Script { seed, ..shorter.clone() };
            if let Err(failure) = run_script(&script)
                && place_of(&failure.message) == self.place
            {
                self.best = *failure;
                return true;
            }
        }
        false
    }

    fn afters(&mut self) {
        for index in (0..self.best.script.afters.len()).rev() {
            let mut shorter = self.best.script.clone();
            shorter.afters.remove(index);
            self.attempt(&shorter);
        }
    }

    fn actors(&mut self) {
        let mut index = 0;
        while index < self.best.script.actors.len() {
            let mut shorter = self.best.script.clone();
            shorter.actors.remove(index);
            if !self.attempt(&shorter) {
                index += 1;
            }
        }
    }

    /// Takes out runs of steps: a half of an actor's first, single ones last.
    fn steps(&mut self) {
        for index in 0..self.best.script.actors.len() {
            let count =
                |search: &Self| search.best.script.actors.get(index).map_or(0, |actor| actor.steps.len());
            let mut len = count(self).div_ceil(2);
            while len > 0 {
                let mut start = 0;
                while start < count(self) {
                    let mut shorter = self.best.script.clone();
                    if let Some(actor) = shorter.actors.get_mut(index) {
                        actor.steps.drain(start..actor.steps.len().min(start + len));
                    }
                    if !self.attempt(&shorter) {
                        start += len;
                    }
                }
                len /= 2;
            }
        }
    }

    /// Takes out disks that nobody uses and images that nothing is on, and the contents of the others.
    fn images(&mut self) {
        for disk in (0..self.best.script.disks.len()).rev() {
            if let Some(shorter) = without_disk(&self.best.script, disk) {
                self.attempt(&shorter);
            }
        }
        for image in (0..self.best.script.images.len()).rev() {
            if let Some(shorter) = without_image(&self.best.script, image) {
                self.attempt(&shorter);
            }
        }
        for image in 0..self.best.script.images.len() {
            let mut shorter = self.best.script.clone();
            let filled = shorter.images.get_mut(image).filter(|image| image.fill > 0);
            if let Some(image) = filled {
                image.fill = 0;
                self.attempt(&shorter);
            }
        }
    }
}

fn without_disk(script: &Script, disk: usize) -> Option<Script> {
    if script.disks.len() < 2 || script.actors.iter().any(|actor| actor.disk == disk) {
        return None;
    }
    let mut shorter = script.clone();
    shorter.disks.remove(disk);
    shorter.actors.iter_mut().filter(|actor| actor.disk > disk).for_each(|actor| actor.disk -= 1);
    Some(shorter)
}

/// Those on top of it get what was behind it.
fn without_image(script: &Script, image: usize) -> Option<Script> {
    if script.images.len() < 2 || script.disks.iter().any(|disk| disk.image == image) {
        return None;
    }
    let mut shorter = script.clone();
    let gone = shorter.images.remove(image);
    let renumbered = |number: usize| if number > image { number - 1 } else { number };
    for above in &mut shorter.images {
        above.backing =
            if above.backing == Some(image) { gone.backing } else { above.backing.map(renumbered) };
    }
    shorter.disks.iter_mut().for_each(|disk| disk.image = renumbered(disk.image));
    Some(shorter)
}
