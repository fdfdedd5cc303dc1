//! An I/O task cannot call a global-state function: it has no way to the global state, and none can be sent to it.
use drystone_core::control::Task;
use drystone_core::lane::Lane;
use stand_in::spawn_io;

fn count_nodes_on_an_io_thread(task: &'static Task<'static>) {
    spawn_io(async move |_lane: Lane| { //~ E0277
        //~ says: StaysOnItsThread
        task.gs().with(|graph| graph.nodes().len());
    });
}

fn main() {}
