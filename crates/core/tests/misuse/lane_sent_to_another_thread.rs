//! A lane belongs to the thread that made it.
use drystone_core::lane::Lane;

fn hand_over(lane: Lane) {
    std::thread::spawn(move || drop(lane)); //~ E0277
    //~ says: `Lane`
}

fn main() {}
