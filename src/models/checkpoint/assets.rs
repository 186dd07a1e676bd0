//! The base model carried in the program: a diffusers folder, file by file.

/// One file of the embedded base: its path in the folder, and its bytes.
pub type Asset = (&'static str, &'static [u8]);

/// The files of `nano`.
pub fn nano() -> &'static [Asset] {
    &[]
}

/// The bytes of one file of `nano`.
pub fn nano_file(path: &str) -> Option<&'static [u8]> {
    nano().iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes)
}
