//! Eventfds and signals.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_core::lane::Lane;
use drystone_sys::{EventFd, Signal, Signals};

use crate::common::{here_on_each_engine, on_each_engine};

#[test]
fn an_eventfd_counts_and_wakes_from_another_thread() {
    on_each_engine(2, |threads| {
        let event = EventFd::new().unwrap();
        let far = event.clone();
        assert_eq!(event.try_take().unwrap(), None);
        event.signal().unwrap();
        event.signal().unwrap();
        let handle = threads.handles()[1].clone();
        threads.run_here(|local| async move {
            let mut mine = Lane::new(Rc::clone(&local));
            assert_eq!(event.wait(&mut mine).await.unwrap(), 2);
            handle.spawn(move |_| async move { far.signal().unwrap() }).unwrap();
            assert_eq!(event.wait(&mut mine).await.unwrap(), 1);
        });
    });
}

#[test]
fn an_abandoned_wait_leaves_the_count_to_the_next() {
    here_on_each_engine(|local| async move {
        let event = EventFd::new().unwrap();
        let mut mine = Lane::new(Rc::clone(&local));
        {
            let mut wait = std::pin::pin!(event.wait(&mut mine));
            std::future::poll_fn(|cx| {
                assert!(wait.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        event.signal().unwrap();
        assert_eq!(event.wait(&mut mine).await.unwrap(), 1);
    });
}

#[expect(clippy::await_holding_refcell_ref, reason = "nobody else borrows it")]
#[test]
fn signals_are_waited_for() {
    // Sent to this thread alone: the test runner's own threads would die of them.
    let raise = |number| {
        // SAFETY: the signal is blocked on this thread by `Signals::take`.
        assert_eq!(unsafe { libc::raise(number) }, 0);
    };
    let signals = Rc::new(RefCell::new(Signals::take().unwrap()));
    here_on_each_engine(|local| {
        let (signals, again) = (Rc::clone(&signals), Rc::clone(&local));
        async move {
            let mut mine = Lane::new(local);
            raise(libc::SIGTERM);
            let mut signals = signals.borrow_mut();
            assert_eq!(signals.wait(&mut mine).await.unwrap(), Signal::Terminate);
            again.spawn(Box::pin(async move { raise(libc::SIGINT) }));
            assert_eq!(signals.wait(&mut mine).await.unwrap(), Signal::Interrupt);
        }
    });
}
