//! Where subjects stand when a picture starts: random columns, or a layout file (methods.md §1.7,
//! §1.13, §1.14).

use std::path::Path;

use serde::Deserialize;

use super::{
    mix::MixRule,
    segment::{Pasted, Placed, Segment, compose},
    subject::{Photo, Subject},
};
use crate::{
    error::{Error, Result},
    tensor::{image::Picture, philox::Stream},
};

/// A composition to start from: `z_T = gamma E(picture) m + noise`.
#[derive(Clone, Debug)]
pub struct Composition {
    /// RGB, white outside the mask.
    pub picture: Picture,
    /// Union mask, 0 or 255.
    pub mask: Picture,
    /// What stands where.
    pub pasted: Vec<Pasted>,
}

/// A box for each subject.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Layout {
    /// Width and height the boxes refer to.
    #[serde(default = "sdxl_canvas")]
    pub canvas: [f64; 2],
    /// The boxes.
    pub subjects: Vec<LayoutBox>,
}

/// Where one subject stands.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LayoutBox {
    /// The subject's id.
    pub id: String,
    /// `[x1, y1, x2, y2]` in canvas units.
    #[serde(rename = "box")]
    pub rectangle: [f64; 4],
    /// Higher is nearer.
    #[serde(default)]
    pub z: i64,
}

fn sdxl_canvas() -> [f64; 2] {
    [1024.0, 1024.0]
}

impl Layout {
    /// Reads a layout file: `{"canvas":[w,h],"subjects":[{"id","box":[x1,y1,x2,y2],"z"}]}`, or
    /// lines `id: (x1, x2, y1, y2)` in the order language models were asked for, on a 1024 canvas.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Format`] when it is neither, or a box is empty or not finite.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        let bad = |found: String| Error::Format {
            path: path.into(),
            found,
            expected:
                "{\"canvas\":[1024,1024],\"subjects\":[{\"id\":\"a\",\"box\":[x1,y1,x2,y2]}]}, \
                       or lines `a: (x1, x2, y1, y2)`"
                    .into(),
            fix: "correct the layout".into(),
        };
        let layout = match text.trim_start().starts_with('{') {
            true => serde_json::from_str::<Self>(&text).map_err(|e| bad(e.to_string()))?,
            false => tuples(&text).ok_or_else(|| bad("no boxes".into()))?,
        };
        for b in &layout.subjects {
            let [x1, y1, x2, y2] = b.rectangle;
            let usable = b.rectangle.iter().all(|v| v.is_finite()) && x2 > x1 && y2 > y1;
            if !usable {
                return Err(bad(format!("the box of {} is {:?}", b.id, b.rectangle)));
            }
        }
        let [w, h] = layout.canvas;
        if !(w >= 1.0 && h >= 1.0 && w.is_finite() && h.is_finite()) {
            return Err(bad(format!("a canvas of {w} x {h}")));
        }
        if layout.subjects.is_empty() {
            return Err(bad("no subjects".into()));
        }
        Ok(layout)
    }
}

impl Layout {
    /// Every box must belong to one of `subjects`.
    ///
    /// # Errors
    /// [`Error::Data`] that names the first that does not; a subject without any mask.
    pub fn check(&self, subjects: &[Subject]) -> Result<()> {
        self.subjects.iter().try_for_each(|b| owner(subjects, &b.id)?.need_a_mask())
    }
}

/// The subject a box names, by id, class or words.
fn owner<'s>(subjects: &'s [Subject], id: &str) -> Result<&'s Subject> {
    let known = subjects.iter().find(|s| s.id == id);
    let known = known.or_else(|| subjects.iter().find(|s| s.class == id || s.words == id));
    known.ok_or_else(|| layout_error(subjects, id))
}

/// `name (x1, x2, y1, y2)`, separated by commas or lines.
fn tuples(text: &str) -> Option<Layout> {
    let mut subjects = vec![];
    let mut rest = text;
    while let Some((name, tail)) = rest.split_once('(') {
        let (inside, after) = tail.split_once(')')?;
        let v: Vec<f64> = inside
            .split(',')
            .map(|n| n.trim().parse())
            .collect::<std::result::Result<_, _>>()
            .ok()?;
        let [x1, x2, y1, y2] = v[..] else { return None };
        let trim = |c: char| c.is_whitespace() || ",;:-*.\"'".contains(c);
        let id = name.trim_matches(trim).to_string();
        subjects.push(LayoutBox { id, rectangle: [x1, y1, x2, y2], z: subjects.len() as i64 });
        rest = after;
    }
    (!subjects.is_empty()).then(|| Layout { canvas: sdxl_canvas(), subjects })
}

/// One random photo of `subject` with its cut-out.
fn random_segment<'a>(s: &'a Subject, random: &mut Stream) -> Result<(&'a Photo, &'a Segment)> {
    let with: Vec<(&Photo, &Segment)> =
        s.photos.iter().filter_map(|p| Some((p, p.segment.as_ref()?))).collect();
    if with.is_empty() {
        s.need_masks()?;
    }
    let n = random.below(with.len());
    with.get(n).copied().ok_or_else(|| Error::Data {
        at: format!("subject {}", s.id),
        found: "no photos".into(),
        expected: "at least one photo with a mask".into(),
        fix: "add photos".into(),
    })
}

