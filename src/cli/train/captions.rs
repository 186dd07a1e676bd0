//! Captions and classes that photos lack, written once by the vision model of `[caption]` into NN.txt and class.txt beside
//! them.

use crate::{
    cli::{common::note, pictures::small, progress::progress},
    data::{
        TrainConfig,
        config::{CLASS_FILE, CaptionSection, SubjectConfig},
        photo_files,
    },
    error::{Error, Result},
    tensor::{atomic::atomic_write, image::read},
};
use base64::Engine as _;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Longest side of what is sent, pixels.
const SIDE: usize = 768;
/// Longest caption, characters.
const LONGEST: usize = 400;
/// Longest answer, bytes.
const ANSWER: u64 = 1 << 20;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Most photos from which a class is told.
const SHOWN: usize = 4;
/// Most words of a class.
const WORDS: usize = 6;

/// Asks for the descriptive classes that subjects of `config` lack, "red monster plush", shows each, and writes it into
/// class.txt beside the photos, where every later run finds it (methods.md §1.1).
///
/// # Errors
/// As [`complete`]; an answer that is no class.
pub fn describe(config: &mut TrainConfig, stop: &AtomicBool) -> Result<()> {
    let section = config.caption.clone();
    let model = Model::open(&section)?;
    for subject in config.subjects.iter_mut().filter(|s| s.class.trim().is_empty()) {
        interrupted(stop, "some classes")?;
        note(&format!("photos of subject {} are shown to {}", subject.id, model.url));
        subject.class = model.class(subject)?;
        let file = subject.images.join(CLASS_FILE);
        atomic_write(&file, |w| writeln!(w, "{}", subject.class))?;
        note(&format!("subject {}: {} ({})", subject.id, subject.class, file.display()));
    }
    Ok(())
}

fn interrupted(stop: &AtomicBool, done: &str) -> Result<()> {
    if !stop.load(Ordering::SeqCst) {
        return Ok(());
    }
    let fix = "run the same command again: those that are there are kept".into();
    Err(Error::Interrupted { done: done.into(), fix })
}

