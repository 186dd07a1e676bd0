//! `quickstart --method decoupled`: one subject from photos on one background, painted in twelve scenes by DreamBooth and by
//! dual-level decoupling.

use super::{
    Quickstart, Run,
    grids::{by, guided, nouns},
    page::subjects,
    photos::{Eyes, Photos},
};
use crate::{
    cli::{
        common::note,
        plot::{Curve, lines, smoothed},
        report::Report,
        score,
    },
    data::config::Method,
    device::Device,
    error::{Error, Result},
    metrics::{
        embedder::{Embedder, Kind},
        interval::mean_and_interval,
        similarity::diversity,
        texts::ClipTexts,
    },
    tensor::{
        DType,
        atomic::atomic_write,
        image::{Picture, encode_png, grid, read, write_png},
    },
};
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// The places that nano knows, as its captions call them.
pub(super) const PLACES: [&str; 12] = [
    "on the beach",
    "on the grass",
    "in the snow",
    "on a wooden floor",
    "in a city at night",
    "in front of a blue wall",
    "in front of a pink wall",
    "in the desert",
    "in a forest",
    "on the moon",
    "on a checkered floor",
    "simple background",
];

/// What one method made.
struct Shown {
    name: &'static str,
    sheet: Vec<u8>,
    /// Pictures whose scene the embedded CLIP finds first of all.
    right: usize,
    /// Most pictures in one scene, of those whose prompt names none.
    alike: usize,
    of: usize,
    /// Likeness of detected subjects and their photos.
    identity: Vec<f64>,
    diversity: f64,
    seconds: f64,
}

/// Does everything.
///
/// # Errors
/// Those of segmenting, training, sampling and scoring; [`Error::Data`] for more subjects than one.
pub(super) fn run(args: &Quickstart, eyes: &Eyes, stop: &Arc<AtomicBool>) -> Result<u8> {
    let start = Instant::now();
    let photos = Photos::open(args, eyes)?;
    if photos.subjects.len() != 1 {
        return Err(Error::Data {
            at: photos.list.display().to_string(),
            found: format!("{} subjects", photos.subjects.len()),
            expected: "one, for --method decoupled".into(),
            fix: "keep one [[subject]]".into(),
        });
    }
    let mut times = vec![("segmenting".to_string(), start.elapsed().as_secs_f64())];
    let (mut runs, mut shown) = (vec![], vec![]);
    for (name, method) in [("dreambooth", Method::Dreambooth), ("decoupled", Method::Decoupled)] {
        let clock = Instant::now();
        runs.push(args.train(name, method, &photos, stop)?);
        times.push((format!("training {name}"), clock.elapsed().as_secs_f64()));
        let made = paint(args, name, &photos, eyes)?;
        times.push((format!("sampling and scoring {name}"), made.seconds));
        shown.push(made);
        if stop.load(Ordering::SeqCst) {
            let fix = format!("go on with `{}`", args.hint());
            return Err(Error::Interrupted { done: format!("the scenes of {name}"), fix });
        }
    }
    times.push(("all".into(), start.elapsed().as_secs_f64()));
    page(args, &photos, (&runs, &shown), &times)?;
    let seconds = start.elapsed().as_secs_f64();
    note(&format!("{} in {seconds:.1} s", args.out.join("report.html").display()));
    Ok(0)
}

