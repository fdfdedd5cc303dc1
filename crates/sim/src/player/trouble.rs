//! What happens to devices.

use drystone_testkit::disk::{Fault, OpFilter};

use super::Player;
use crate::image::Sheet;
use crate::step::{FaultSpec, Trouble};

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
            Trouble::Cut(ops) => {
                common.trouble();
                common.power().cut_at(common.power().ops_begun().saturating_add(ops));
            }
        }
        common.counts().event(trouble.name(), 1);
    }

    /// The device of image number `number`, going round.
    fn device(&self, number: usize, work: impl FnOnce(&Sheet)) {
        let sheets = self.stage.common.sheets();
        if let Some(sheet) = number.checked_rem(sheets.len()).and_then(|place| sheets.get(place)) {
            work(sheet);
        }
    }
}
