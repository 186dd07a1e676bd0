//! The photo with what was cut out of it: to be looked at.

use super::prompt::{Prompt, Rectangle};
use crate::tensor::image::{Filter, Picture};

/// Longest side of an overlay, pixels.
const LONGEST: usize = 1024;
const BOX: [u8; 3] = [255, 200, 0];
/// Colours of several boxes, with their names.
const BOXES: [(&str, [u8; 3]); 6] = [
    ("yellow", BOX),
    ("cyan", [0, 220, 255]),
    ("magenta", [255, 60, 220]),
    ("green", [60, 230, 60]),
    ("red", [240, 50, 40]),
    ("blue", [60, 90, 255]),
];
const INSIDE: [u8; 3] = [0, 220, 90];
const OUTSIDE: [u8; 3] = [230, 40, 40];

/// The name of the colour of box number `i` in [`found`].
pub fn colour(i: usize) -> &'static str {
    BOXES[i % BOXES.len()].0
}

/// The photo with boxes, each in its colour; at most 1024 pixels a side.
pub fn found(photo: &Picture, boxes: &[Rectangle]) -> Picture {
    let (mut out, scale) = small(photo);
    for (i, area) in boxes.iter().enumerate().rev() {
        frame(&mut out, *area, scale, BOXES[i % BOXES.len()].1);
    }
    out
}

/// The photo at no more than [`LONGEST`] pixels a side, and the factor.
fn small(photo: &Picture) -> (Picture, f64) {
    let longest = photo.width.max(photo.height).max(1);
    let scale = (LONGEST as f64 / longest as f64).min(1.0);
    let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
    (photo.rgb().resize(side(photo.width), side(photo.height), Filter::Bilinear), scale)
}

/// Draws a box of the photo into its small copy.
fn frame(out: &mut Picture, Rectangle([x0, y0, x1, y1]): Rectangle, scale: f64, colour: [u8; 3]) {
    let at = |v: f64, n: usize| ((v * scale) as usize).min(n.saturating_sub(1));
    let (x0, x1) = (at(x0, out.width), at(x1, out.width));
    let (y0, y1) = (at(y0, out.height), at(y1, out.height));
    for x in x0..=x1 {
        [y0, y1].into_iter().for_each(|y| out.at_mut(x, y).copy_from_slice(&colour));
    }
    for y in y0..=y1 {
        [x0, x1].into_iter().for_each(|x| out.at_mut(x, y).copy_from_slice(&colour));
    }
}

/// The photo, dark where the mask is not above 128, with box and points; at most 1024 pixels a side.
pub fn overlay(photo: &Picture, mask: &Picture, prompt: &Prompt) -> Picture {
    let (mut out, scale) = small(photo);
    let (width, height) = (out.width, out.height);
    let mask = mask.resize(width, height, Filter::Bilinear);
    for (pixel, m) in out.data.chunks_exact_mut(3).zip(&mask.data) {
        if *m <= 128 {
            pixel.iter_mut().for_each(|v| *v = *v / 4 + 12);
        }
    }
    if let Some(area) = prompt.area {
        frame(&mut out, area, scale, BOX);
    }
    let at = |v: f64, n: usize| ((v * scale) as usize).min(n.saturating_sub(1));
    for p in &prompt.points {
        let (x, y) = (at(p.x, width), at(p.y, height));
        for y in y.saturating_sub(3)..=(y + 3).min(height - 1) {
            for x in x.saturating_sub(3)..=(x + 3).min(width - 1) {
                out.at_mut(x, y).copy_from_slice(if p.inside { &INSIDE } else { &OUTSIDE });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_boxes_have_colours_of_their_own() {
        let boxes: Vec<Rectangle> =
            ["2,2,10,10", "20,2,30,10"].iter().map(|t| t.parse().unwrap()).collect();
        let picture = found(&Picture::filled(40, 20, 3, 200), &boxes);
        assert_eq!((picture.at(2, 5), picture.at(20, 5)), (&BOX[..], &[0, 220, 255][..]));
        assert_eq!((colour(0), colour(7), picture.at(15, 5)), ("yellow", "cyan", &[200; 3][..]));
    }

    #[test]
    fn the_subject_stays_bright_and_prompts_are_drawn() {
        let photo = Picture::filled(40, 20, 3, 200);
        let mut mask = Picture::filled(40, 20, 1, 0);
        (0..20).for_each(|y| (20..40).for_each(|x| mask.at_mut(x, y)[0] = 255));
        let prompt = Prompt {
            area: "18,2,40,20".parse().ok(),
            points: vec!["30,10".parse().unwrap(), "5,10,0".parse().unwrap()],
        };
        let picture = overlay(&photo, &mask, &prompt);
        assert_eq!(picture.at(35, 15), [200; 3]);
        assert_eq!(picture.at(12, 15), [62; 3]);
        assert_eq!(picture.at(18, 6), BOX);
        assert_eq!((picture.at(30, 10), picture.at(5, 10)), (&INSIDE[..], &OUTSIDE[..]));
        // a photo of one pixel and a huge one
        overlay(&Picture::filled(1, 1, 1, 0), &Picture::filled(1, 1, 1, 0), &prompt);
        let long =
            overlay(&Picture::filled(3000, 10, 3, 9), &Picture::filled(3000, 10, 1, 0), &prompt);
        assert_eq!((long.width, long.height), (1024, 3));
    }
}