/// The pictures of one method, `NN_S.png` for place and seed, with what the embedded models say.
fn paint(args: &Quickstart, name: &'static str, photos: &Photos, eyes: &Eyes) -> Result<Shown> {
    let clock = Instant::now();
    let folder = args.out.join("pictures").join(name);
    note(&format!("painting {name}: {} scenes of {} pictures", PLACES.len() + 1, args.count()));
    fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let words = photos.subjects[0].words();
    let mut scenes = vec![];
    let prompts = PLACES.map(|place| format!("a photo of a {words}, {place}"));
    let unnamed = format!("a photo of a {words}");
    for (n, prompt) in prompts.into_iter().chain([unnamed]).enumerate() {
        let generate = guided(args, (name, "none"), prompt, photos, &folder);
        let made = generate.make()?;
        for (i, picture) in made.pictures.iter().enumerate() {
            let text = generate.metadata_alone(&made, i).to_string();
            let path = folder.join(format!("{n:02}_{i}.png"));
            write_png(&path, picture, &[("selvedge".into(), text)])?;
        }
        scenes.push(made.pictures);
    }
    let columns = scenes.len();
    let by_row = (0..args.count()).flat_map(|i| scenes.iter().filter_map(move |s| s.get(i)));
    let sheet = grid(&by_row.cloned().collect::<Vec<Picture>>(), columns, 2);
    let path = args.out.join(format!("{name}.png"));
    write_png(&path, &sheet, &[])?;
    let (device, _) = args.compute.place.open()?;
    let (right, alike) = seen_scenes(&photos.subjects[0].class, &scenes, eyes, &device)?;
    let mut dino = Embedder::open(Kind::Dinov2, &eyes.dino, &device, DType::F32)?;
    let mut spread = vec![];
    for pictures in &scenes {
        let rows = dino.embed(&pictures.iter().collect::<Vec<_>>())?;
        spread.extend(diversity(&rows));
    }
    Ok(Shown {
        name,
        sheet: encode_png(&sheet, &[], &path)?,
        right,
        alike,
        of: scenes.iter().map(Vec::len).sum(),
        identity: identity(args, &folder, photos, eyes)?,
        diversity: spread.iter().sum::<f64>() / spread.len().max(1) as f64,
        seconds: clock.elapsed().as_secs_f64(),
    })
}

/// How many pictures fit the caption of their own scene better than those of the others, and how many of the last ones,
/// whose prompt names none, fit the same caption.
fn seen_scenes(
    class: &str,
    scenes: &[Vec<Picture>],
    eyes: &Eyes,
    device: &Device,
) -> Result<(usize, usize)> {
    let mut clip = Embedder::open(Kind::Clip, &eyes.clip, device, DType::F32)?;
    let mut texts = ClipTexts::open(&eyes.clip, device, DType::F32)?;
    let captions = PLACES.map(|place| format!("a photo of a {class}, {place}"));
    let (mut right, mut unnamed) = (0, [0; PLACES.len()]);
    for (own, pictures) in scenes.iter().enumerate() {
        for picture in pictures {
            let row = clip.embed(&[picture])?;
            let (mut best, mut first) = (f64::NEG_INFINITY, 0);
            for (i, caption) in captions.iter().enumerate() {
                let score = texts.score(&row, std::slice::from_ref(caption))?;
                if score > best {
                    (best, first) = (score, i);
                }
            }
            right += usize::from(first == own);
            unnamed[first] += usize::from(own == PLACES.len());
        }
    }
    Ok((right, unnamed.into_iter().max().unwrap_or(0)))
}

/// Likeness of the subject and its photos, of every picture in which exactly one is found.
fn identity(args: &Quickstart, folder: &Path, photos: &Photos, eyes: &Eyes) -> Result<Vec<f64>> {
    let by = by(photos, eyes, nouns(photos));
    let found = score::judged(folder, by, args.compute.place.clone())?;
    let images = found["images"].as_array().cloned().unwrap_or_default();
    let one = images.iter().filter(|i| i["boxes"].as_u64() == Some(1));
    Ok(one.filter_map(|i| i["similarity"][0][0].as_f64()).collect())
}

