//! The simulator finds what it is there to find, and does so again with the same seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Waker;

use drystone_core::runtime::{sim_point, yield_now};

use super::*;

/// Two tasks on two threads that each append their letter `n` times, giving way in between.
fn interleaved(seed: u64, policy: Option<Policy>) -> (String, u64) {
    let sim = Sim::new(SimOptions { policy, ..SimOptions::seeded(seed) });
    let log = Rc::new(RefCell::new(String::new()));
    for (thread, letter) in [(1, 'a'), (2, 'b')] {
        let log = Rc::clone(&log);
        sim.spawn(&sim.io(thread), letter, async move {
            for _ in 0..4 {
                log.borrow_mut().push(letter);
                yield_now().await;
            }
        });
    }
    sim.run_to_end().unwrap();
    (log.take(), sim.schedule_hash())
}

#[test]
fn equal_seeds_take_equal_steps() {
    for seed in 0..50 {
        assert_eq!(interleaved(seed, None), interleaved(seed, None));
    }
}

#[test]
fn every_interleaving_of_two_short_tasks_is_found() {
    let runs: BTreeSet<_> = (0..5000).map(|seed| interleaved(seed, Some(Policy::Uniform)).0).collect();
    assert_eq!(runs.len(), 70, "4 of 8 places are a's: 8! / 4! / 4!");
}

#[test]
fn ranks_let_one_task_be_overtaken_by_all_steps_of_another() {
    let runs = (0..1000).map(|seed| interleaved(seed, Some(Policy::Ranked)).0);
    let overtaken = runs.filter(|log| log == "aaaabbbb" || log == "bbbbaaaa").count();
    assert!((300..900).contains(&overtaken), "{overtaken} of 1000; evenly spread it would be 29");
}

#[test]
fn schedules_are_told_apart_by_their_hash() {
    let by_hash: BTreeSet<_> = (0..2000).map(|seed| interleaved(seed, None)).collect();
    let hashes: BTreeSet<_> = by_hash.iter().map(|(_, hash)| hash).collect();
    let logs: BTreeSet<_> = by_hash.iter().map(|(log, _)| log).collect();
    assert!(hashes.len() >= logs.len());
}

#[test]
fn a_task_that_nobody_wakes_is_reported_by_name() {
    let sim = Sim::seeded(1);
    sim.spawn(&sim.io(2), "forgotten", std::future::pending());
    let stuck = sim.run_to_end().unwrap_err();
    assert_eq!(
        stuck.to_string(),
        "stuck: nothing can run, and these tasks wait for ever:\n  thread 2: forgotten (polled 1 times)"
    );
}

#[test]
fn a_deadlock_is_reported_with_who_waits_for_whom() {
    let sim = Sim::seeded(1);
    sim.explain_waits(|| "a holds 1 and waits for 2; b holds 2 and waits for 1".into());
    let locks = Rc::new([Lock::default(), Lock::default()]);
    let found = (0..100).filter(|_| {
        for (name, first, second) in [("a", 0, 1), ("b", 1, 0)] {
            let locks = Rc::clone(&locks);
            sim.spawn(&sim.io(1), name, async move {
                locks[first].take().await;
                yield_now().await;
                locks[second].take().await;
                locks[first].release();
                locks[second].release();
            });
        }
        sim.run_to_end().is_err()
    });
    let text = found.map(|_| sim.run_to_end().unwrap_err().to_string()).next().unwrap();
    assert!(text.contains("thread 1: a ("), "{text}");
    assert!(text.contains("thread 1: b ("), "{text}");
    assert!(text.ends_with("b holds 2 and waits for 1"), "{text}");
}

/// A lock without fairness, as simple as one can be.
#[derive(Default)]
struct Lock {
    is_taken: Cell<bool>,
    waiters: RefCell<Vec<Waker>>,
}

