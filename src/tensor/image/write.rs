//! PNG files with text: what is needed to make a picture again travels inside it.

use std::path::{Path, PathBuf};

use super::Picture;
use crate::error::{Error, Result};

/// The bytes of a PNG file with `text` as key and value pairs (tEXt, or iTXt when not Latin-1).
///
/// # Errors
/// [`Error::Image`] when a key or the size cannot be held by the format.
pub fn encode_png(p: &Picture, text: &[(String, String)], name: &Path) -> Result<Vec<u8>> {
    let bad = |e: png::EncodingError| Error::Image {
        path: name.into(),
        problem: format!("cannot be written as PNG ({e})"),
        fix: "check the picture's size and the text keys (1 to 79 Latin-1 characters)".into(),
    };
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, p.width as u32, p.height as u32);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_color(match p.channels {
        1 => png::ColorType::Grayscale,
        4 => png::ColorType::Rgba,
        _ => png::ColorType::Rgb,
    });
    for (key, value) in text {
        let added = match value.is_ascii() {
            true => encoder.add_text_chunk(key.clone(), value.clone()),
            false => encoder.add_itxt_chunk(key.clone(), value.clone()),
        };
        added.map_err(bad)?;
    }
    let mut writer = encoder.write_header().map_err(bad)?;
    writer.write_image_data(&p.data).map_err(bad)?;
    writer.finish().map_err(bad)?;
    Ok(out)
}

/// Writes a PNG file, first under a temporary name, so that no half-written file stays.
///
/// # Errors
/// As [`encode_png`], and [`Error::File`].
pub fn write_png(path: &Path, p: &Picture, text: &[(String, String)]) -> Result<()> {
    let bytes = encode_png(p, text, path)?;
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(Error::file("create folder", folder))?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let temporary = PathBuf::from(temporary);
    let written = std::fs::write(&temporary, bytes).map_err(Error::file("write", path));
    let renamed = written
        .and_then(|()| std::fs::rename(&temporary, path).map_err(Error::file("rename", path)));
    if renamed.is_err() {
        // The first error is the one to report; a leftover is removed as well as can be.
        let _ = std::fs::remove_file(&temporary);
    }
    renamed
}

/// The key and value pairs of a PNG file.
///
/// # Errors
/// [`Error::File`] or [`Error::Image`].
pub fn read_text(path: &Path) -> Result<Vec<(String, String)>> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let bad = |e: png::DecodingError| Error::Image {
        path: path.into(),
        problem: format!("no readable PNG file ({e})"),
        fix: "give a PNG file".into(),
    };
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().map_err(bad)?;
    reader.finish().map_err(bad)?;
    let info = reader.info();
    let mut all: Vec<(String, String)> =
        info.uncompressed_latin1_text.iter().map(|t| (t.keyword.clone(), t.text.clone())).collect();
    for t in &info.utf8_text {
        all.push((t.keyword.clone(), t.get_text().map_err(bad)?));
    }
    Ok(all)
}
