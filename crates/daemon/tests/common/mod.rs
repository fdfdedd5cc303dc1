//! What the tests share: scripts, who plays them, and what comes of it.

pub(crate) mod folder;
pub(crate) mod inside;
pub(crate) mod nbd;
pub(crate) mod normal;
pub(crate) mod play;
pub(crate) mod records;
pub(crate) mod script;
