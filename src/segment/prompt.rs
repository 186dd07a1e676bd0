//! Boxes and points that say what to cut out, in pixels of the photo.

use crate::error::{Error, Result};
use serde::Serialize;
use std::str::FromStr;

/// A rectangle `x0, y0, x1, y1`, in pixels of the photo.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rectangle(pub [f64; 4]);

impl Rectangle {
    /// Area of what both cover by the area of what either covers; 0 where neither has any.
    pub fn iou(&self, other: &Self) -> f64 {
        let (Self([ax0, ay0, ax1, ay1]), Self([bx0, by0, bx1, by1])) = (self, other);
        let area = |w: f64, h: f64| w.max(0.0) * h.max(0.0);
        let both = area(ax1.min(*bx1) - ax0.max(*bx0), ay1.min(*by1) - ay0.max(*by0));
        let either = area(ax1 - ax0, ay1 - ay0) + area(bx1 - bx0, by1 - by0) - both;
        if either > 0.0 { both / either } else { 0.0 }
    }
}

impl FromStr for Rectangle {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let [x0, y0, x1, y1] = numbers(text)?[..] else {
            return Err("expected four numbers, x0,y0,x1,y1".into());
        };
        if x0 >= x1 || y0 >= y1 {
            return Err("expected x0 < x1 and y0 < y1".into());
        }
        Ok(Self([x0, y0, x1, y1]))
    }
}

/// A point on the subject, or on what does not belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Pixels from the left.
    pub x: f64,
    /// Pixels from the top.
    pub y: f64,
    /// Whether it is on the subject.
    pub inside: bool,
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match numbers(text)?[..] {
            [x, y] => Ok(Self { x, y, inside: true }),
            [x, y, on] if on == 0.0 || on == 1.0 => Ok(Self { x, y, inside: on == 1.0 }),
            _ => Err("expected x,y or x,y,1 (on the subject) or x,y,0 (not on it)".into()),
        }
    }
}

fn numbers(text: &str) -> std::result::Result<Vec<f64>, String> {
    let one = |t: &str| match t.trim().parse::<f64>() {
        Ok(v) if v.is_finite() => Ok(v),
        _ => Err(format!("{t:?} is no number")),
    };
    text.split(',').map(one).collect()
}

/// What to cut out of one photo: a box, points, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Prompt {
    /// The box.
    #[serde(rename = "box")]
    pub area: Option<Rectangle>,
    /// The points.
    pub points: Vec<Point>,
}

impl Prompt {
    /// Whether everything lies in a photo of `[height, width]`.
    ///
    /// # Errors
    /// [`Error::Config`] naming what does not, or that there is nothing.
    pub fn check(&self, [height, width]: [usize; 2]) -> Result<()> {
        let (w, h) = (width as f64, height as f64);
        let refuse = |key: &str, found: String, expected: String| Error::Config {
            key: key.into(),
            found,
            expected,
            fix: "give pixels of the photo as it is shown, from its upper left corner".into(),
        };
        let within = format!("0 to {width} across and 0 to {height} down");
        let inside = |x: f64, y: f64| (0.0..=w).contains(&x) && (0.0..=h).contains(&y);
        if let Some(Rectangle([x0, y0, x1, y1])) = self.area
            && !(inside(x0, y0) && inside(x1, y1))
        {
            return Err(refuse("--box", format!("{x0},{y0},{x1},{y1}"), within));
        }
        if let Some(p) = self.points.iter().find(|p| !inside(p.x, p.y)) {
            return Err(refuse("--point", format!("{},{}", p.x, p.y), within));
        }
        if self.area.is_none() && self.points.is_empty() {
            return Err(refuse("--box, --point", "neither".into(), "a box or a point".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_and_points_are_read_or_refused() {
        assert_eq!("1,2, 3.5,4".parse(), Ok(Rectangle([1.0, 2.0, 3.5, 4.0])));
        for wrong in ["1,2,3", "1,2,1,4", "1,5,3,4", "a,b,c,d", "0,0,nan,3", "0,0,inf,3", ""] {
            assert!(wrong.parse::<Rectangle>().is_err(), "{wrong}");
        }
        assert_eq!("5,6".parse(), Ok(Point { x: 5.0, y: 6.0, inside: true }));
        assert_eq!("5,6,0".parse(), Ok(Point { x: 5.0, y: 6.0, inside: false }));
        assert!("5,6,2".parse::<Point>().is_err() && "5".parse::<Point>().is_err());
    }

    #[test]
    fn what_lies_outside_the_photo_is_refused() {
        let prompt = |area: &str| Prompt { area: Some(area.parse().unwrap()), points: vec![] };
        assert!(prompt("0,0,20,10").check([10, 20]).is_ok());
        let error = prompt("0,0,20,11").check([10, 20]).unwrap_err().to_string();
        assert!(error.contains("--box") && error.contains("0 to 10 down"), "{error}");
        let point = Point { x: -1.0, y: 0.0, inside: true };
        assert!(Prompt { area: None, points: vec![point] }.check([10, 20]).is_err());
        assert!(Prompt::default().check([10, 20]).unwrap_err().to_string().contains("neither"));
    }
}
