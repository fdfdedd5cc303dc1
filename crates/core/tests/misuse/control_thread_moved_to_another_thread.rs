//! The graph is owned by one thread for good.
use drystone_core::control::ControlThread;

fn move_it(control: ControlThread) {
    std::thread::spawn(move || drop(control)); //~ E0277
    //~ says: ControlThread
}

fn main() {}
