//! What a checkpoint may be opened as.

/// A part of a text-to-image model, of a segmenter, or a tower that judges pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// The denoiser.
    Unet,
    /// The image autoencoder.
    Vae,
    /// The first text encoder.
    TextEncoder,
    /// The second text encoder (SDXL).
    TextEncoder2,
    /// Segment Anything's image encoder.
    SamImageEncoder,
    /// Segment Anything's prompt encoder and mask decoder.
    SamMaskDecoder,
    /// CLIP's image tower.
    ClipImage,
    /// CLIP's text tower.
    ClipText,
    /// DINOv2.
    Dinov2,
    /// DINO's vision transformer.
    Dino,
    /// DreamSim's three vision transformers.
    DreamSim,
    /// ImageReward: BLIP's picture and text towers, and a reward head.
    ImageReward,
    /// OWLv2: CLIP's towers with heads for boxes and their likeness to texts.
    Owlv2,
}

impl Component {
    /// Its folder name, also the prefix of its parameter names: `unet`, `text_encoder_2`, ...
    pub fn name(self) -> &'static str {
        match self {
            Component::Unet => "unet",
            Component::Vae => "vae",
            Component::TextEncoder => "text_encoder",
            Component::TextEncoder2 => "text_encoder_2",
            Component::SamImageEncoder => "sam_image_encoder",
            Component::SamMaskDecoder => "sam_mask_decoder",
            Component::ClipImage => "clip_image",
            Component::ClipText => "clip_text",
            Component::Dinov2 => "dinov2",
            Component::Dino => "dino",
            Component::DreamSim => "dreamsim",
            Component::ImageReward => "imagereward",
            Component::Owlv2 => "owlv2",
        }
    }

    /// Whether it is a tower that judges pictures, no part of a text-to-image model.
    pub fn is_tower(self) -> bool {
        use Component as C;
        let sam = matches!(self, C::SamImageEncoder | C::SamMaskDecoder);
        !sam && !matches!(self, C::Unet | C::Vae | C::TextEncoder | C::TextEncoder2)
    }

    /// What its configuration calls itself, in part.
    pub(super) fn class(self) -> &'static str {
        match self {
            Component::Unet => "UNet2DConditionModel",
            Component::Vae => "AutoencoderKL",
            Component::SamImageEncoder | Component::SamMaskDecoder => "Sam",
            _ => "CLIP",
        }
    }
}
