//! Raw bytes, a parsed header and an opened image are different things: only a driver stands in the graph.
use drystone_core::driver::Driver;

struct Header {
    version: u32,
}

fn stand_in_the_graph(header: Header) -> Box<dyn Driver> {
    let _ = header.version;
    Box::new(header) //~ E0277
    //~ says: `Header` is not an opened image
}

fn main() {}
