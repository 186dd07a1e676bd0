//! `evaluate study`: the page that asks people.

use super::{Named, page};
use crate::{
    cli::{
        common::out,
        pictures::{names, small},
    },
    data::{Subject, config},
    error::{Error, Result},
    metrics::study::Key,
    tensor::{atomic::atomic_write, image},
};
use clap::Args;
use std::{collections::BTreeSet, fs, path::PathBuf};

/// Flags of `evaluate study`.
#[derive(Clone, Debug, Args)]
pub struct StudyArgs {
    /// Pictures of a method; the same file name is the same seed in all of them. The first is compared with every other one.
    #[arg(required = true, value_name = "METHOD=DIR")]
    pub methods: Vec<Named>,
    /// Folder for study.html (to hand out) and key.json (to keep).
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A subjects or training file: its photos are shown as references.
    #[arg(long, value_name = "FILE.toml")]
    pub subjects: Option<PathBuf>,
    /// The text that the pictures were made for, shown with them.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Pictures of every method, drawn at random; all when there are fewer.
    #[arg(long, default_value_t = 25, value_name = "N")]
    pub count: usize,
    /// Seed of the draw, the sides and the order.
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub seed: u64,
}

/// Longest side of a picture on the page, pixels.
const PICTURE: usize = 768;
/// Longest side of a reference photo on the page, pixels.
const REFERENCE: usize = 320;

/// Runs the command.
///
/// # Errors
/// Those of reading and writing; [`Error::Data`] when the methods share no picture, [`Error::Config`] for a count of 0
/// or a method named twice.
pub fn run(args: &StudyArgs) -> Result<u8> {
    let refuse = |key: &str, found: String, expected: &str| Error::Config {
        key: key.into(),
        found,
        expected: expected.into(),
        fix: "change it".into(),
    };
    if args.count == 0 {
        return Err(refuse("--count", "0".into(), "at least one picture a method"));
    }
    let methods: Vec<String> = args.methods.iter().map(|m| m.method.clone()).collect();
    let mut seen = BTreeSet::new();
    if let Some(twice) = methods.iter().find(|m| !seen.insert(*m)) {
        return Err(refuse("METHOD=DIR", format!("{twice} twice"), "every method once"));
    }
    let pictures = shared_pictures(&args.methods)?;
    let key = Key::draw(&methods, &pictures, args.count, args.seed);
    let page = page::page(&key, args.prompt.as_deref(), &references(args)?, |item| {
        let from = args.methods.iter().find(|m| m.method == item.method);
        small(
            &image::read(&from.map_or_else(PathBuf::new, |m| m.path.join(&item.picture)))?,
            PICTURE,
        )
    })?;
    fs::create_dir_all(&args.out).map_err(Error::file("create", &args.out))?;
    let write = |name: &str, text: &str| {
        let path = args.out.join(name);
        atomic_write(&path, |w| w.write_all(text.as_bytes()))?;
        out(&format!("{}\n", path.display()));
        Ok(())
    };
    write("study.html", &page)?;
    let key = serde_json::to_string_pretty(&key).unwrap_or_default();
    write("key.json", &format!("{key}\n"))?;
    Ok(0)
}

/// Names of pictures that every method has.
fn shared_pictures(methods: &[Named]) -> Result<Vec<String>> {
    let mut shared: Option<BTreeSet<String>> = None;
    for Named { path, .. } in methods {
        let own = names(path)?;
        shared = Some(match shared {
            None => own,
            Some(before) => before.intersection(&own).cloned().collect(),
        });
    }
    let shared: Vec<String> = shared.unwrap_or_default().into_iter().collect();
    if shared.is_empty() {
        let folders: Vec<String> = methods.iter().map(|m| m.path.display().to_string()).collect();
        return Err(Error::Data {
            at: folders.join(", "),
            found: "no picture with the same name in all of them".into(),
            expected: "pictures of the same seeds, such as 0000.png".into(),
            fix: "generate with the same --seed and --count for every method".into(),
        });
    }
    Ok(shared)
}

/// Class and first photos of every subject.
fn references(args: &StudyArgs) -> Result<Vec<(String, Vec<Vec<u8>>)>> {
    const PHOTOS: usize = 3;
    let Some(path) = &args.subjects else { return Ok(vec![]) };
    let mut all = vec![];
    for subject in config::load_subjects(path)? {
        let mut warnings = vec![];
        let subject = Subject::load(&subject, &mut warnings)?;
        let photos: Result<Vec<_>> =
            subject.photos.iter().take(PHOTOS).map(|p| small(&p.rgb, REFERENCE)).collect();
        all.push((subject.class, photos?));
    }
    Ok(all)
}
