//! Names on the wire, made from Rust names at compile time.

/// Bytes of the wire name of a Rust name.
pub(super) const fn len(rust: &str) -> usize {
    let (bytes, mut at, mut len) = (strip_raw(rust.as_bytes()), 0, 0);
    while let Some((first, rest)) = bytes.split_at(at).1.split_first() {
        len += if at > 0 && first.is_ascii_uppercase() { 2 } else { 1 };
        at += 1;
        if rest.is_empty() {
            break;
        }
    }
    len
}

/// The wire name of `read_only` or `ReadOnly`, both `read-only`; `LEN` is [`len`] of it.
pub(super) const fn dashed<const LEN: usize>(rust: &str) -> [u8; LEN] {
    let mut out = [b'-'; LEN];
    let mut bytes = strip_raw(rust.as_bytes());
    let (mut rest, mut is_first): (&mut [u8], bool) = (&mut out, true);
    while let Some((&byte, after)) = bytes.split_first() {
        if byte.is_ascii_uppercase() && !is_first {
            rest = match rest.split_first_mut() {
                Some((_dash, after)) => after,
                None => panic!("LEN is too short"),
            };
        }
        rest = match rest.split_first_mut() {
            Some((slot, after)) => {
                *slot = if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
                after
            }
            None => panic!("LEN is too short"),
        };
        bytes = after;
        is_first = false;
    }
    out
}

/// `r#type` is `type`.
const fn strip_raw(bytes: &[u8]) -> &[u8] {
    match bytes {
        [b'r', b'#', rest @ ..] => rest,
        _ => bytes,
    }
}

/// The wire name of an identifier: its own with dashes, or the literal after it.
macro_rules! wire_name {
    ($rust:ident) => {{
        const RUST: &str = stringify!($rust);
        const BYTES: [u8; $crate::schema::name::len(RUST)] = $crate::schema::name::dashed(RUST);
        const NAME: &str = match std::str::from_utf8(&BYTES) {
            Ok(name) => name,
            Err(_) => panic!("names are ASCII"),
        };
        NAME
    }};
    ($rust:ident $name:literal) => {
        $name
    };
}
pub(super) use wire_name;

#[cfg(test)]
mod tests {
    #[test]
    fn rust_names_become_wire_names() {
        assert_eq!(wire_name!(read_only), "read-only");
        assert_eq!(wire_name!(r#type), "type");
        assert_eq!(wire_name!(NullCo), "null-co");
        assert_eq!(wire_name!(Qcow2), "qcow2");
        assert_eq!(wire_name!(RefcountBlock), "refcount-block");
        assert_eq!(wire_name!(anything "x_y"), "x_y");
    }
}
