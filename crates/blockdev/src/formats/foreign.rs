//! Image formats that are recognised and not supported, so that nobody takes such an image for raw bytes.
//!
//! The numbers are in the formats' public specifications. An entry goes when the format gets one in
//! [`super::Formats::builtin`].

/// Name, where its magic bytes are, and what they are.
const MAGIC: &[(&str, usize, &[u8])] = &[
    ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
    ("qed", 0, b"QED\0"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
];

/// The name of the format that a file which begins with `start` is in, if it is one of these.
pub(super) fn name_of(start: &[u8]) -> Option<&'static str> {
    let is = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(magic));
    MAGIC.iter().find(|(_, at, magic)| is(*at, magic)).map(|(name, ..)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_bytes_are_looked_for_where_they_belong() {
        assert_eq!(name_of(b"QED\0..."), Some("qed"));
        assert_eq!(name_of(b"QED"), None);
        let mut vdi = [0; 0x44];
        vdi[0x40..].copy_from_slice(b"\x7f\x10\xda\xbe");
        assert_eq!(name_of(&vdi), Some("vdi"));
        assert_eq!(name_of(&vdi[1..]), None);
        assert_eq!(name_of(b""), None);
    }
}