fn page(
    args: &Quickstart,
    photos: &Photos,
    (runs, shown): (&[Run], &[Shown]),
    times: &[(String, f64)],
) -> Result<()> {
    let mut report = Report::new(
        "selvedge quickstart: a subject without its background",
        "One subject, photographed five times on the same background, learned by DreamBooth and by dual-level decoupling with \
         the same steps and rank, and painted in twelve scenes and in none; judged by the embedded detector and embedders.",
    );
    subjects(&mut report, args, photos)?;
    let fills = args.out.join("decoupled/backgrounds.png");
    let sheet = encode_png(&read(&fills)?, &[], &fills)?;
    report.picture(&sheet, "The photos, and what is behind their subject");
    report.section("Twelve scenes, and none");
    report.text(&format!(
        "Columns: {}; a prompt that names no place. Rows: the same seeds.",
        PLACES.join("; ")
    ));
    shown.iter().for_each(|s| report.picture(&s.sheet, s.name));
    let head = [
        "method",
        "scene right",
        "no place named: in one place",
        "identity",
        "subjects found",
        "diversity",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for s in shown {
        let identity = match mean_and_interval(&s.identity) {
            Some((mean, [low, high])) => format!("{mean:.3} ({low:.3} to {high:.3})"),
            None => "-".into(),
        };
        let found = format!("{} of {}", s.identity.len(), s.of);
        let named = s.of * PLACES.len() / (PLACES.len() + 1);
        let right = format!("{} of {named}", s.right);
        let alike = format!("{} of {}", s.alike, s.of - named);
        rows.push(vec![
            s.name.into(),
            right,
            alike,
            identity,
            found,
            format!("{:.3}", s.diversity),
        ]);
    }
    report.table(&rows);
    report.text(
        "Scene right: of the captions of all twelve, the embedded CLIP ranks the picture's own first. In one place: where the prompt names none, the most \
         pictures of which it ranks the same caption first: a subject that drags its background along is always there. Identity: cosine of the \
         detected subject and its photos by the embedded DINOv2, with its 95 % interval. Diversity: 1 - that cosine between the \
         pictures of a scene.",
    );
    report.section("Training");
    let of = |r: &Run| Curve { name: r.name.into(), points: r.losses.clone() };
    let curves: Vec<Curve> = runs.iter().map(of).collect();
    report.plot(&lines("step", "loss", &curves), "Loss, mean of 20 steps");
    let log = args.out.join("decoupled/log.csv");
    let cosines = ["text_implicit", "implicit_explicit", "text_background"];
    report.plot(&lines("step", "cosine", &columns(&log, &cosines)?), "The three cosines");
    let router = ["router_entropy", "expert_0", "expert_1", "expert_2", "expert_3"];
    report.plot(
        &lines("step", "nats, share", &columns(&log, &router)?),
        "The router: entropy, and each expert's share",
    );
    let row = |(what, seconds): &(String, f64)| vec![what.clone(), format!("{seconds:.1}")];
    let head = vec!["what".to_string(), "seconds".into()];
    report.table(&[vec![head], times.iter().map(row).collect()].concat());
    report.section("Each part again");
    let trained = runs.iter().map(|r| r.command.clone());
    let all = [photos.command.clone()].into_iter().chain(trained);
    report.code(&all.collect::<Vec<_>>().join("\n\n"));
    report.text(
        "A scene: selvedge generate --base nano --lora FOLDER/decoupled --prompt \"...\"; each picture holds its settings.",
    );
    for run in runs {
        let text = run.config.to_toml()?;
        report.folded(run.name, |r| r.code(&text));
    }
    let html = report.html();
    atomic_write(args.out.join("report.html"), |w| w.write_all(html.as_bytes()))
}

/// Columns of a run's log as curves, means of 20 steps.
fn columns(log: &Path, names: &[&str]) -> Result<Vec<Curve>> {
    let text = fs::read_to_string(log).map_err(Error::file("read", log))?;
    let mut all = text.lines();
    let head: Vec<&str> = all.next().unwrap_or_default().split(',').collect();
    let rows: Vec<Vec<f64>> =
        all.map(|l| l.split(',').map(|c| c.parse().unwrap_or(f64::NAN)).collect()).collect();
    let curve = |name: &&str| {
        let at = head.iter().position(|h| h == name)?;
        let points: Vec<(f64, f64)> =
            rows.iter().filter_map(|r| Some((*r.first()?, *r.get(at)?))).collect();
        Some(Curve { name: (*name).into(), points: smoothed(&points, 20) })
    };
    Ok(names.iter().filter_map(curve).collect())
}
