//! Several pictures in rows and columns.

use super::Picture;

/// Pictures in reading order, `columns` a row, `gap` pixels of white between and around them.
///
/// Every cell has the size of the largest picture; smaller ones lie in its upper left corner. Gray
/// becomes RGB.
pub fn grid(pictures: &[Picture], columns: usize, gap: usize) -> Picture {
    let columns = columns.clamp(1, pictures.len().max(1));
    let rows = pictures.len().div_ceil(columns);
    let w = pictures.iter().map(|p| p.width).max().unwrap_or(0);
    let h = pictures.iter().map(|p| p.height).max().unwrap_or(0);
    let mut out = Picture::filled(gap + columns * (w + gap), gap + rows * (h + gap), 3, 255);
    for (i, p) in pictures.iter().enumerate() {
        let p = p.rgb();
        let (x, y) = (gap + i % columns * (w + gap), gap + i / columns * (h + gap));
        for (row, line) in p.data.chunks_exact((p.width * 3).max(1)).enumerate() {
            let to = ((y + row) * out.width + x) * 3;
            out.data[to..to + line.len()].copy_from_slice(line);
        }
    }
    out
}
