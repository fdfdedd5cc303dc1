//! Two owners never share a byte of a buffer.
use drystone_buf::Buf;

fn double(buf: &Buf) -> (Buf, Buf) {
    (buf.clone(), buf.clone()) //~ E0308
}

fn main() {}
