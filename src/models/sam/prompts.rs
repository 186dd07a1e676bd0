//! Prompts on the host: which token stands for what, and where it lies in the picture.

use crate::error::{Error, Result};

/// Points of every prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// Points of one prompt.
    pub count: usize,
    /// (x, y) in pixels of the padded picture, `[N, P, count, 2]`.
    pub at: Vec<f32>,
    /// 1 inside, 0 outside, -1 not a point, `[N, P, count]`.
    pub labels: Vec<i64>,
}

/// The prompts of a batch of pictures: `per_picture` masks are asked for in each.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts {
    /// Pictures.
    pub pictures: usize,
    /// Prompts of a picture.
    pub per_picture: usize,
    /// Points.
    pub points: Option<Points>,
    /// Boxes (x0, y0, x1, y1) in pixels of the padded picture, `[N, P, 4]`.
    pub boxes: Option<Vec<f32>>,
}

/// The decoder's tokens: the quality's, the masks', then those of the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// Tokens of one prompt.
    pub count: usize,
    /// Row of each in the table of embeddings, `[N P count]`: quality, masks, not a point, outside, inside, corners.
    pub ids: Vec<i32>,
    /// What is added to it: its position, `[N P count, C]`.
    pub positions: Vec<f32>,
}

/// `[sin(2 pi c G), cos(2 pi c G)]` of a place `c = 2 (x, y) / sides - 1`, `G: [2, F]` the file's position matrix.
///
/// # Source
/// Kirillov et al. 2023, `PositionEmbeddingRandom` (Tancik et al. 2020).
fn encode(matrix: &[f32], [x, y]: [f64; 2], [width, height]: [f64; 2]) -> Vec<f32> {
    let (cx, cy) = (2.0 * x / width - 1.0, 2.0 * y / height - 1.0);
    let (down, across) = matrix.split_at(matrix.len() / 2);
    let phase =
        |(a, b): (&f32, &f32)| std::f64::consts::TAU * (cx * f64::from(*a) + cy * f64::from(*b));
    let phases: Vec<f64> = down.iter().zip(across).map(phase).collect();
    let sines = phases.iter().map(|p| p.sin() as f32);
    sines.chain(phases.iter().map(|p| p.cos() as f32)).collect()
}

/// Positions of the cells of an embedding of `h x w`, `[h w, C]`.
pub fn grid_positions(matrix: &[f32], [h, w]: [usize; 2]) -> Vec<f32> {
    let centre = |i: usize| i as f64 + 0.5;
    let sides = [w as f64, h as f64];
    let cells = (0..h * w).map(|i| [centre(i % w), centre(i / w)]);
    cells.flat_map(|at| encode(matrix, at, sides)).collect()
}

impl Prompts {
    /// The tokens of a decoder with `masks` mask tokens for padded pictures of `height x width` pixels.
    ///
    /// With points and no boxes a padding point is appended. Boxes are two more tokens after the points.
    ///
    /// # Errors
    /// [`Error::Data`] for a label that is none, or a coordinate that is no number.
    pub fn tokens(
        &self,
        matrix: &[f32],
        masks: usize,
        [height, width]: [usize; 2],
    ) -> Result<Tokens> {
        let (prompts, channels) = (self.pictures * self.per_picture, matrix.len());
        let sides = [width as f64, height as f64];
        let mut tokens = Tokens { count: 0, ids: vec![], positions: vec![] };
        let nowhere = vec![0.0; channels];
        for p in 0..prompts {
            let mut put = |row: usize, position: &[f32]| {
                tokens.ids.push(i32::try_from(row).unwrap_or(i32::MAX));
                tokens.positions.extend_from_slice(position);
            };
            (0..=masks).for_each(|row| put(row, &nowhere));
            let not_a_point = masks + 1;
            if let Some(points) = &self.points {
                for i in p * points.count..(p + 1) * points.count {
                    let at = [points.at[2 * i], points.at[2 * i + 1]];
                    match points.labels[i] {
                        -1 => put(not_a_point, &nowhere),
                        label @ (0 | 1) => {
                            let row = not_a_point + 1 + usize::from(label == 1);
                            put(row, &encode(matrix, pixel(at)?, sides));
                        }
                        other => return Err(no_label(other)),
                    }
                }
                if self.boxes.is_none() {
                    put(not_a_point, &nowhere);
                }
            }
            if let Some(boxes) = &self.boxes {
                for corner in 0..2 {
                    let at = 4 * p + 2 * corner;
                    let place = pixel([boxes[at], boxes[at + 1]])?;
                    put(not_a_point + 3 + corner, &encode(matrix, place, sides));
                }
            }
        }
        tokens.count = tokens.ids.len().checked_div(prompts).unwrap_or(0);
        Ok(tokens)
    }
}

/// The centre of a pixel.
fn pixel(at: [f32; 2]) -> Result<[f64; 2]> {
    if at.iter().all(|x| x.is_finite()) {
        return Ok(at.map(|x| f64::from(x) + 0.5));
    }
    Err(Error::Data {
        at: "input_points, input_boxes".into(),
        found: format!("({}, {})", at[0], at[1]),
        expected: "pixels of the padded picture, (x, y)".into(),
        fix: "give finite coordinates".into(),
    })
}

fn no_label(found: i64) -> Error {
    Error::Data {
        at: "input_labels".into(),
        found: found.to_string(),
        expected: "1 (inside), 0 (outside) or -1 (not a point)".into(),
        fix: "boxes go into input_boxes".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(points: Option<Points>, boxes: Option<Vec<f32>>) -> Result<Tokens> {
        let prompts = Prompts { pictures: 1, per_picture: 1, points, boxes };
        prompts.tokens(&[0.5, -1.0, 0.25, 2.0], 4, [32, 64])
    }

    #[test]
    fn points_without_a_box_get_a_padding_point_and_a_box_its_corners() {
        let points = Some(Points { count: 2, at: vec![3.0, 4.0, 5.0, 6.0], labels: vec![1, 0] });
        let alone = tokens(points.clone(), None).unwrap();
        assert_eq!((alone.count, &alone.ids[..]), (8, &[0, 1, 2, 3, 4, 7, 6, 5][..]));
        let both = tokens(points, Some(vec![1.0, 2.0, 30.0, 20.0])).unwrap();
        assert_eq!(both.ids, [0, 1, 2, 3, 4, 7, 6, 8, 9]);
        assert_eq!(tokens(None, None).unwrap().ids, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_place_is_encoded_by_sine_and_cosine_of_its_phase() {
        let point = Some(Points { count: 1, at: vec![15.5, 3.5], labels: vec![1] });
        let t = tokens(point, None).unwrap();
        // c = (-1/2, -3/4): phases 2 pi (-0.25 - 0.1875), 2 pi (0.5 - 1.5)
        let a = std::f64::consts::TAU * -0.4375;
        let want = [a.sin(), 0.0, a.cos(), 1.0];
        for (got, want) in t.positions[5 * 4..6 * 4].iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn another_label_and_a_coordinate_that_is_no_number_are_refused() {
        let point = |x, label| Some(Points { count: 1, at: vec![x, 0.0], labels: vec![label] });
        let text = tokens(point(1.0, 2), None).unwrap_err().to_string();
        assert!(text.contains("input_labels") && text.contains('2'), "{text}");
        assert!(tokens(point(f32::NAN, 1), None).is_err());
    }
}