impl Lock {
    async fn take(&self) {
        poll_fn(|cx| {
            if !self.is_taken.replace(true) {
                return Poll::Ready(());
            }
            self.waiters.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn release(&self) {
        self.is_taken.set(false);
        self.waiters.take().into_iter().for_each(Waker::wake);
    }
}

#[test]
fn a_wake_up_that_is_lost_in_one_order_only_is_found() {
    // The waiter looks, gives way, and only then leaves its waker: a wake-up in between is lost.
    let stuck = (0..100).filter(|&seed| {
        let sim = Sim::seeded(seed);
        let (is_set, waker) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(None::<Waker>)));
        let (flag, slot) = (Rc::clone(&is_set), Rc::clone(&waker));
        let (one, two) = (sim.io(1), sim.io(2));
        let here = Rc::clone(&one);
        sim.spawn(&one, "waits", async move {
            let was_set = flag.get();
            sim_point(&*here).await;
            let mut is_first = true;
            poll_fn(|cx| {
                slot.replace(Some(cx.waker().clone()));
                if was_set || !std::mem::take(&mut is_first) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
        sim.spawn(&two, "sets", async move {
            is_set.set(true);
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        });
        sim.run_to_end().is_err()
    });
    let found = stuck.count();
    assert!((1..100).contains(&found), "{found} of 100 seeds");
}

#[test]
fn a_task_that_never_ends_is_cut_off() {
    let sim = Sim::new(SimOptions { steps_max: 100, ..SimOptions::seeded(3) });
    sim.spawn(&sim.control(), "spins", async {
        loop {
            yield_now().await;
        }
    });
    let error = sim.run_to_end().unwrap_err();
    assert!(matches!(error, SimError::TooManySteps { steps: 100, .. }), "{error}");
}

#[test]
fn a_task_that_only_yields_does_not_keep_others_away_for_ever() {
    for seed in 0..200 {
        let sim = Sim::new(SimOptions { steps_max: 5000, ..SimOptions::seeded(seed) });
        let done = Rc::new(Cell::new(false));
        let is_done = Rc::clone(&done);
        sim.spawn(&sim.io(1), "spins", async move {
            while !is_done.get() {
                yield_now().await;
            }
        });
        sim.spawn(&sim.io(2), "ends it", async move { done.set(true) });
        sim.run_to_end().unwrap();
    }
}

#[test]
fn time_stands_still_while_anything_is_ready() {
    let sim = Sim::seeded(5);
    let start_ns = sim.now_ns();
    let local = sim.io(1);
    sim.spawn(&sim.io(2), "busy", async {
        for _ in 0..1000 {
            yield_now().await;
        }
    });
    let woken_at = sim.block_on(&local, async {
        local.sleep_until(start_ns + 7_000_000_000).await;
        local.now_ns()
    });
    assert_eq!(woken_at, Ok(start_ns + 7_000_000_000));
    assert!(sim.steps() > 1000, "the busy task came first");
}

#[test]
fn sleepers_wake_in_the_order_of_their_times() {
    let sim = Sim::seeded(5);
    let log = Rc::new(RefCell::new(Vec::new()));
    for delay_ns in [30, 10, 20, 10] {
        let (log, local) = (Rc::clone(&log), sim.io(1));
        sim.spawn(&sim.io(1), "sleeps", async move {
            local.sleep_until(local.now_ns() + delay_ns).await;
            log.borrow_mut().push(delay_ns);
        });
    }
    sim.run_to_end().unwrap();
    assert_eq!(log.take(), [10, 10, 20, 30]);
}

#[test]
fn a_dropped_sleep_takes_its_timer_back() {
    let sim = Sim::seeded(5);
    let start_ns = sim.now_ns();
    let local = sim.io(1);
    let answer = sim.block_on(&local, abandon_after(1, local.sleep_until(start_ns + 1000))).unwrap();
    assert_eq!(answer, None);
    assert!(sim.block_on(&local, std::future::pending::<()>()).is_err());
    assert_eq!(sim.now_ns(), start_ns, "nobody waits for the time any more");
}

#[test]
fn a_sleep_without_end_is_no_reason_to_move_the_clock() {
    let sim = Sim::seeded(5);
    let local = sim.io(1);
    assert!(sim.block_on(&local, local.sleep_until(u64::MAX)).is_err());
}

#[test]
fn steps_cost_time_if_asked_to() {
    let sim = Sim::new(SimOptions { step_ns: 50, ..SimOptions::seeded(5) });
    let start_ns = sim.now_ns();
    sim.block_on(&sim.io(1), yield_now()).unwrap();
    assert_eq!(sim.now_ns() - start_ns, 100);
}

#[test]
fn wake_ups_cross_threads() {
    let sim = Sim::seeded(9);
    let (tx, rx) = std::sync::mpsc::channel::<Waker>();
    sim.spawn(&sim.io(1), "helps", async move {
        let mut polls = 0;
        poll_fn(move |cx| {
            polls += 1;
            tx.send(cx.waker().clone()).unwrap();
            if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    });
    sim.settle().unwrap();
    let waker = rx.recv().unwrap();
    std::thread::spawn(move || waker.wake()).join().unwrap();
    sim.run_to_end().unwrap();
}

#[test]
fn block_on_borrows_from_its_caller_and_leaves_other_tasks_pending() {
    let sim = Sim::seeded(2);
    let text = String::from("here");
    sim.spawn(&sim.io(1), "waits", std::future::pending());
    assert_eq!(sim.block_on(&sim.control(), async { text.len() }), Ok(4));
    assert_eq!(sim.pending().len(), 1);
}

#[test]
fn children_are_named_after_their_parent() {
    let sim = Sim::seeded(2);
    let local = sim.io(1);
    sim.spawn(&sim.io(1), "job", async move {
        local.spawn(Box::pin(std::future::pending()));
        local.spawn(Box::pin(std::future::pending()));
    });
    sim.settle().unwrap();
    let names: Vec<_> = sim.pending().into_iter().map(|task| task.name).collect();
    assert_eq!(names, ["job/1", "job/2"]);
}

#[test]
fn a_future_is_dropped_at_each_of_its_awaits_in_turn() {
    let sim = Sim::seeded(2);
    let mut reached = Vec::new();
    for polls in 0.. {
        let steps = Cell::new(0);
        let whole = async {
            for _ in 0..3 {
                steps.set(steps.get() + 1);
                yield_now().await;
            }
        };
        let ended = sim.block_on(&sim.io(1), abandon_after(polls, whole)).unwrap().is_some();
        reached.push(steps.get());
        if ended {
            break;
        }
    }
    assert_eq!(reached, [0, 1, 2, 3, 3]);
}

#[test]
fn what_a_dropped_task_spawns_is_dropped_too() {
    struct Spawns(LocalRef, Rc<Cell<bool>>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let dropped = Rc::clone(&self.1);
            self.0.spawn(Box::pin(async move { drop(dropped) }));
        }
    }
    let alive = Rc::new(Cell::new(true));
    let sim = Sim::seeded(2);
    let spawns = Spawns(sim.io(1), Rc::clone(&alive));
    sim.spawn(&sim.io(1), "parent", async move {
        std::future::pending::<()>().await;
        drop(spawns);
    });
    sim.settle().unwrap();
    drop(sim);
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn exploring_counts_seeds_steps_and_schedules() {
    let explored = explore(0..100, |sim| {
        for thread in [1, 2] {
            sim.spawn(&sim.io(thread), "yields", yield_now());
        }
        sim.run_to_end().unwrap();
    });
    assert_eq!((explored.seeds, explored.steps, explored.schedules), (100, 400, 6));
}

#[test]
#[should_panic(expected = "a task cannot run the simulation that it is part of")]
fn a_task_cannot_run_its_own_simulation() {
    let sim = Rc::new(Sim::seeded(2));
    let inner = Rc::clone(&sim);
    sim.block_on(&sim.io(1), async move { inner.run_to_end() }).unwrap().unwrap();
}
