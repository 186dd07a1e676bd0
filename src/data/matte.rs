//! A mask from a simple background: the part of a picture that differs from its border.

use crate::tensor::image::Picture;

/// Squared colour distance above which a pixel differs from the border's median colour.
const FAR: i32 = 40 * 40;

/// The largest connected region that differs from the border's median colour, holes filled.
///
/// `None` when it covers less than 2 % or more than 85 % of the picture, or when less than two
/// thirds of the border look alike: then the background is not simple.
pub fn matte(picture: &Picture) -> Option<Picture> {
    let p = picture.rgb();
    let (w, h) = (p.width, p.height);
    if w < 3 || h < 3 {
        return None;
    }
    let on_border = |i: usize| [0, w - 1].contains(&(i % w)) || [0, h - 1].contains(&(i / w));
    let border: Vec<&[u8]> =
        (0..w * h).filter(|i| on_border(*i)).map(|i| p.at(i % w, i / w)).collect();
    let median = [0, 1, 2].map(|c| {
        let mut v: Vec<u8> = border.iter().map(|q| q[c]).collect();
        v.sort_unstable();
        i32::from(v[v.len() / 2])
    });
    let far = |q: &[u8]| {
        let d: i32 = q.iter().zip(median).map(|(a, b)| (i32::from(*a) - b).pow(2)).sum();
        d > FAR
    };
    if border.iter().filter(|q| far(q)).count() * 3 > border.len() {
        return None;
    }
    let different: Vec<bool> = p.data.chunks_exact(3).map(far).collect();
    let largest = regions(&different, w, true).into_iter().max_by_key(Vec::len)?;
    let mut mask = Picture::filled(w, h, 1, 0);
    largest.iter().for_each(|i| mask.data[*i] = 255);
    let outside: Vec<bool> = mask.data.iter().map(|v| *v == 0).collect();
    for hole in regions(&outside, w, false) {
        if !hole.iter().any(|i| on_border(*i)) {
            hole.iter().for_each(|i| mask.data[*i] = 255);
        }
    }
    let area = mask.data.iter().filter(|v| **v > 0).count();
    (area * 50 >= w * h && area * 100 <= w * h * 85).then_some(mask)
}

/// Connected regions (4 neighbours, or 8 with `diagonal`) of the set positions of a picture `w`
/// wide.
fn regions(set: &[bool], w: usize, diagonal: bool) -> Vec<Vec<usize>> {
    let (width, height) = (w as i64, (set.len() / w) as i64);
    let mut seen = vec![false; set.len()];
    let mut all = vec![];
    for start in 0..set.len() {
        if !set[start] || seen[start] {
            continue;
        }
        let mut region = vec![start];
        seen[start] = true;
        let mut at = 0;
        while let Some(i) = region.get(at).copied() {
            at += 1;
            let (x, y) = ((i % w) as i64, (i / w) as i64);
            for (dx, dy) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy))) {
                let (nx, ny) = (x + dx, y + dy);
                let inside = (0..width).contains(&nx) && (0..height).contains(&ny);
                if !inside || (!diagonal && dx != 0 && dy != 0) {
                    continue;
                }
                let n = (ny * width + nx) as usize;
                if set[n] && !seen[n] {
                    seen[n] = true;
                    region.push(n);
                }
            }
        }
        all.push(region);
    }
    all
}
