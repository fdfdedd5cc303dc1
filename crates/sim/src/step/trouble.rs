//! [`Trouble`]: what happens to devices. Images are counted in the order in which they were made; a number past the last
//! goes round.

use std::fmt;

use drystone_testkit::disk::{FaultEffect, OpKind};
use drystone_testkit::notation::show_len;

use crate::words::{BadWord, Words, unknown};

/// A misfortune, or the end of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// `fault 0 write io skip 3 times 1`: after three writes, one fails.
    Fault(FaultSpec),
    /// `mend 0`: no operation of the device fails any more.
    Mend(usize),
    /// `fill 0 room 8K`: the device has room for so much more.
    Fill(usize, u64),
    /// `room 0`: there is room again.
    Room(usize),
    /// `damage 0 table`: reads of metadata return other bytes from now on.
    Damage(usize, Part),
    /// `cut 25`: the power goes off at that operation from now, and the run ends.
    Cut(u64),
}

/// A part of the metadata of a qcow2 image, where it is at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The header.
    Header,
    /// The L1 table.
    L1,
    /// The L2 tables.
    L2,
    /// The table of refcount blocks.
    RefcountTable,
    /// The refcount blocks.
    Refcounts,
}

const PARTS: [(&str, Part); 5] = [
    ("header", Part::Header),
    ("l1", Part::L1),
    ("l2", Part::L2),
    ("refcount-table", Part::RefcountTable),
    ("refcounts", Part::Refcounts),
];

impl Part {
    /// Every part.
    pub const ALL: [Self; 5] = [Self::Header, Self::L1, Self::L2, Self::RefcountTable, Self::Refcounts];
}

/// Which operations fail, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultSpec {
    /// Of which image.
    pub image: usize,
    /// Which kind; all kinds if none is named.
    pub kind: Option<OpKind>,
    /// How.
    pub effect: FaultEffect,
    /// After so many that work.
    pub skip: u64,
    /// How many.
    pub times: u64,
}

const KINDS: [(&str, Option<OpKind>); 7] = [
    ("any", None),
    ("read", Some(OpKind::Read)),
    ("write", Some(OpKind::Write)),
    ("flush", Some(OpKind::Flush)),
    ("discard", Some(OpKind::Discard)),
    ("zero", Some(OpKind::WriteZeroes)),
    ("truncate", Some(OpKind::Truncate)),
];
const EFFECTS: [(&str, FaultEffect); 3] =
    [("io", FaultEffect::Io), ("nospace", FaultEffect::NoSpace), ("short", FaultEffect::Short)];

fn named<T: Copy>(what: &str, list: &[(&str, T)], word: &str) -> Result<T, BadWord> {
    list.iter().find(|(name, _)| *name == word).map_or_else(|| unknown(what, word), |(_, value)| Ok(*value))
}

fn name_of<T: PartialEq>(list: &[(&'static str, T)], wanted: &T) -> &'static str {
    list.iter().find(|(_, value)| value == wanted).map_or("?", |(name, _)| name)
}

impl Trouble {
    /// What the tally calls it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Fault(_) => "faults prepared",
            Self::Mend(_) => "devices mended",
            Self::Fill(..) => "devices filled",
            Self::Room(_) => "devices with room again",
            Self::Damage(..) => "images damaged",
            Self::Cut(_) => "power cuts prepared",
        }
    }

    pub(crate) fn parse(verb: &str, words: &mut Words<'_>) -> Result<Option<Self>, BadWord> {
        const IMAGE: &str = "the number of an image";
        Ok(Some(match verb {
            "fault" => {
                let image = words.value(IMAGE)?;
                let kind = named("kind", &KINDS, words.word("a kind")?)?;
                let effect = named("effect", &EFFECTS, words.word("an effect")?)?;
                words.expect("skip")?;
                let skip = words.value("how many work")?;
                words.expect("times")?;
                Self::Fault(FaultSpec { image, kind, effect, skip, times: words.value("how many fail")? })
            }
            "mend" => Self::Mend(words.value(IMAGE)?),
            "fill" => {
                let image = words.value(IMAGE)?;
                words.expect("room")?;
                Self::Fill(image, words.len()?)
            }
            "room" => Self::Room(words.value(IMAGE)?),
            "damage" => {
                let image = words.value(IMAGE)?;
                Self::Damage(image, named("part", &PARTS, words.word("a part")?)?)
            }
            "cut" => Self::Cut(words.value("a number of operations")?),
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(FaultSpec { image, kind, effect, skip, times }) => {
                let (kind, effect) = (name_of(&KINDS, kind), name_of(&EFFECTS, effect));
                write!(f, "fault {image} {kind} {effect} skip {skip} times {times}")
            }
            Self::Mend(image) => write!(f, "mend {image}"),
            Self::Fill(image, room) => write!(f, "fill {image} room {}", show_len(*room)),
            Self::Room(image) => write!(f, "room {image}"),
            Self::Damage(image, part) => write!(f, "damage {image} {}", name_of(&PARTS, part)),
            Self::Cut(ops) => write!(f, "cut {ops}"),
        }
    }
}
