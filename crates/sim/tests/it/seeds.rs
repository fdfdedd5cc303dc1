//! A few seeds; thousands are played by `cargo xtask sim`.

use drystone_sim::tally::Totals;
use drystone_sim::{Options, draw, minimise, run, run_script};

#[test]
fn a_hundred_seeds_find_nothing() {
    let mut totals = Totals::default();
    for seed in 0..100 {
        let report = run(seed, &Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
        totals.add(report.steps, report.schedule, &report.tally);
    }
    println!("{totals}");
    assert_eq!(totals.schedules.len(), 100);
}

#[test]
fn equal_scripts_give_equal_runs() {
    for seed in 0..20 {
        let script = draw(seed, &Options { steps: 8 });
        let [one, two] = [run_script(&script), run_script(&script)]
            .map(|run| run.map_err(|failure| failure.message).unwrap());
        assert_eq!(
            (one.schedule, one.steps, &one.tally),
            (two.schedule, two.steps, &two.tally),
            "seed {seed}"
        );
    }
}

/// A run that cannot begin fails like any other one, and says why.
#[test]
fn a_failure_keeps_its_script_and_its_message() {
    let broken = "run seed 1 threads 1\nimage qcow2 cluster 3 refcount 16 len 4K\ndisk 0\n\
                  actor disk 0 thread 1\n  flush\n  flush\n";
    let failure = run_script(&broken.parse().unwrap()).unwrap_err();
    assert!(failure.message.contains("such an image cannot be made"), "{}", failure.message);
    let least = minimise(&failure, 100);
    assert_eq!(least.script.actors.len(), 0, "nobody is needed for that");
}