fn finish(size: [usize; 2], parts: Vec<(&Subject, &Photo, f64, Placed)>) -> Composition {
    let placed: Vec<&Placed> = parts.iter().map(|p| &p.3).collect();
    let (picture, mask) = compose(size[0], size[1], &placed);
    let log = |(s, photo, scale, p): &(&Subject, &Photo, f64, Placed)| Pasted {
        id: s.id.clone(),
        photo: photo.name.clone(),
        rectangle: [p.x, p.y, p.x + p.segment.rgb.width, p.y + p.segment.rgb.height],
        scale: Some(*scale),
        side: None,
        z: Some(p.z),
    };
    let pasted = parts.iter().map(log).collect();
    Composition { picture, mask, pasted }
}

/// `0..n` in random order.
fn shuffled(n: usize, random: &mut Stream) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, random.below(i + 1));
    }
    order
}

/// Subjects in columns of width `W / N` in random order, with the scale and margin rule of the
/// mixes in each column.
///
/// The first column's margin is measured from the left, the last one's from the right, others by a
/// coin; depth is a random order; where the rule forbids overlap each stays in its column. With two subjects and a square picture this is the rule of
/// [`super::mix::seg_mix`].
///
/// # Errors
/// A subject without a mask.
pub fn columns(
    subjects: &[&Subject],
    size: [usize; 2],
    rule: &MixRule,
    random: &mut Stream,
) -> Result<Composition> {
    let [w, h] = size;
    let n = subjects.len();
    let column = w as f64 / n.max(1) as f64;
    let edge = w.min(h) as f64 / 32.0;
    let side = rule.margin.min((column / 2.0) as usize).max(1);
    let order = shuffled(n, random);
    let depth = shuffled(n, random);
    let mut parts = vec![];
    for (place, (i, z)) in order.into_iter().zip(depth).enumerate() {
        let s = subjects[i];
        let (photo, segment) = random_segment(s, random)?;
        let factor = rule.factor(s.scale, random);
        let segment =
            segment.scaled(segment.fit((column - edge).max(1.0), h as f64 - edge) * factor);
        let (width, height) = (segment.rgb.width, segment.rgb.height);
        let span = ((place + 1) as f64 * column) as usize - (place as f64 * column) as usize;
        // Without overlap a subject stays in its own column.
        let most = if rule.overlap { side } else { side.min(span.saturating_sub(width)) };
        let margin = random.between(most.min(1), most);
        let from_left = random.coin();
        let from_left = if n == 1 { from_left } else { place == 0 || (from_left && place + 1 < n) };
        let start = (place as f64 * column) as usize;
        let end = ((place + 1) as f64 * column) as usize;
        let x = if from_left { start + margin } else { end.saturating_sub(margin + width) };
        let y = random.between(0, h.saturating_sub(height));
        let x = x.min(w.saturating_sub(width));
        parts.push((s, photo, factor, Placed { segment, x, y, z }));
    }
    Ok(finish(size, parts))
}

/// Subjects in the boxes of `layout`, each keeping its aspect, centred; a box names a subject by id
/// or class.
///
/// # Errors
/// A box for an unknown subject, a box outside the canvas, a subject without a mask.
pub fn arranged(
    subjects: &[Subject],
    layout: &Layout,
    size: [usize; 2],
    random: &mut Stream,
) -> Result<Composition> {
    let mut order: Vec<&LayoutBox> = layout.subjects.iter().collect();
    order.sort_by_key(|b| b.z);
    let (sx, sy) = (size[0] as f64 / layout.canvas[0], size[1] as f64 / layout.canvas[1]);
    let mut parts = vec![];
    for (z, b) in order.into_iter().enumerate() {
        let s = owner(subjects, &b.id)?;
        let (photo, segment) = random_segment(s, random)?;
        let [x1, y1, x2, y2] = b.rectangle;
        let (x1, x2) = ((x1 * sx).max(0.0), (x2 * sx).min(size[0] as f64));
        let (y1, y2) = ((y1 * sy).max(0.0), (y2 * sy).min(size[1] as f64));
        if x2 - x1 < 1.0 || y2 - y1 < 1.0 {
            return Err(Error::Data {
                at: format!("layout: {}", b.id),
                found: format!("the box {:?} outside the canvas", b.rectangle),
                expected: format!("a box inside {:?}", layout.canvas),
                fix: "check canvas and box".into(),
            });
        }
        let segment = segment.scaled(segment.fit(x2 - x1, y2 - y1));
        let x = ((x1 + x2 - segment.rgb.width as f64) / 2.0).max(0.0) as usize;
        let y = ((y1 + y2 - segment.rgb.height as f64) / 2.0).max(0.0) as usize;
        parts.push((s, photo, 1.0, Placed { segment, x, y, z }));
    }
    Ok(finish(size, parts))
}

fn layout_error(subjects: &[Subject], id: &str) -> Error {
    let ids: Vec<&str> = subjects.iter().map(|s| s.id.as_str()).collect();
    Error::Data {
        at: "layout".into(),
        found: format!("subject {id}"),
        expected: format!("one of {}", ids.join(", ")),
        fix: "use the ids of the subjects file".into(),
    }
}
