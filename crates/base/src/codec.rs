//! Readers and writers of fixed-layout bytes that cannot run off the end.
//!
//! A parser takes a reader by value over the bytes it was given and consumes them field by field; running off the end
//! is the error value [`Truncated`], never a panic.

/// The bytes ended before the field did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data ends too early")]
pub struct Truncated;

macro_rules! reader {
    ($(#[$doc:meta])* $name:ident, $from:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name<'a>(pub &'a [u8]);

        impl<'a> $name<'a> {
            /// The next `n` bytes.
            pub fn take(&mut self, n: usize) -> Result<&'a [u8], Truncated> {
                let (head, tail) = self.0.split_at_checked(n).ok_or(Truncated)?;
                self.0 = tail;
                Ok(head)
            }

            /// The next `N` bytes as an array.
            pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
                let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Truncated)?;
                self.0 = tail;
                Ok(*head)
            }

            /// The next byte.
            pub fn u8(&mut self) -> Result<u8, Truncated> {
                Ok(u8::$from(self.bytes()?))
            }

            /// The next two bytes as a number.
            pub fn u16(&mut self) -> Result<u16, Truncated> {
                Ok(u16::$from(self.bytes()?))
            }

            /// The next four bytes as a number.
            pub fn u32(&mut self) -> Result<u32, Truncated> {
                Ok(u32::$from(self.bytes()?))
            }

            /// The next eight bytes as a number.
            pub fn u64(&mut self) -> Result<u64, Truncated> {
                Ok(u64::$from(self.bytes()?))
            }

            /// How many bytes are left.
            #[must_use]
            pub const fn len(&self) -> usize {
                self.0.len()
            }

            /// Whether every byte was consumed.
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }
    };
}

reader!(
    /// Reads big-endian numbers (qcow2, NBD).
    Be, from_be_bytes
);
reader!(
    /// Reads little-endian numbers (most other formats).
    Le, from_le_bytes
);

/// Writes big-endian numbers to the end of a vector.
#[derive(Debug)]
pub struct BeMut<'a>(pub &'a mut Vec<u8>);

impl BeMut<'_> {
    /// Appends a byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_stops_at_the_end() {
        let mut be = Be(&[1, 2, 3]);
        assert_eq!(be.u16(), Ok(0x0102));
        assert_eq!(be.u16(), Err(Truncated));
        assert_eq!(be.u8(), Ok(3), "a failed read consumes nothing");
        assert!(be.is_empty());
    }

    #[test]
    fn what_was_written_reads_back() {
        let mut out = Vec::new();
        BeMut(&mut out).u8(1).u16(2).u32(3).u64(4).bytes(b"x");
        let mut be = Be(&out);
        assert_eq!((be.u8(), be.u16(), be.u32(), be.u64()), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert_eq!(be.take(1), Ok(&b"x"[..]));
    }
}
