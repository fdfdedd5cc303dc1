//! A request runs on the thread that submitted it. A worker thread that needs a length is given the number.
use drystone_core::request::io::Io;

fn ask_for_the_length_in_a_worker(io: Io<'_>) -> u64 {
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || io.len()); //~ E0277
        //~ says: StaysOnItsThread
        worker.join().unwrap_or(0)
    })
}

fn main() {}
