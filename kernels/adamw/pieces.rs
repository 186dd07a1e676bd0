//! The ranges of the flat buffers as blocks of the kernel take them.

use super::AdamW;
use crate::error::{Error, Result};
use std::ops::Range;

/// Settings that one run can mix; `kKinds` in the kernels.
pub(super) const KINDS: usize = 16;
/// Elements of one block; `kPiece` in the kernel, whose tile says so too.
const PIECE: usize = 4096;

/// Settings of one range of the flat buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Elements.
    pub range: Range<usize>,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// The rest.
    pub adamw: AdamW,
}

/// Settings of one kind, as the kernel takes them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Settings {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
}

/// What one block takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Piece {
    pub begin: u64,
    pub len: u32,
    pub kind: u32,
}

/// The distinct settings of `parts`, and the pieces that the blocks take.
///
/// # Errors
/// [`Error::Plan`] for more than 16 different settings.
pub(super) fn cut(parts: &[Part]) -> Result<(Vec<Settings>, Vec<Piece>)> {
    let (mut kinds, mut pieces) = (Vec::<Settings>::new(), vec![]);
    for part in parts {
        let AdamW { beta1, beta2, eps, weight_decay } = part.adamw;
        let own = Settings { learning_rate: part.learning_rate, beta1, beta2, eps, weight_decay };
        let kind = kinds.iter().position(|k| *k == own).unwrap_or_else(|| {
            kinds.push(own);
            kinds.len() - 1
        });
        let mut begin = part.range.start;
        while begin < part.range.end {
            // at multiples of PIECE, so that all but the first begin on 16 bytes
            let end = ((begin / PIECE + 1) * PIECE).min(part.range.end);
            pieces.push(Piece {
                begin: begin as u64,
                len: (end - begin) as u32,
                kind: kind as u32,
            });
            begin = end;
        }
    }
    if kinds.len() > KINDS {
        let problem = format!("{} different settings, expected at most {KINDS}", kinds.len());
        return Err(Error::Plan { at: "adamw".into(), problem });
    }
    Ok((kinds, pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_part_once_and_end_on_whole_accesses() {
        let fast = AdamW { beta2: 0.99, ..AdamW::default() };
        let part = |range, adamw| Part { range, learning_rate: 1e-3, adamw };
        let parts = [
            part(3..5000, AdamW::default()),
            part(5000..5001, fast),
            part(5008..20_000, AdamW::default()),
            part(7..7, fast),
        ];
        let (kinds, pieces) = cut(&parts).unwrap();
        assert_eq!(kinds.len(), 2);
        let mut covered = vec![0; 20_000];
        for p in &pieces {
            let begin = usize::try_from(p.begin).unwrap();
            assert!(p.len as usize <= PIECE);
            covered[begin..begin + p.len as usize].fill(1 + p.kind);
        }
        let kind = |i: usize| match i {
            3..5000 | 5008.. => 1,
            5000 => 2,
            _ => 0,
        };
        assert!(covered.iter().enumerate().all(|(i, c)| *c == kind(i)));
        assert_eq!(pieces.iter().map(|p| p.len).sum::<u32>(), 4997 + 1 + 14_992);
    }
}
