//! The base model carried in the program: a diffusers folder, file by file, and its example
//! subjects.

use std::path::Path;

/// One embedded file: its path in the folder, and its bytes.
pub type Asset = (&'static str, &'static [u8]);

/// Bytes that begin where numbers of any type may: weights are used where they lie.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

macro_rules! files {
    ($root:literal: $($path:literal,)*) => {
        const { &[$(($path, {
            const WHOLE: &Aligned<[u8]> =
                &Aligned(*include_bytes!(concat!("../../assets/", $root, $path)));
            &WHOLE.0
        })),*] }
    };
}

/// The five pictures of a subject with masks and captions.
macro_rules! pair {
    ($name:literal) => {
        files! { $name:
            "/subjects.toml",
            "/a/01.png", "/a/01.txt", "/a/01_mask.png", "/a/02.png", "/a/02.txt", "/a/02_mask.png",
            "/a/03.png", "/a/03.txt", "/a/03_mask.png", "/a/04.png", "/a/04.txt", "/a/04_mask.png",
            "/a/05.png", "/a/05.txt", "/a/05_mask.png",
            "/b/01.png", "/b/01.txt", "/b/01_mask.png", "/b/02.png", "/b/02.txt", "/b/02_mask.png",
            "/b/03.png", "/b/03.txt", "/b/03_mask.png", "/b/04.png", "/b/04.txt", "/b/04_mask.png",
            "/b/05.png", "/b/05.txt", "/b/05_mask.png",
        }
    };
}

static NANO: &[Asset] = files! { "nano/":
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/merges.txt",
    "tokenizer_2/special_tokens_map.json",
    "tokenizer_2/tokenizer_config.json",
    "tokenizer_2/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
};

static EYES: &[Asset] = files! { "nano_eyes/":
    "clip/config.json",
    "clip/merges.txt",
    "clip/model.safetensors",
    "clip/preprocessor_config.json",
    "clip/special_tokens_map.json",
    "clip/tokenizer_config.json",
    "clip/vocab.json",
    "detector/config.json",
    "detector/merges.txt",
    "detector/model.safetensors",
    "detector/preprocessor_config.json",
    "detector/special_tokens_map.json",
    "detector/tokenizer_config.json",
    "detector/vocab.json",
    "dino/config.json",
    "dino/model.safetensors",
    "dino/preprocessor_config.json",
    "segmenter/config.json",
    "segmenter/model.safetensors",
    "segmenter/preprocessor_config.json",
};

/// What finds, cuts out and judges the toys of `nano`: an OWLv2, a SAM, a DINOv2 and a CLIP in transformers' format, in
/// `detector/`, `segmenter/`, `dino/` and `clip/`.
pub fn eyes() -> &'static [Asset] {
    EYES
}

/// The embedded image tower and text tower, as a model's name.
pub const NANO_CLIP: &str = "nano/eyes/clip";

/// The bytes of a file below `nano/eyes/`, where no such file exists on the disk.
pub fn eye(path: &Path) -> Option<&'static [u8]> {
    let inner = path.strip_prefix("nano/eyes").ok()?;
    let found = EYES.iter().find(|(name, _)| Path::new(name) == inner)?;
    (!path.exists()).then_some(found.1)
}

/// The files of `nano`.
pub fn nano() -> &'static [Asset] {
    NANO
}

/// The bytes of one file of `nano`.
pub fn nano_file(path: &str) -> Option<&'static [u8]> {
    NANO.iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes)
}

/// The examples by name; paths start with `/`: `/subjects.toml`, `/a/01.png`,
/// `/a/01_mask.png`. `bears` are two of one class, `robot_duck` two unlike each other; the base has
/// seen none of them; `one_place` is one subject whose photos share a background, without captions.
pub fn examples() -> [(&'static str, &'static [Asset]); 3] {
    [
        ("bears", pair!("nano/subjects/bears")),
        ("robot_duck", pair!("nano/subjects/robot_duck")),
        ("one_place", ONE_PLACE),
    ]
}

static ONE_PLACE: &[Asset] = files! { "nano/subjects/one_place":
    "/subjects.toml",
    "/a/01.png", "/a/01_mask.png", "/a/02.png", "/a/02_mask.png", "/a/03.png", "/a/03_mask.png",
    "/a/04.png", "/a/04_mask.png", "/a/05.png", "/a/05_mask.png",
};
