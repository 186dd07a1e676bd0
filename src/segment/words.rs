//! From a word to a mask: find it, accept exactly one box, let it grow, cut it out (methods.md §1.2).

use super::{
    detector::{Detection, Detector, suppressed},
    prompt::{Prompt, Rectangle},
    segmenter::{Cut, Segmenter},
};
use crate::{error::Result, tensor::image::Picture};

/// How a box is found and taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Scores above this count.
    pub threshold: f64,
    /// Boxes that overlap a better one by more than this intersection over union are the same thing; 1: none is.
    pub nms: f64,
    /// By how much the box grows on every side, in shares of the photo's width and height.
    pub margin: f64,
}

/// What became of a photo.
#[derive(Debug)]
pub enum Outcome {
    /// The mask, and the box it was cut with.
    Cut(Cut, Prompt),
    /// Why there is none.
    Failed(String),
}

/// Looks for `query` in `photo` and cuts it out when it is there exactly once; with everything that was found.
///
/// # Errors
/// Those of the networks.
pub fn cut(
    (detector, segmenter): (&mut Detector, &mut Segmenter),
    photo: &Picture,
    query: &str,
    rule: Rule,
) -> Result<(Vec<Detection>, Outcome)> {
    let found = suppressed(detector.detect(photo, &[query], rule.threshold)?, rule.nms);
    let size = [photo.height, photo.width];
    let outcome = match the_only(&found, query, rule, size) {
        Err(why) => Outcome::Failed(why),
        Ok(area) => {
            let prompt = Prompt { area: Some(area), points: vec![] };
            Outcome::Cut(segmenter.cut(photo, &prompt)?, prompt)
        }
    };
    Ok((found, outcome))
}

/// The grown box where exactly one was found in a photo of `[height, width]`.
///
/// # Errors
/// Why there is none, in words.
pub fn the_only(
    found: &[Detection],
    query: &str,
    rule: Rule,
    size: [usize; 2],
) -> std::result::Result<Rectangle, String> {
    let threshold = rule.threshold;
    let Detection { area: Rectangle([x0, y0, x1, y1]), .. } = match found {
        [one] => *one,
        [] => return Err(format!("nothing like {query:?} with a score above {threshold}")),
        more => {
            let n = more.len();
            return Err(format!(
                "{n} boxes like {query:?} with scores above {threshold}, expected one"
            ));
        }
    };
    if x0 >= x1 || y0 >= y1 {
        return Err(format!("the only box like {query:?} lies outside the photo"));
    }
    let [h, w] = size.map(|n| n as f64);
    let (x, y) = (w * rule.margin, h * rule.margin);
    let grown = [(x0 - x).max(0.0), (y0 - y).max(0.0), (x1 + x).min(w), (y1 + y).min(h)];
    Ok(Rectangle(grown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_box_grows_by_shares_of_width_and_height() {
        let rule = Rule { threshold: 0.2, nms: 1.0, margin: 0.05 };
        let at = |area| Detection {
            area: Rectangle(area),
            uncut: Rectangle(area),
            score: 0.5,
            query: 0,
        };
        let only = |found: &[Detection]| the_only(found, "dog", rule, [100, 400]);
        assert_eq!(
            only(&[at([30.0, 20.0, 395.0, 60.0])]),
            Ok(Rectangle([10.0, 15.0, 400.0, 65.0]))
        );
        assert!(only(&[]).unwrap_err().contains("nothing like \"dog\" with a score above 0.2"));
        let two = [at([0.0, 0.0, 5.0, 5.0]); 2];
        assert!(only(&two).unwrap_err().contains("2 boxes"));
        assert!(only(&[at([7.0, 100.0, 9.0, 100.0])]).unwrap_err().contains("outside the photo"));
    }
}
