//! The daemon under every order of steps that a seed finds: monitors change the graph below an export while clients of NBD
//! write and read, stall and go, devices fail and the power goes. What a client reads is what the model says, whatever is
//! below.

use std::collections::BTreeSet;

use drystone_played::play::{Report, STEPS_DEFAULT, run};

fn play(seed: u64) -> Report {
    run(seed, STEPS_DEFAULT).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn clients_read_what_was_written_whatever_monitors_do_below_them() {
    let schedules: BTreeSet<u64> = (0..100).map(|seed| play(seed).schedule).collect();
    assert_eq!(schedules.len(), 100);
}

#[test]
fn equal_seeds_give_equal_conversations() {
    for seed in 5000..5010 {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}
