//! Which photos are cut out, with what, and where the results go.

use super::{Hand, SegmentArgs, by_hand, refused};
use crate::{
    data::{PhotoFile, config::load_subjects, photo_files},
    error::{Error, Result},
    segment::prompt::Prompt,
    tensor::image::read,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// One photo.
#[derive(Debug)]
pub(super) struct Job {
    pub photo: PathBuf,
    /// Where the results go.
    pub folder: PathBuf,
    pub query: Option<String>,
    pub hand: Option<Hand>,
    /// Its mask is there already and stays.
    pub kept: bool,
}

impl Job {
    pub fn stem(&self) -> String {
        stem(&self.photo)
    }

    /// Where its mask goes.
    pub fn mask(&self) -> PathBuf {
        self.folder.join(format!("{}_mask.png", self.stem()))
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The photos of the command line or of the subjects file.
pub(super) fn of(args: &SegmentArgs) -> Result<Vec<Job>> {
    let ending = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
    let mut jobs = match &args.photos[..] {
        [file] if ending(file) => of_subjects(args, file)?,
        all => match all.iter().find(|p| ending(p)) {
            Some(file) => {
                let found = format!("{} among {} files", file.display(), all.len());
                let fix = "give the subjects file alone, or photos";
                return Err(refused("IMAGES", found, "photos, or one subjects file", fix));
            }
            None => of_photos(args, all)?,
        },
    };
    let shown = args.mask.clone().map(Hand::Mask).or_else(|| {
        let prompt = Prompt { area: args.area, points: args.points.clone() };
        (prompt != Prompt::default()).then_some(Hand::Prompt(prompt))
    });
    let by_flags = shown.is_some();
    if let Some(hand) = shown {
        let [job] = &mut jobs[..] else {
            let found = format!("{} photos", jobs.len());
            let fix = "name one photo, or write segment.toml beside them";
            return Err(refused("--box, --point, --mask", found, "one photo", fix));
        };
        (job.hand, job.kept) = (Some(hand), false);
    }
    for job in jobs.iter().filter(|j| !j.kept) {
        if let Some(hand) = &job.hand {
            let fits = hand.fitting(&read(&job.photo)?);
            fits.map_err(|e| if by_flags { e } else { in_file(e, &job.photo) })?;
        }
    }
    Ok(jobs)
}

/// An error about a flag, as one about the photo's entry in `segment.toml`.
fn in_file(error: Error, photo: &Path) -> Error {
    match error {
        Error::Config { key, found, expected, fix } => {
            let key = format!("segment.toml, {}: {}", photo.display(), key.replace("--", ""));
            Error::Config { key, found, expected, fix }
        }
        other => other,
    }
}

fn of_photos(args: &SegmentArgs, all: &[PathBuf]) -> Result<Vec<Job>> {
    let Some(folder) = &args.out else {
        let fix = "add --out DIR; the photos' own folder is where training looks for masks";
        return Err(refused("--out", "nothing", "a folder for the masks", fix));
    };
    let mut hands: BTreeMap<PathBuf, BTreeMap<String, Hand>> = BTreeMap::new();
    let mut jobs: Vec<Job> = vec![];
    for photo in all {
        if photo.is_dir() {
            let fix = "name its photos, or a subjects file";
            return Err(refused("IMAGES", photo.display(), "a file, no folder", fix));
        }
        let of = stem(photo);
        if of.strip_suffix("_mask").is_some_and(|s| all.iter().any(|p| stem(p) == s)) {
            continue; // dog/*.png takes the masks of earlier calls along
        }
        if let Some(other) = jobs.iter().find(|j| j.stem() == of) {
            return Err(one_stem(&other.photo, photo));
        }
        let beside = photo.parent().map(Path::to_path_buf).unwrap_or_default();
        if !hands.contains_key(&beside) {
            hands.insert(beside.clone(), by_hand(&beside)?);
        }
        let name = photo.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hand = hands.get(&beside).and_then(|h| h.get(&name)).cloned();
        let mut job = Job {
            photo: photo.clone(),
            folder: folder.clone(),
            query: args.query.clone(),
            hand,
            kept: false,
        };
        job.kept = job.mask().exists() && !args.force;
        jobs.push(job);
    }
    Ok(jobs)
}

fn of_subjects(args: &SegmentArgs, file: &Path) -> Result<Vec<Job>> {
    let mut jobs: Vec<Job> = vec![];
    for subject in load_subjects(file)? {
        let own = args.out.as_ref().map(|out| out.join(&subject.id));
        let beside = own.is_none();
        let folder = own.unwrap_or_else(|| subject.images.clone());
        let mut hands = by_hand(&subject.images)?;
        let photos = photo_files(&subject.images)?;
        if photos.is_empty() {
            return Err(Error::Data {
                at: format!("subject {}: {}", subject.id, subject.images.display()),
                found: "no photos".into(),
                expected: "files like 00.jpg, 00.png or 00.webp".into(),
                fix: "put photos there, or change images".into(),
            });
        }
        for PhotoFile { path, mask } in photos {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let query = args.query.clone().or_else(|| Some(subject.query_words().to_string()));
            let (hand, folder) = (hands.remove(&name), folder.clone());
            let mut job = Job { photo: path, folder, query, hand, kept: false };
            if jobs.iter().any(|j| j.mask() == job.mask()) {
                continue; // two subjects of one folder
            }
            let other = mask.as_ref().filter(|m| beside && **m != job.mask());
            match (args.force, other) {
                (false, _) => {
                    job.kept = job.mask().exists()
                        || beside && (mask.is_some() || transparent(&job.photo));
                }
                (true, Some(other)) => {
                    let fix = "move it away: training would not know which of the two to take";
                    let found = other.display().to_string();
                    return Err(refused("--force", found, "no mask but a PNG", fix));
                }
                (true, None) => {}
            }
            jobs.push(job);
        }
    }
    Ok(jobs)
}

/// Whether the photo's alpha channel is its mask; a damaged one is told later.
fn transparent(photo: &Path) -> bool {
    let alpha = read(photo).ok().and_then(|p| p.alpha());
    alpha.is_some_and(|a| a.data.iter().any(|v| *v < 255))
}

fn one_stem(a: &Path, b: &Path) -> Error {
    Error::Data {
        at: b.display().to_string(),
        found: format!("the stem of {}", a.display()),
        expected: "photos with stems of their own: masks are named by them".into(),
        fix: "rename one of the two, or segment them into two folders".into(),
    }
}
