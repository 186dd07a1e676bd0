//! PNG, JPEG and WebP by content, not by extension; the EXIF orientation is applied.

use std::{io::Cursor, path::Path};

use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::Picture;
use crate::error::{Error, Result};

/// Sides above this are taken for a damaged or hostile header.
const LONGEST_SIDE: usize = 1 << 15;
const MEMORY: usize = 1 << 31;

/// Reads a PNG (any depth or palette), JPEG or WebP file as 1, 3 or 4 channels of 8 bits.
///
/// # Errors
/// [`Error::File`] when it cannot be read, [`Error::Image`] when it is no picture or is damaged.
pub fn read(path: &Path) -> Result<Picture> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    decode(&bytes, path)
}

/// As [`read`] for bytes in memory; `name` is used in messages.
///
/// # Errors
/// [`Error::Image`].
pub fn decode(bytes: &[u8], name: &Path) -> Result<Picture> {
    let damaged = |what: &str, e: String| Error::Image {
        path: name.into(),
        problem: format!("a damaged or truncated {what} picture ({e})"),
        fix: "copy or export the file again".into(),
    };
    let (picture, exif) = match bytes {
        [0x89, b'P', b'N', b'G', ..] => png(bytes).map_err(|e| damaged("PNG", e))?,
        [0xFF, 0xD8, 0xFF, ..] => jpeg(bytes).map_err(|e| damaged("JPEG", e))?,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            webp(bytes).map_err(|e| damaged("WebP", e))?
        }
        _ => {
            let problem = match bytes {
                [] => "an empty file".to_string(),
                _ => format!("no picture (it starts with {:02x?})", &bytes[..bytes.len().min(8)]),
            };
            let fix = "give a PNG, JPEG or WebP file".into();
            return Err(Error::Image { path: name.into(), problem, fix });
        }
    };
    Ok(exif.and_then(|e| orientation(&e)).map_or_else(|| picture.clone(), |o| turn(&picture, o)))
}

type Decoded = std::result::Result<(Picture, Option<Vec<u8>>), String>;

fn check(width: usize, height: usize) -> std::result::Result<(), String> {
    match (1..=LONGEST_SIDE).contains(&width) && (1..=LONGEST_SIDE).contains(&height) {
        true => Ok(()),
        false => Err(format!("size {width} x {height}")),
    }
}

fn png(bytes: &[u8]) -> Decoded {
    let limits = png::Limits { bytes: MEMORY };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let (w, h) = (reader.info().width as usize, reader.info().height as usize);
    check(w, h)?;
    let size = reader.output_buffer_size().ok_or("its size overflows")?;
    let mut data = vec![0; size];
    let info = reader.next_frame(&mut data).map_err(|e| e.to_string())?;
    data.truncate(info.buffer_size());
    let exif = reader.info().exif_metadata.as_ref().map(|e| e.to_vec());
    let channels = info.color_type.samples();
    if channels == 2 {
        data = data.chunks_exact(2).flat_map(|p| [p[0], p[0], p[0], p[1]]).collect();
    }
    let channels = if channels == 2 { 4 } else { channels };
    let picture = Picture::new(w, h, channels, data).ok_or("its data does not fit its size")?;
    Ok((picture, exif))
}

fn jpeg(bytes: &[u8]) -> Decoded {
    // The decoder fills what is missing with gray: a file without an end marker is refused here.
    let last_scan = bytes.windows(2).rposition(|w| w == [0xFF, 0xDA]).ok_or("no scan in it")?;
    if !bytes[last_scan..].windows(2).any(|w| w == [0xFF, 0xD9]) {
        return Err("no end marker".into());
    }
    let options = DecoderOptions::default()
        .set_max_width(LONGEST_SIDE)
        .set_max_height(LONGEST_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let data = decoder.decode().map_err(|e| e.to_string())?;
    let info = decoder.info().ok_or("no header")?;
    let (w, h) = (usize::from(info.width), usize::from(info.height));
    check(w, h)?;
    let channels = data.len() / (w * h);
    let picture = Picture::new(w, h, channels, data).ok_or("its data does not fit its size")?;
    Ok((picture, decoder.exif().cloned()))
}

fn webp(bytes: &[u8]) -> Decoded {
    let mut decoder =
        image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    decoder.set_memory_limit(MEMORY);
    let (w, h) = decoder.dimensions();
    let (w, h) = (w as usize, h as usize);
    check(w, h)?;
    let mut data = vec![0; decoder.output_buffer_size().ok_or("its size overflows")?];
    decoder.read_image(&mut data).map_err(|e| e.to_string())?;
    let exif = decoder.exif_metadata().ok().flatten();
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let picture = Picture::new(w, h, channels, data).ok_or("its data does not fit its size")?;
    Ok((picture, exif))
}

/// The orientation tag (0x0112) of an EXIF block, 1..8.
fn orientation(exif: &[u8]) -> Option<u8> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let big = match tiff.get(..4)? {
        [b'M', b'M', 0, 42] => true,
        [b'I', b'I', 42, 0] => false,
        _ => return None,
    };
    let short = |at: usize| -> Option<u16> {
        let b = [*tiff.get(at)?, *tiff.get(at + 1)?];
        Some(if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) })
    };
    let (high, low) = if big { (short(4)?, short(6)?) } else { (short(6)?, short(4)?) };
    let table = (usize::from(high) << 16) | usize::from(low);
    let entries = usize::from(short(table)?);
    let mut tags = (0..entries).map(|i| table + 2 + 12 * i);
    let found = tags.find(|at| short(*at) == Some(0x0112))?;
    short(found + 8).filter(|v| (1..=8).contains(v)).map(|v| v as u8)
}

/// The upright picture for EXIF orientation `o`.
fn turn(p: &Picture, o: u8) -> Picture {
    let (w, h) = if o >= 5 { (p.height, p.width) } else { (p.width, p.height) };
    let mut out = Picture::filled(w, h, p.channels, 0);
    for y in 0..h {
        for x in 0..w {
            let (sx, sy) = match o {
                2 => (w - 1 - x, y),
                3 => (w - 1 - x, h - 1 - y),
                4 => (x, h - 1 - y),
                5 => (y, x),
                6 => (y, w - 1 - x),
                7 => (h - 1 - y, w - 1 - x),
                8 => (h - 1 - y, x),
                _ => (x, y),
            };
            out.at_mut(x, y).copy_from_slice(p.at(sx, sy));
        }
    }
    out
}
