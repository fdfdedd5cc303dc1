//! Every order in which threads can meet at the gate, the edge slots and the flush state; see `drystone_core::models`.

use drystone_core::models;

macro_rules! models {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                models::$name();
            }
        )*
    };
}

models! {
    a_change_has_what_it_changes_to_itself
    nobody_is_forgotten_at_a_gate
    giving_up_at_a_gate_hurts_nobody
    a_gate_that_closes_again_at_once_has_admitted_who_waited
    nested_sections_keep_the_gate_closed_until_the_last_ends
    every_drainer_is_woken
    a_gate_can_be_born_closed
    a_fork_is_inside_like_its_parent
    freed_space_waits_for_requests_that_found_it
    whoever_asks_gets_the_same_answer
    a_stamp_is_good_whoever_advances_the_phase
    whoever_finds_the_phase_advanced_may_use_the_space
    continuous_traffic_does_not_hold_up_a_grace_period
    admitted_requests_hold_up_a_grace_period
    an_edge_is_not_replaced_while_it_is_read
    an_edge_is_not_replaced_while_a_sub_task_reads_it
    a_flush_that_is_left_out_had_nothing_to_do
    a_mark_is_in_the_next_harvest_or_in_one_before
    all_harvests_together_have_every_mark
    whoever_finds_its_bit_set_is_harvested_like_whoever_set_it
}
