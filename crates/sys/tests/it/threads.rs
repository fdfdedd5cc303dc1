//! Tasks, wakes, timers, blocking calls, and how threads end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Poll, Waker};

use drystone_base::Kind;
use drystone_core::runtime::{LocalRef, Shard, yield_now};
use drystone_sys::{BlockingQueue, EngineKind, SysLocal, Threads};

use crate::common::{Arrivals, here_on_each_engine, on_each_engine};

/// A meeting point of two tasks on different threads: each side counts the other's wakes.
#[derive(Default)]
struct Meeting {
    wakers: Mutex<[Option<Waker>; 2]>,
    tokens: [AtomicUsize; 2],
}

impl Meeting {
    /// Gives the other side a token and waits for one from it.
    async fn exchange(&self, side: usize) {
        self.tokens[1 - side].fetch_add(1, Ordering::SeqCst);
        let other = self.wakers.lock().unwrap()[1 - side].take();
        if let Some(waker) = other {
            waker.wake();
        }
        poll_fn(|cx| {
            self.wakers.lock().unwrap()[side] = Some(cx.waker().clone());
            if self.tokens[side]
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok()
            {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

#[test]
fn two_threads_wake_10_000_tasks_of_each_other() {
    const TASKS: usize = 10_000;
    const ROUNDS: usize = 5;
    on_each_engine(3, |threads| {
        let meetings: Arc<Vec<Meeting>> = Arc::new((0..TASKS).map(|_| Meeting::default()).collect());
        let (ended, ends) = mpsc::channel();
        for side in [0, 1] {
            let (meetings, ended) = (Arc::clone(&meetings), ended.clone());
            threads.handles()[1 + side]
                .spawn(move |local| async move {
                    let left = Rc::new(Cell::new(TASKS));
                    for index in 0..TASKS {
                        let (meetings, ended, left) =
                            (Arc::clone(&meetings), ended.clone(), Rc::clone(&left));
                        local.spawn(Box::pin(async move {
                            for _ in 0..ROUNDS {
                                meetings[index].exchange(side).await;
                            }
                            left.set(left.get() - 1);
                            if left.get() == 0 {
                                ended.send(side).unwrap();
                            }
                        }));
                    }
                })
                .unwrap();
        }
        let mut sides = [ends.recv().unwrap(), ends.recv().unwrap()];
        sides.sort_unstable();
        assert_eq!(sides, [0, 1]);
    });
}

#[test]
fn any_thread_of_the_process_can_wake_a_task() {
    here_on_each_engine(|_local| async {
        let woken = Arc::new(AtomicUsize::new(0));
        let mut thread = None;
        poll_fn(|cx| {
            if woken.load(Ordering::SeqCst) == 1 {
                return Poll::Ready(());
            }
            let (waker, woken) = (cx.waker().clone(), Arc::clone(&woken));
            thread.get_or_insert_with(|| {
                std::thread::spawn(move || {
                    woken.store(1, Ordering::SeqCst);
                    waker.wake();
                })
            });
            Poll::Pending
        })
        .await;
        thread.unwrap().join().unwrap();
    });
}

#[test]
fn tasks_run_in_the_order_of_their_spawning_and_then_of_their_wakes() {
    here_on_each_engine(|local| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        for index in 0..3 {
            let order = Rc::clone(&order);
            local.spawn(Box::pin(async move {
                order.borrow_mut().push(index);
                yield_now().await;
                order.borrow_mut().push(10 + index);
            }));
        }
        while order.borrow().len() < 6 {
            yield_now().await;
        }
        assert_eq!(*order.borrow(), [0, 1, 2, 10, 11, 12]);
    });
}

#[test]
fn timers_fire_in_the_order_of_their_times_and_not_early() {
    here_on_each_engine(|local| async move {
        let start_ns = local.now_ns();
        let order = Rc::new(RefCell::new(Vec::new()));
        for after_ms in [30, 10, 20] {
            let (order, clock) = (Rc::clone(&order), Rc::clone(&local));
            local.spawn(Box::pin(async move {
                let at_ns = start_ns + after_ms * 1_000_000;
                clock.sleep_until(at_ns).await;
                assert!(clock.now_ns() >= at_ns);
                order.borrow_mut().push(after_ms);
            }));
        }
        local.sleep_until(start_ns + 40_000_000).await;
        assert_eq!(*order.borrow(), [10, 20, 30]);
    });
}

#[test]
fn a_dropped_timer_wakes_nobody() {
    here_on_each_engine(|local| async move {
        let mut polls = 0;
        let mut soon = Some(local.sleep_until(local.now_ns() + 1_000_000));
        let mut later = local.sleep_until(local.now_ns() + 20_000_000);
        poll_fn(|cx| {
            polls += 1;
            if let Some(mut soon) = soon.take() {
                assert!(soon.as_mut().poll(cx).is_pending());
            }
            later.as_mut().poll(cx)
        })
        .await;
        assert_eq!(polls, 2);
    });
}

#[test]
fn a_task_that_always_yields_does_not_keep_timers_from_firing() {
    here_on_each_engine(|local| async move {
        let rung = Rc::new(Cell::new(false));
        let (bell, clock) = (Rc::clone(&rung), Rc::clone(&local));
        local.spawn(Box::pin(async move {
            clock.sleep_until(clock.now_ns() + 1_000_000).await;
            bell.set(true);
        }));
        while !rung.get() {
            yield_now().await;
        }
    });
}

#[test]
fn threads_have_different_numbers_and_work_can_be_placed_on_each() {
    on_each_engine(3, |threads| {
        let arrivals = Arrivals::default();
        for (index, handle) in (0..).zip(threads.handles()) {
            let arrivals = arrivals.clone();
            assert_eq!(handle.shard(), Shard::new(index));
            let place = move |local: LocalRef| async move {
                assert_eq!(local.shard(), Shard::new(index));
                arrivals.arrive();
            };
            handle.spawn(place).unwrap();
        }
        threads.run_here(|_| arrivals.wait_for(3));
    });
}

#[test]
fn a_thread_does_not_end_before_its_tasks() {
    on_each_engine(2, |threads| {
        let done = Arrivals::default();
        let inner = Threads::start(2, threads.engine()).unwrap();
        for handle in inner.handles() {
            let done = done.clone();
            handle
                .spawn(move |local| async move {
                    local.sleep_until(local.now_ns() + 5_000_000).await;
                    done.arrive();
                })
                .unwrap();
        }
        drop(inner);
        assert_eq!(done.count(), 2);
    });
}

#[test]
fn an_ended_thread_takes_no_work_and_its_wakers_do_nothing() {
    on_each_engine(2, |threads| {
        let (sender, receiver) = mpsc::channel();
        let inner = Threads::start(2, threads.engine()).unwrap();
        let handle = inner.handles()[1].clone();
        handle
            .spawn(move |_| async move {
                poll_fn(|cx| {
                    sender.send(cx.waker().clone()).unwrap();
                    Poll::Ready(())
                })
                .await;
            })
            .unwrap();
        let waker = receiver.recv().unwrap();
        drop(inner);
        waker.wake_by_ref();
        assert_eq!(handle.spawn(|_| async {}).unwrap_err().kind(), Kind::Cancelled);
    });
}

#[test]
fn a_panic_of_a_task_ends_that_task_and_is_raised_at_the_end() {
    on_each_engine(2, |threads| {
        let mut inner = Threads::start(2, threads.engine()).unwrap();
        let (sender, receiver) = mpsc::channel();
        inner.handles()[1].spawn(|_| async { std::panic::resume_unwind(Box::new("spoilt")) }).unwrap();
        inner.handles()[1].spawn(move |_| async move { sender.send(()).unwrap() }).unwrap();
        receiver.recv().unwrap();
        inner.run_here(|_| yield_now());
        let panic = catch_unwind(AssertUnwindSafe(|| drop(inner))).unwrap_err();
        assert_eq!(*panic.downcast::<&str>().unwrap(), "spoilt");
    });
}

#[test]
fn a_panicking_owner_does_not_wait_for_tasks_that_never_end() {
    on_each_engine(2, |threads| {
        let kind = threads.engine();
        let dropped = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&dropped);
        let panic = catch_unwind(move || {
            struct Counted(Arc<AtomicUsize>);
            impl Drop for Counted {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Ordering::SeqCst);
                }
            }
            let mut inner = Threads::start(2, kind).unwrap();
            for handle in inner.handles() {
                let counted = Counted(Arc::clone(&count));
                handle
                    .spawn(move |_| async move {
                        std::future::pending::<()>().await;
                        drop(counted);
                    })
                    .unwrap();
            }
            inner.run_here(|_| async { std::panic::resume_unwind(Box::new("owner")) })
        });
        assert!(panic.is_err());
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn there_is_at_least_one_thread() {
    assert_eq!(Threads::start(0, EngineKind::Auto).err().unwrap().kind(), Kind::InvalidInput);
    assert_eq!(
        Threads::start(Shard::COUNT_MAX + 1, EngineKind::Auto).err().unwrap().kind(),
        Kind::InvalidInput
    );
}

#[test]
fn auto_means_io_uring_where_it_works_and_threads_elsewhere() {
    let auto = Threads::start(1, EngineKind::Auto).unwrap().engine();
    match Threads::start(1, EngineKind::Uring) {
        Ok(_) => assert_eq!(auto, EngineKind::Uring),
        Err(error) => assert_eq!((auto, error.kind()), (EngineKind::Pool, Kind::Unsupported)),
    }
}

/// Lets calls go on one by one, and knows how many have come.
#[derive(Default)]
struct Door {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Door {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        while !state.1 {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn wait_for(&self, count: usize) {
        let mut state = self.state.lock().unwrap();
        while state.0 < count {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[test]
fn blocking_calls_past_the_bound_of_their_queue_wait_without_blocking_the_thread_or_other_queues() {
    here_on_each_engine(|local| async move {
        let sys = SysLocal::of(&*local).unwrap();
        let door = Arc::new(Door::default());
        let slow = BlockingQueue::new(NonZeroUsize::new(2).unwrap());
        let fast = BlockingQueue::new(NonZeroUsize::MIN);
        let calls: Vec<_> = (0..5)
            .map(|index| {
                let door = Arc::clone(&door);
                sys.blocking(&slow, move || {
                    door.pass();
                    index
                })
            })
            .collect();
        let watcher = Arc::clone(&door);
        sys.blocking(&fast, move || watcher.wait_for(2)).await.unwrap();
        assert_eq!(door.state.lock().unwrap().0, 2);
        door.open();
        for (index, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap(), index);
        }
    });
}

#[test]
fn a_blocking_call_that_panics_fails_alone() {
    here_on_each_engine(|local| async move {
        let sys = SysLocal::of(&*local).unwrap();
        let queue = BlockingQueue::new(NonZeroUsize::MIN);
        let spoilt = sys.blocking(&queue, || std::panic::resume_unwind(Box::new("spoilt")));
        let good = sys.blocking(&queue, || 7);
        let result: Result<(), _> = spoilt.await;
        assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
        assert_eq!(good.await.unwrap(), 7);
    });
}

#[test]
fn an_abandoned_blocking_call_is_made_before_its_thread_ends() {
    on_each_engine(1, |threads| {
        let made = Arc::new(AtomicUsize::new(0));
        let mut inner = Threads::start(1, threads.engine()).unwrap();
        let count = Arc::clone(&made);
        inner.run_here(|local| async move {
            let sys = SysLocal::of(&*local).unwrap();
            let queue = BlockingQueue::new(NonZeroUsize::MIN);
            drop(sys.blocking(&queue, move || count.fetch_add(1, Ordering::SeqCst)));
        });
        drop(inner);
        assert_eq!(made.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn threads_are_started_later_up_to_the_room_that_there_is() {
    let mut threads = Threads::start_with_room(2, 4, EngineKind::Auto).unwrap();
    let starter = threads.starter();
    let more = [starter.start().unwrap(), starter.start().unwrap()];
    assert_eq!(more.each_ref().map(|handle| handle.shard().index()), [2, 3]);
    assert_eq!(starter.start().unwrap_err().kind(), Kind::TooLarge);
    let shards = Arc::new(Mutex::new(Vec::new()));
    for handle in &more {
        let shards = Arc::clone(&shards);
        handle.spawn(move |local| async move { shards.lock().unwrap().push(local.shard().index()) }).unwrap();
    }
    threads.run_here(|_| async {});
    drop(threads);
    let mut seen = shards.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3], "what was given to a thread is done before it ends");
    assert_eq!(starter.start().unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(Threads::start_with_room(2, 1, EngineKind::Auto).err().unwrap().kind(), Kind::InvalidInput);
}
