//! The gate on one thread; `tests/loom` explores it on several.

use super::*;

const A: Shard = Shard::new(0);

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_closed_gate_admits_its_queue_when_it_opens_even_if_it_closes_again_at_once() {
    let gate = Arc::new(Gate::new(1, 1));
    let mut first = Enter::new(Arc::clone(&gate), A);
    assert!(poll_once(&mut first).is_pending());
    gate.set_closed(0);
    gate.set_closed(1);
    assert!(!gate.is_idle(), "the admitted request counts before it has run");
    assert_eq!(poll_once(&mut first), Poll::Ready(Side::Admitted));
    let mut second = Enter::new(Arc::clone(&gate), A);
    assert!(poll_once(&mut second).is_pending());
    gate.leave(A, Side::Admitted);
    assert!(gate.is_idle());
}

#[test]
fn a_waiter_that_gives_up_leaves_nothing_behind() {
    let gate = Arc::new(Gate::new(1, 1));
    let mut waiting = Enter::new(Arc::clone(&gate), A);
    let mut admitted = Enter::new(Arc::clone(&gate), A);
    assert!(poll_once(&mut waiting).is_pending());
    drop(waiting);
    assert!(poll_once(&mut admitted).is_pending());
    gate.set_closed(0);
    drop(admitted);
    assert!(gate.is_idle());
}

#[test]
fn a_fork_keeps_the_gate_busy_after_its_parent_left() {
    let gate = Gate::new(1, 0);
    let parent = gate.try_enter(A).unwrap();
    gate.set_closed(1);
    let child = gate.fork(A, parent);
    gate.leave(A, parent);
    assert!(!gate.is_idle());
    gate.leave(A, child);
    assert!(gate.is_idle());
}

#[test]
fn a_grace_period_ends_with_the_requests_that_began_before_it() {
    let gate = Gate::new(2, 0);
    let old = gate.try_enter(A).unwrap();
    let moment = gate.moment();
    let new = gate.try_enter(Shard::new(1)).unwrap();
    assert!(!gate.has_passed(moment));
    gate.leave(A, old);
    gate.leave(Shard::new(1), new);
    let later = gate.try_enter(A).unwrap();
    assert!(!gate.has_passed(gate.moment()));
    gate.leave(A, later);
    assert!(gate.has_passed(moment));
}

#[test]
fn requests_that_began_later_do_not_hold_up_a_grace_period_for_ever() {
    let gate = Gate::new(1, 0);
    let old = gate.try_enter(A).unwrap();
    let moment = gate.moment();
    gate.leave(A, old);
    let mut inside = gate.try_enter(A).unwrap();
    let mut rounds = 0;
    while !gate.has_passed(moment) {
        let next = gate.try_enter(A).unwrap();
        gate.leave(A, inside);
        inside = next;
        rounds += 1;
        assert!(rounds < 10, "always somebody inside, but never the same");
    }
}
