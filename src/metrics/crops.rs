//! A detected box as the picture that is embedded.

use crate::{
    error::{Error, Result},
    tensor::image::Picture,
};

/// Longest side of a crop, pixels.
const LONGEST: i64 = 1 << 15;

/// The corners `x0, y0, x1, y1` with two decimals, as the published code keeps them.
pub fn rounded(area: [f64; 4]) -> [f64; 4] {
    // the decimal text is rounded from the exact value, as Python's round does
    area.map(|v| format!("{v:.2}").parse().unwrap_or(v))
}

/// Whole pixels `x, y, width, height` of `area` (`x0, y0, x1, y1`): two decimals, then Pillow's rule (halves to even).
///
/// # Errors
/// [`Error::Data`] for a box of less than a pixel, or of more than 32768.
pub fn extent(area: [f64; 4]) -> Result<(i64, i64, usize, usize)> {
    let [x0, y0, x1, y1] = rounded(area).map(|v| v.round_ties_even() as i64);
    let (w, h) = (x1.saturating_sub(x0), y1.saturating_sub(y0));
    if !(1..=LONGEST).contains(&w) || !(1..=LONGEST).contains(&h) {
        let [x0, y0, x1, y1] = area;
        return Err(Error::Data {
            at: format!("box {x0},{y0},{x1},{y1}"),
            found: format!("{w} x {h} whole pixels"),
            expected: format!("1 to {LONGEST} each way"),
            fix: "give a box with something in it, or raise --threshold".into(),
        });
    }
    Ok((x0, y0, w as usize, h as usize))
}

/// What a box shows, in the middle of a white square of its longer side; black where it leaves the picture
/// (methods.md §1.8).
///
/// # Errors
/// As [`extent`].
pub fn square_crop(picture: &Picture, area: [f64; 4]) -> Result<Picture> {
    let (x0, y0, w, h) = extent(area)?;
    let cut = picture.rgb().crop(x0, y0, w, h);
    let side = w.max(h);
    let mut square = Picture::filled(side, side, 3, 255);
    let (left, top) = ((side - w) / 2, (side - h) / 2);
    for (y, row) in cut.data.chunks_exact(w * 3).enumerate() {
        let at = ((top + y) * side + left) * 3;
        square.data[at..at + row.len()].copy_from_slice(row);
    }
    Ok(square)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_to_even_after_two_decimals() {
        assert_eq!(rounded([2.675, 0.125, -0.005, 1e6]), [2.67, 0.12, -0.01, 1e6]);
        let picture = Picture::filled(10, 10, 3, 7);
        // 0.5 to 0, 2.5 to 2, 2.504 to 2.5 and then to 2, 3.5 to 4
        let crop = square_crop(&picture, [0.5, 2.5, 2.504, 3.5]).unwrap();
        assert_eq!((crop.width, crop.height), (2, 2));
        assert!(crop.data.iter().all(|v| *v == 7));
    }

    #[test]
    fn the_square_is_white_and_what_is_outside_black() {
        let picture = Picture::filled(4, 4, 1, 7);
        let crop = square_crop(&picture, [2.0, 1.0, 7.0, 3.0]).unwrap();
        assert_eq!((crop.width, crop.height), (5, 5));
        let row = |y| (0..5).map(|x| crop.at(x, y)[0]).collect::<Vec<_>>();
        assert_eq!((row(0), row(3)), (vec![255; 5], vec![255; 5]));
        assert_eq!((row(1), row(2)), (vec![7, 7, 0, 0, 0], vec![7, 7, 0, 0, 0]));
    }

    #[test]
    fn a_box_without_a_pixel_is_refused() {
        for area in [[1.0, 1.0, 1.2, 3.0], [5.0, 1.0, 3.0, 2.0], [0.0, 0.0, 1e18, 1.0]] {
            assert!(square_crop(&Picture::filled(9, 9, 3, 0), area).is_err(), "{area:?}");
        }
    }
}
