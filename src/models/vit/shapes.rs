//! Sizes of a vision transformer from the shapes of a checkpoint with the original names.

use super::{Positions, Vit};
use crate::kernels::activation::Kind;

/// What the shapes of an original checkpoint do not tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Original {
    /// Whether the patch embedding has a bias.
    pub patch_bias: bool,
    /// Whether it is CLIP's, normalized before the first layer and projected at the end.
    pub clip: bool,
    /// Width of a head.
    pub head_width: usize,
    /// Activation of the feed-forward layers.
    pub activation: Kind,
    /// Epsilon of the normalizations.
    pub eps: f32,
    /// What becomes of the position table at other sizes.
    pub positions: Positions,
}

impl Vit {
    /// The transformer whose parameters (by the names of [`super::vit`]) have the extents that `dims` gives.
    ///
    /// # Errors
    /// The name of the first parameter that is missing, or whose extents are none of such a model.
    pub fn of_shapes(
        dims: &dyn Fn(&str) -> Option<Vec<usize>>,
        original: &Original,
    ) -> Result<Self, &'static str> {
        let (table, kernel) = ("pos_embed", "patch_embed.proj.weight");
        let rows = dims(table).ok_or(table)?;
        let [.., rows, width] = rows[..] else { return Err(table) };
        let side = rows.saturating_sub(1).isqrt();
        if side == 0 || side * side + 1 != rows || width == 0 {
            return Err(table);
        }
        let conv = dims(kernel).ok_or(kernel)?;
        let [_, channels, patch, other] = conv[..] else { return Err(kernel) };
        if patch == 0 || other != patch {
            return Err(kernel);
        }
        let has = |name: &str| dims(name).is_some();
        let layers = (0..1024).take_while(|i| has(&format!("blocks.{i}.norm1.weight"))).count();
        let swiglu = has("blocks.0.mlp.w1.weight");
        let first = if swiglu { "blocks.0.mlp.w1.weight" } else { "blocks.0.mlp.fc1.weight" };
        let inner = dims(first).ok_or(first)?.first().copied().unwrap_or(0);
        let projection = match original.clip {
            true => Some(dims("proj.weight").ok_or("proj.weight")?),
            false => None,
        };
        let registers = dims("register_tokens").and_then(|d| d.iter().nth_back(1).copied());
        let positions = match (original.positions, registers) {
            (Positions::Factor { .. }, Some(_)) => Positions::Factor { antialias: true },
            (rule, _) => rule,
        };
        let head = original.head_width;
        if head == 0 || !width.is_multiple_of(head) {
            return Err(table);
        }
        Ok(Self {
            channels,
            patch,
            grid: [side; 2],
            positions,
            width,
            inner,
            layers,
            heads: width / head,
            activation: original.activation,
            eps: original.eps,
            registers: registers.unwrap_or(0),
            patch_bias: original.patch_bias,
            qkv_bias: true,
            pre_norm: original.clip,
            layer_scale: has("blocks.0.ls1.gamma"),
            swiglu,
            projection: projection.and_then(|d| d.first().copied()),
            pooler: None,
        })
    }
}