/// Asks for the captions that photos of `config` lack, shows them and writes each as it comes; with all of them there
/// nothing is sent. A text begins "A photo of a", then the subject's identifier and class, then pose and background only,
/// so that these are not learned with the subject (methods.md §1.1).
///
/// # Errors
/// [`Error::Config`] for a key that is not set; [`Error::Data`] for a refusal, for no answer, and for one that does not name
/// the subject; what was written before stays.
pub fn complete(config: &TrainConfig, stop: &AtomicBool) -> Result<()> {
    if !config.caption.is_on() {
        return Ok(());
    }
    let mut bare: Vec<(&SubjectConfig, PathBuf)> = vec![];
    for subject in &config.subjects {
        let photos = photo_files(&subject.images)?.into_iter().map(|f| f.path);
        bare.extend(photos.filter(|p| !p.with_extension("txt").exists()).map(|p| (subject, p)));
    }
    if bare.is_empty() {
        return Ok(());
    }
    let model = Model::open(&config.caption)?;
    note(&format!("{} photos without a caption are shown to {}", bare.len(), model.url));
    let bar = progress(bare.len());
    for (subject, photo) in bare {
        interrupted(stop, "some captions")?;
        let caption = model.caption(&photo, &subject.words())?;
        let file = photo.with_extension("txt");
        atomic_write(&file, |w| writeln!(w, "{caption}"))?;
        bar.suspend(|| note(&format!("{}: {caption}", file.display())));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// The endpoint.
struct Model<'a> {
    section: &'a CaptionSection,
    url: String,
    key: Option<String>,
    agent: ureq::Agent,
}

impl<'a> Model<'a> {
    fn open(section: &'a CaptionSection) -> Result<Self> {
        let key = match section.key_env.trim() {
            "" => None,
            name => Some(std::env::var(name).map_err(|_| Error::Config {
                key: "caption.key_env".into(),
                found: format!("{name}, which is not set"),
                expected: "an environment variable that holds the key".into(),
                fix: format!("export {name}=..., or leave caption.key_env out"),
            })?),
        };
        let config = ureq::Agent::config_builder();
        let config = config.timeout_global(Some(PATIENCE)).http_status_as_error(false).build();
        let url = format!("{}/chat/completions", section.url.trim().trim_end_matches('/'));
        Ok(Self { section, url, key, agent: config.into() })
    }

    fn caption(&self, photo: &Path, words: &str) -> Result<String> {
        let asked = format!(
            "Describe this photo in one sentence of the form \"A photo of a {words}, <pose and background>.\" \
             Keep the words \"{words}\" as they are, and say nothing else about the looks of what they name. \
             Answer with the sentence only."
        );
        let text = self.says(&asked, &[photo])?;
        let named = text.to_lowercase().contains(&words.to_lowercase());
        if !named || text.contains('\n') || text.chars().count() > LONGEST {
            let expected = format!("one sentence with {words:?}, of at most {LONGEST} characters");
            return Err(self.strange(&text, photo, expected, "write the photo's NN.txt by hand"));
        }
        Ok(text)
    }

    fn class(&self, subject: &SubjectConfig) -> Result<String> {
        let photos: Vec<PathBuf> =
            photo_files(&subject.images)?.into_iter().map(|f| f.path).take(SHOWN).collect();
        let photos: Vec<&Path> = photos.iter().map(PathBuf::as_path).collect();
        let Some(first) = photos.first() else {
            return Err(Error::Data {
                at: subject.images.display().to_string(),
                found: "no photo".into(),
                expected: format!("photos of subject {}", subject.id),
                fix: "put them there, or correct images".into(),
            });
        };
        let asked = "These photos show the same subject. Name it in two to four plain words, what it is last, that tell it \
                     apart from others of its kind, as \"red monster plush\" or \"white robot toy\": no article, no \
                     background, no pose. Answer with these words only.";
        let text = self.says(asked, &photos)?;
        let text = text.trim_end_matches('.').trim();
        let bare = ["a ", "an ", "the "].iter().find_map(|article| {
            let start = text.get(..article.len())?;
            start.eq_ignore_ascii_case(article).then(|| text[article.len()..].trim())
        });
        let text = bare.unwrap_or(text);
        let plain = text.chars().all(|c| c.is_alphanumeric() || " -'".contains(c));
        if text.is_empty() || !plain || text.split_whitespace().count() > WORDS {
            let expected = format!("at most {WORDS} plain words");
            let fix = "write the class into the configuration, or into class.txt beside the photos";
            return Err(self.strange(text, first, expected, fix));
        }
        Ok(text.to_string())
    }

    /// The answer's text, without quotation marks.
    fn says(&self, asked: &str, photos: &[&Path]) -> Result<String> {
        let mut content = vec![json!({"type": "text", "text": asked})];
        for photo in photos {
            let png = small(&read(photo)?, SIDE)?;
            let data = base64::engine::general_purpose::STANDARD.encode(png);
            let url = format!("data:image/png;base64,{data}");
            content.push(json!({"type": "image_url", "image_url": {"url": url}}));
        }
        let body = json!({
            "model": self.section.model,
            "temperature": 0,
            "messages": [{"role": "user", "content": content}],
        });
        let photo = photos.first().copied().unwrap_or(Path::new(""));
        let answer = self.ask(&body.to_string(), photo)?;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        Ok(text.trim().trim_matches('"').trim().to_string())
    }

    fn strange(&self, text: &str, photo: &Path, expected: String, fix: &str) -> Error {
        let shown: String = text.chars().take(120).collect();
        self.wrong(format!("the answer {shown:?} about {}", photo.display()), expected, fix)
    }

    fn ask(&self, body: &str, photo: &Path) -> Result<Value> {
        let about = |what: String| format!("{what} about {}", photo.display());
        let expected = || "an answer of an OpenAI-compatible endpoint".to_string();
        let fix = "check caption.url, caption.model and the key";
        let mut request = self.agent.post(&self.url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let failed = |e: ureq::Error| self.wrong(about(e.to_string()), expected(), fix);
        let mut response = request.send(body).map_err(failed)?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(ANSWER).read_to_string();
        let text = text.map_err(failed)?;
        if !status.is_success() {
            let start: String = text.chars().take(200).collect();
            let found = format!("{status} {}", start.replace(char::is_control, " "));
            return Err(self.wrong(about(found), expected(), fix));
        }
        serde_json::from_str(&text)
            .map_err(|e| self.wrong(about(format!("no JSON ({e})")), expected(), fix))
    }

    fn wrong(&self, found: String, expected: String, fix: &str) -> Error {
        Error::Data { at: self.url.clone(), found, expected, fix: fix.into() }
    }
}
