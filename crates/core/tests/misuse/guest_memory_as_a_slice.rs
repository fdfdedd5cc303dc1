//! Guest memory changes while we look at it, so there is no slice of it: bytes are copied in and out.
use drystone_buf::GuestSlice;

fn borrow(memory: &GuestSlice) -> &[u8] {
    memory.as_slice() //~ E0599
}

fn coerce(memory: &mut GuestSlice) -> &mut [u8] {
    memory //~ E0308
}

fn index(memory: &GuestSlice) -> u8 {
    memory[0] //~ E0608
}

fn main() {}
