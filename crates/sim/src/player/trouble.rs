//! What happens to devices.

use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, OpKind};

use super::Player;
use crate::image::{Sheet, tables};
use crate::prepare::chain_of;
use crate::step::{FaultSpec, Part, Trouble};

impl Player {
    pub(super) fn trouble(&self, trouble: &Trouble) {
        let common = &self.stage.common;
        match *trouble {
            Trouble::Fault(FaultSpec { image, kind, effect, skip, times }) => {
                common.trouble();
                let filter = kind.map_or_else(OpFilter::any, OpFilter::of);
                self.device(image, |sheet| sheet.disk.inject(Fault::nth(skip, filter, effect).times(times)));
            }
            Trouble::Mend(image) => self.device(image, |sheet| sheet.disk.clear_faults()),
            Trouble::Fill(image, room) => {
                common.trouble();
                self.device(image, |sheet| {
                    sheet.disk.set_space(sheet.disk.image().allocated_bytes().saturating_add(room));
                });
            }
            Trouble::Room(image) => self.device(image, |sheet| sheet.disk.set_space(u64::MAX)),
            Trouble::Damage(image, part) => self.device(image, |sheet| self.damage(sheet, part)),
            Trouble::Cut(ops) => {
                common.trouble();
                common.power().cut_at(common.power().ops_begun().saturating_add(ops));
            }
        }
        common.counts().event(trouble.name(), 1);
    }

    /// Reads of that part return other bytes from now on. Of disks on it, nothing is known any more.
    fn damage(&self, sheet: &Sheet, part: Part) {
        let ranges = tables(&sheet.disk.image(), part);
        if ranges.is_empty() {
            return;
        }
        self.stage.common.damage(&sheet.name);
        for range in ranges {
            let filter = OpFilter::of(OpKind::Read).touching(range);
            sheet.disk.inject(Fault::every(filter, FaultEffect::Damage));
        }
        let sheets = self.stage.common.sheets();
        let is_on = |top: &str, below: &str| chain_of(&sheets, top).iter().any(|one| one.name == below);
        for disk in &self.stage.disks {
            // It may also be about to become the image on top.
            let head = disk.front.head();
            if is_on(&head, &sheet.name) || is_on(&sheet.name, &head) {
                disk.forget();
            }
        }
    }

    /// The device of image number `number`, going round.
    fn device(&self, number: usize, work: impl FnOnce(&Sheet)) {
        let sheets = self.stage.common.sheets();
        if let Some(sheet) = number.checked_rem(sheets.len()).and_then(|place| sheets.get(place)) {
            work(sheet);
        }
    }
}
