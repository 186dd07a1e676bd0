//! The four grids of a quickstart and their scores.

use super::{
    Quickstart,
    photos::{Eyes, NMS, Photos},
};
use crate::{
    cli::{
        common::note,
        generate::Generate,
        score::{self, ByArgs, Seen},
        steer::SteerArgs,
    },
    error::{Error, Result},
    tensor::image::{encode_png, grid, write_png},
};
use std::{fs, path::Path, time::Instant};

const STEPS: usize = 20;
const GUIDANCE: f32 = 4.0;
/// Strength of the initialization: the paper's (methods.md §1.7).
const GAMMA: f32 = 1.0;
/// How sure the detector must be in a painted picture: the paper's (methods.md §1.8).
const THRESHOLD: f64 = 0.4;
/// Side of a scored picture on the page, pixels.
const SIDE: usize = 160;

/// One of the four grids.
pub(super) struct Grid {
    /// What it shows.
    pub title: String,
    /// The pictures in one.
    pub png: Vec<u8>,
    /// What the embedded models say.
    pub seen: Seen,
    /// Seconds of sampling and of scoring.
    pub seconds: [f64; 2],
    /// The commands that make and score the pictures.
    pub commands: [String; 2],
}

/// Prompt, pictures and scores of one adapter with one initialization.
///
/// # Errors
/// Those of sampling, scoring and writing.
pub(super) fn make(
    args: &Quickstart,
    (name, init): (&str, &str),
    photos: &Photos,
    eyes: &Eyes,
) -> Result<Grid> {
    let clock = Instant::now();
    let suffix = if init == "none" { "" } else { "_init" };
    note(&format!("sampling {name}{suffix}: {} pictures", args.count()));
    let folder = args.out.join(format!("pictures/{name}{suffix}"));
    let generate = guided(args, (name, init), prompt(args, photos), photos, &folder);
    clear(&folder)?;
    let made = generate.write()?;
    let sheet = grid(&made.pictures, 4, 2);
    let path = args.out.join(format!("{name}{suffix}.png"));
    write_png(&path, &sheet, &[])?;
    let png = encode_png(&sheet, &[], &path)?;
    let sampling = clock.elapsed().as_secs_f64();
    let clock = Instant::now();
    let (seen, scoring) = judge(args, &folder, photos, eyes)?;
    let title = match init {
        "none" => format!("{name}, plain noise"),
        _ => format!("{name}, initialized from segmented subjects side by side (gamma {GAMMA})"),
    };
    let seconds = [sampling, clock.elapsed().as_secs_f64()];
    Ok(Grid { title, png, seen, seconds, commands: [command(&generate), scoring] })
}

/// The pictures of an adapter, as every quickstart samples them.
pub(super) fn guided(
    args: &Quickstart,
    (name, init): (&str, &str),
    prompt: String,
    photos: &Photos,
    folder: &Path,
) -> Generate {
    Generate {
        base: "nano".into(),
        lora: vec![args.out.join(name).join("adapter.safetensors").display().to_string()],
        prompt,
        negative: None,
        no_negative: true, // words that nano has not learned
        subjects: Some(photos.list.clone()),
        init: init.into(),
        gamma: GAMMA,
        apart: init != "none", // what one toy hides of another is lost (benches/results/init_nano.md)
        mask_resize: "bilinear".into(),
        sampler: "euler".into(),
        spacing: None,
        prediction: None,
        steps: Some(STEPS),
        guidance: Some(GUIDANCE),
        count: args.count(),
        batch: args.count().min(8),
        height: None,
        width: None,
        latents: None,
        vae_dtype: None,
        save_latents: None,
        steer: SteerArgs::NONE,
        out: folder.into(),
        compute: args.compute.clone(),
    }
}

/// What the subjects are asked to do.
pub(super) fn prompt(args: &Quickstart, photos: &Photos) -> String {
    let words: Vec<String> = photos.subjects.iter().map(|s| s.words()).collect();
    let place = args.place.as_deref().unwrap_or("on the grass");
    format!("a photo of a {}, {}", words.join(" and a "), place)
}

/// Pictures of an earlier call with another `--count` would be scored too.
fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { path: folder.into(), action: "clear", source: e })
        }
        _ => Ok(()),
    }
}

/// What a class is, without what tells it from others: its query, or its last word.
pub(super) fn nouns(photos: &Photos) -> Vec<String> {
    let mut all: Vec<String> = vec![];
    for subject in &photos.subjects {
        let query = match subject.query.trim() {
            "" => subject.class.split_whitespace().last().unwrap_or_default(),
            query => query,
        };
        let noun = query.to_string();
        if !all.contains(&noun) {
            all.push(noun);
        }
    }
    all
}

/// What the embedded models are asked about a folder of pictures.
pub(super) fn by(photos: &Photos, eyes: &Eyes, queries: Vec<String>) -> ByArgs {
    ByArgs {
        subjects: Some(photos.list.clone()),
        boxes: None,
        detector: Some(eyes.detector.clone()),
        queries,
        threshold: Some(THRESHOLD),
        nms: Some(NMS),
        padding: None,
        dreamsim: None,
        dinov2: Some(eyes.dino.clone()),
        dino: None,
        clip: Some(eyes.clip.clone()),
        imagereward: None,
        prompt: None,
        keep_tokens: false,
        out: None,
    }
}

/// The scores, and the command that gives them.
fn judge(args: &Quickstart, folder: &Path, photos: &Photos, eyes: &Eyes) -> Result<(Seen, String)> {
    // the plain noun: a mixture of two subjects is like the full description of neither
    let queries = nouns(photos);
    let asked: String = queries.iter().map(|q| format!(" --query {q:?}")).collect();
    let command = format!(
        "selvedge score --images {} --subjects {} --detector {}{asked} --threshold {THRESHOLD} --nms {NMS} --dinov2 {} --clip {} --out {}",
        folder.display(),
        photos.list.display(),
        eyes.detector.display(),
        eyes.dino.display(),
        eyes.clip.display(),
        folder.with_file_name("scores").display(),
    );
    let by = by(photos, eyes, queries);
    note("scoring them");
    Ok((score::seen(folder, by, args.compute.place.clone(), SIDE)?, command))
}

fn command(g: &Generate) -> String {
    let subjects = g.subjects.as_ref().map(|s| s.display().to_string()).unwrap_or_default();
    format!(
        "selvedge generate --base nano --lora {} --prompt {:?} --no-negative --subjects {subjects} --init {} --gamma {}{} \
         --steps {STEPS} --guidance {GUIDANCE} --count {} --batch {} --seed {} --out {}",
        g.lora.join(" --lora "),
        g.prompt,
        g.init,
        g.gamma,
        if g.apart { " --apart" } else { "" },
        g.count,
        g.batch,
        g.compute.seed,
        g.out.display()
    )
}
