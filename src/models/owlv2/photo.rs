//! A photo as OWLv2 takes it: padded to a square, resized, normalized.

use crate::tensor::image::Picture;
use rayon::prelude::*;
use std::{fmt, str::FromStr};

/// Mean of the channels of CLIP's pictures.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Deviation of the channels.
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Where the Gaussian of the filter is cut off, in deviations.
const TRUNCATE: f64 = 4.0;

/// What fills a photo up to a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// 0.5: transformers until October 2025, and what MuDI's numbers were made with.
    #[default]
    Grey,
    /// 0: the original code, and transformers since.
    Black,
}

impl Padding {
    /// The words for [`Padding::from_str`].
    pub const NAMES: [&str; 2] = ["grey", "black"];

    fn value(self) -> f32 {
        if self == Padding::Grey { 0.5 } else { 0.0 }
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[*self as usize])
    }
}

impl FromStr for Padding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "grey" => Ok(Padding::Grey),
            "black" => Ok(Padding::Black),
            _ => Err(format!("expected {}", Self::NAMES.join(" or "))),
        }
    }
}

/// The network's input `[side, side, 3]`: values of 0 to 1, padded at the right and below to a square, resized, then
/// normalized by CLIP's mean and deviation.
///
/// Resizing is a Gaussian of the deviation `(f - 1) / 2` where `f`, source over target, is above 1, cut off at four
/// deviations, and then linear interpolation between the centres of pixels; beyond the border the picture is
/// mirrored at the centre of its last pixel.
///
/// # Source
/// transformers 5.23, `Owlv2ImageProcessorPil` on scipy 1.17; methods.md §3.5.
pub fn photo_pixels(photo: &Picture, side: usize, padding: Padding) -> Vec<f32> {
    let photo = photo.rgb();
    let (w, h, fill) = (photo.width, photo.height, padding.value());
    let taps = taps(w.max(h), side);
    // along the rows of the photo; those of the padding are the same everywhere
    let mut rows = vec![0.0f32; h * side * 3];
    rows.par_chunks_mut((side * 3).max(1)).enumerate().for_each(|(y, row)| {
        let from = &photo.data[y * w * 3..][..w * 3];
        for (to, taps) in row.chunks_exact_mut(3).zip(&taps) {
            for (i, weight) in taps {
                for c in 0..3 {
                    let v = from.get(i * 3 + c).map_or(fill, |v| f32::from(*v) / 255.0);
                    to[c] += weight * v;
                }
            }
        }
    });
    let mut out = vec![0.0f32; side * side * 3];
    out.par_chunks_mut((side * 3).max(1)).zip(&taps).for_each(|(to, taps)| {
        for (i, weight) in taps {
            match rows.get(i * side * 3..(i + 1) * side * 3) {
                Some(from) => to.iter_mut().zip(from).for_each(|(t, v)| *t += weight * v),
                None => to.iter_mut().for_each(|t| *t += weight * fill),
            }
        }
        for (j, v) in to.iter_mut().enumerate() {
            *v = (*v - MEAN[j % 3]) / DEVIATION[j % 3];
        }
    });
    out
}

/// For each of `to` places the sources among `from` and their weights.
fn taps(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let factor = from as f64 / to as f64;
    let gauss = gaussian(((factor - 1.0) / 2.0).max(0.0));
    let radius = (gauss.len() / 2) as i64;
    let one = |o: usize| {
        let at = (o as f64 + 0.5) * factor - 0.5;
        let (first, part) = (at.floor() as i64, at - at.floor());
        let mut all: Vec<(usize, f64)> = vec![];
        for (place, share) in [(first, 1.0 - part), (first + 1, part)] {
            // what lies outside is that of the mirrored place, as the filtered picture has it there
            let place = mirrored(place, from) as i64;
            for (k, g) in gauss.iter().enumerate().filter(|_| share > 0.0) {
                let source = mirrored(place + k as i64 - radius, from);
                match all.iter_mut().find(|(i, _)| *i == source) {
                    Some((_, weight)) => *weight += share * g,
                    None => all.push((source, share * g)),
                }
            }
        }
        all.into_iter().map(|(i, weight)| (i, weight as f32)).collect()
    };
    (0..to).map(one).collect()
}

/// Weights of a Gaussian, of sum 1; one weight for a deviation of 0.
fn gaussian(sigma: f64) -> Vec<f64> {
    let radius = (TRUNCATE * sigma + 0.5) as i64;
    let weight = |k: i64| if sigma > 0.0 { (-0.5 * (k as f64 / sigma).powi(2)).exp() } else { 1.0 };
    let all: Vec<f64> = (-radius..=radius).map(weight).collect();
    let sum: f64 = all.iter().sum();
    all.into_iter().map(|v| v / sum).collect()
}

/// The place inside `0..n` that `i` is a mirror image of, mirrors at the first and the last.
fn mirrored(i: i64, n: usize) -> usize {
    let period = (2 * n.max(1) as i64 - 2).max(1);
    let i = i.rem_euclid(period);
    i.min(period - i).clamp(0, n as i64 - 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_stand_at_the_centres_of_the_last_pixels() {
        let all: Vec<usize> = (-4..8).map(|i| mirrored(i, 4)).collect();
        assert_eq!(all, [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]);
        assert_eq!((mirrored(-3, 1), mirrored(5, 2)), (0, 1));
    }

    #[test]
    fn every_place_gets_a_whole() {
        for (from, to) in [(1, 5), (7, 7), (5, 9), (100, 9), (9, 1)] {
            for taps in taps(from, to) {
                let sum: f32 = taps.iter().map(|(_, w)| w).sum();
                assert!((sum - 1.0).abs() < 1e-5 && taps.iter().all(|(i, _)| *i < from));
            }
        }
    }

    #[test]
    fn the_padding_is_right_and_below() {
        let pixels = |padding| photo_pixels(&Picture::filled(4, 2, 1, 255), 4, padding);
        let plain = |v: f32, c: usize| (v - MEAN[c]) / DEVIATION[c];
        let (grey, black) = (pixels(Padding::Grey), pixels(Padding::Black));
        assert!((grey[0] - plain(1.0, 0)).abs() < 1e-5 && (grey[47] - plain(0.5, 2)).abs() < 1e-5);
        assert!((black[47] - plain(0.0, 2)).abs() < 1e-5);
        assert_eq!("black".parse(), Ok(Padding::Black));
        assert_eq!(Padding::default().to_string(), "grey");
        assert!("white".parse::<Padding>().is_err());
    }
}
