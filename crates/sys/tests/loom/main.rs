//! The wake list under every interleaving that loom finds: `cargo test -p drystone-sys --features loom --test loom`.
//!
//! Two threads wake, one thread runs and sleeps. The claims: no wake is lost (a thread that sleeps was told of
//! everything before), nobody but the push that ended the sleep rings, what was written before a wake is seen by the
//! run that follows it, and an item is never run twice at a time.

#[path = "../../src/wake.rs"]
mod wake;

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use wake::{Link, Linked, Pushed, WakeList};

struct Item {
    link: Link<Item>,
    /// Written by the waker before it wakes, read by the run.
    mail: AtomicUsize,
    /// Touched by runs only: loom reports two at a time.
    body: UnsafeCell<usize>,
}

// SAFETY: `body` is checked by loom, which reports overlapping accesses instead of letting them happen.
unsafe impl Sync for Item {}

impl Linked for Item {
    fn link(&self) -> &Link<Item> {
        &self.link
    }
}

fn item() -> Arc<Item> {
    Arc::new(Item { link: Link::new(), mail: AtomicUsize::new(0), body: UnsafeCell::new(0) })
}

struct Thread {
    list: WakeList<Item>,
    rung: AtomicUsize,
}

fn new_thread() -> Arc<Thread> {
    Arc::new(Thread { list: WakeList::new(), rung: AtomicUsize::new(0) })
}

impl Thread {
    fn wake(&self, item: &Arc<Item>) {
        item.mail.fetch_add(1, Ordering::Relaxed);
        if self.list.push(item) == Pushed::RingBell {
            self.rung.fetch_add(1, Ordering::Release);
        }
    }

    /// Runs what is woken; returns the mail seen.
    fn run(&self) -> usize {
        let mut seen = 0;
        for item in self.list.take() {
            item.link.begin();
            item.body.with_mut(|runs| {
                // SAFETY: loom checks that no other access overlaps.
                unsafe { *runs += 1 }
            });
            seen += item.mail.swap(0, Ordering::Relaxed);
        }
        seen
    }

    /// What a thread does between batches: sleep until rung, unless something is woken.
    fn rest(&self) {
        if self.list.try_sleep() {
            while self.rung.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            self.rung.fetch_sub(1, Ordering::Relaxed);
            self.list.wake_up();
        }
    }

    /// As a thread that something else has woken, such as a timer: it may or may not have been rung as well.
    fn doze(&self) {
        if self.list.try_sleep() {
            thread::yield_now();
            self.list.wake_up();
        }
    }
}

/// Explores every interleaving with at most three forced switches of threads, which is enough for every known kind of
/// lost wake-up; for two wakers, all interleavings take minutes.
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(body);
}

#[test]
fn a_sleeping_thread_hears_of_both_wakes_of_one_item() {
    model(|| {
        let home = new_thread();
        let task = item();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let (home, task) = (Arc::clone(&home), Arc::clone(&task));
                thread::spawn(move || home.wake(&task))
            })
            .collect();
        let mut seen = 0;
        while seen < 2 {
            home.rest();
            seen += home.run();
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        assert!(home.rung.load(Ordering::Relaxed) <= 1);
    });
}

#[test]
fn a_thread_that_wakes_up_by_itself_loses_no_wake() {
    loom::model(|| {
        let home = new_thread();
        let task = item();
        let waker = {
            let (home, task) = (Arc::clone(&home), Arc::clone(&task));
            thread::spawn(move || home.wake(&task))
        };
        home.doze();
        let mut seen = home.run();
        // Rung or not, the second sleep must hear of what the first has not.
        while seen < 1 {
            home.rest();
            seen += home.run();
        }
        waker.join().unwrap();
    });
}

#[test]
fn wakes_of_two_items_are_both_run() {
    model(|| {
        let home = new_thread();
        let tasks = [item(), item()];
        let wakers: Vec<_> = tasks
            .iter()
            .map(|task| {
                let (home, task) = (Arc::clone(&home), Arc::clone(task));
                thread::spawn(move || home.wake(&task))
            })
            .collect();
        let mut seen = 0;
        while seen < 2 {
            home.rest();
            seen += home.run();
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
}

#[test]
fn a_wake_of_an_ended_thread_gives_the_item_up() {
    loom::model(|| {
        let home = new_thread();
        let task = item();
        let waker = {
            let (home, task) = (Arc::clone(&home), Arc::clone(&task));
            thread::spawn(move || home.wake(&task))
        };
        let left = home.list.close().count();
        waker.join().unwrap();
        assert!(left <= 1);
        assert_eq!(Arc::strong_count(&task), 1);
    });
}

#[test]
fn items_leave_in_the_order_of_their_wakes() {
    loom::model(|| {
        let home = new_thread();
        let tasks: Vec<_> = (0..3).map(|_| item()).collect();
        for task in &tasks {
            home.wake(task);
        }
        assert!(!home.list.is_empty());
        let batch = home.list.take();
        assert!(!batch.is_empty());
        assert!(home.list.is_empty());
        let order: Vec<_> = batch.collect();
        assert!(order.iter().zip(&tasks).all(|(a, b)| Arc::ptr_eq(a, b)));
    });
}

#[test]
fn a_wake_of_a_retired_item_gives_it_up_at_most_once() {
    loom::model(|| {
        let home = new_thread();
        let task = item();
        let waker = {
            let (home, task) = (Arc::clone(&home), Arc::clone(&task));
            thread::spawn(move || home.wake(&task))
        };
        task.link.retire();
        home.wake(&task);
        waker.join().unwrap();
        assert!(home.list.take().count() <= 1);
        assert_eq!(Arc::strong_count(&task), 1);
    });
}
