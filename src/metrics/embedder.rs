//! Networks whose embeddings of two pictures are close when the pictures look alike.

use super::similarity::Embeddings;
use crate::{
    device::Device,
    error::Result,
    models::{checkpoint::Component, towers::PictureTower},
    tensor::{DType, Tensor, image::Picture},
};
use std::path::Path;

/// Which network, and which of its outputs (methods.md §1.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// DreamSim's ensemble: its `embed`.
    DreamSim,
    /// DINOv2: the mean of all tokens after the last normalization, class token and registers included.
    Dinov2,
    /// DINO: the mean of all tokens after the last normalization, class token included.
    Dino,
    /// CLIP's image tower: its projected `image_embeds`.
    Clip,
}

impl Kind {
    /// All, in the order in which they are preferred.
    pub const ALL: [Kind; 4] = [Kind::DreamSim, Kind::Dinov2, Kind::Dino, Kind::Clip];

    /// Its name in flags and results.
    pub fn word(self) -> &'static str {
        match self {
            Kind::DreamSim => "dreamsim",
            Kind::Dinov2 => "dinov2",
            Kind::Dino => "dino",
            Kind::Clip => "clip",
        }
    }

    fn output(self) -> (Component, &'static str) {
        match self {
            Kind::DreamSim => (Component::DreamSim, "embed"),
            Kind::Dinov2 => (Component::Dinov2, "last_hidden_state"),
            Kind::Dino => (Component::Dino, "last_hidden_state"),
            Kind::Clip => (Component::ClipImage, "image_embeds"),
        }
    }
}

/// A loaded network.
#[derive(Debug)]
pub struct Embedder {
    kind: Kind,
    tower: PictureTower,
    /// Whether the class token stands for all tokens.
    class_token: bool,
}

impl Embedder {
    /// Opens a network of `kind`: a transformers folder, original names, or DreamSim's folder.
    ///
    /// # Errors
    /// Those of reading; [`crate::error::Error::Format`] and [`crate::error::Error::Weights`] for another kind.
    pub fn open(kind: Kind, path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let tower = PictureTower::open(kind.output(), path, (device, dtype))?;
        Ok(Self { kind, tower, class_token: false })
    }

    /// The same network with its class token, the first, in place of the mean over all tokens: what DreamBench compares
    /// (methods.md §2.3).
    pub fn by_class_token(self) -> Self {
        Self { class_token: true, ..self }
    }

    /// Which it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A row for every picture, of length 1; they run one after the other, so that no row depends on the others.
    ///
    /// # Errors
    /// Those of the network; [`crate::error::Error::Data`] for a picture that cannot be prepared.
    pub fn embed(&mut self, pictures: &[&Picture]) -> Result<Embeddings> {
        let mut all = Tensor { dims: vec![0, 1], data: vec![] };
        for picture in pictures {
            let mut row = self.tower.look(picture)?;
            if row.dims.len() == 3 {
                let width = row.dims[2];
                let data = match self.class_token {
                    true => row.data[..width].to_vec(),
                    false => mean_of_tokens(&row),
                };
                row = Tensor { data, dims: vec![1, width] };
            }
            all.dims = vec![all.dims[0] + 1, row.data.len()];
            all.data.append(&mut row.data);
        }
        Embeddings::new(&all, &format!("embeddings of {}", self.kind.word()))
    }
}

/// `[1, tokens, width]` to `[width]`.
fn mean_of_tokens(tokens: &Tensor) -> Vec<f32> {
    let (count, width) = (tokens.dims[1], tokens.dims[2]);
    let mut sum = vec![0.0; width];
    for token in tokens.data.chunks_exact(width.max(1)) {
        sum.iter_mut().zip(token).for_each(|(s, v)| *s += f64::from(*v));
    }
    sum.iter().map(|s| (s / count as f64) as f32).collect()
}
