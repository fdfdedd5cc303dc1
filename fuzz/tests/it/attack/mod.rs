//! What block layers were attacked with (`docs/security.md`), where nothing but this process is needed.

mod image;
mod nbd;
mod qmp;
