//! `[caption]`: a vision model, here a stand-in on this machine, writes the captions that photos lack.
#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

/// What came: path, authorization, body.
type Asked = Arc<Mutex<Vec<(String, String, Value)>>>;

/// A server that answers the n-th request with `answer(n)`: a status and a text.
fn stand_in(answer: impl Fn(usize) -> (u16, String) + Send + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let asked = Asked::default();
    let all = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = read(&stream);
            let (status, text) = answer(all.lock().unwrap().len());
            all.lock().unwrap().push(request);
            let head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}",
                text.len()
            );
            write!(stream, "{head}\r\n\r\n{text}").unwrap();
        }
    });
    (url, asked)
}

fn read(stream: &TcpStream) -> (String, String, Value) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let (mut length, mut key) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => key = value.into(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (first.trim().into(), key, serde_json::from_slice(&body).unwrap())
}

fn says(text: &str) -> (u16, String) {
    (200, json!({"choices": [{"message": {"role": "assistant", "content": text}}]}).to_string())
}

/// Two subjects of two photos each, the first of which has its caption; one training step on nano.
fn config(folder: &Path, caption: &str) -> PathBuf {
    let bears = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/assets/nano/subjects/bears");
    let mut text = "base = \"nano\"\n[method]\nmix_probability = 0.0\n[train]\nresolution = 64\nsteps = 1\nrank = 2\n\
                    accumulate = 1\nsample_every = 0\n"
        .to_string();
    text += caption;
    for (id, class) in [("a", "dotted bear"), ("b", "striped bear")] {
        let own = folder.join(id);
        fs::create_dir_all(&own).unwrap();
        for file in fs::read_dir(bears.join(id)).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let kept = ["01", "02"].iter().any(|n| name.starts_with(n)) && !name.ends_with(".txt");
            if kept && !own.join(&name).exists() {
                fs::copy(file.path(), own.join(&name)).unwrap();
            }
        }
        let token = if id == "a" { "olis" } else { "hta" };
        text += &format!(
            "[[subject]]\nid = \"{id}\"\ntoken = \"{token}\"\nclass = \"{class}\"\nimages = \"{id}\"\n"
        );
    }
    fs::write(folder.join("a/01.txt"), "A photo of a olis dotted bear, by hand.\n").unwrap();
    let path = folder.join("train.toml");
    fs::write(&path, text).unwrap();
    path
}

fn train(config: &Path, out: &str) -> Output {
    let out = config.with_file_name(out);
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.arg("train").arg(config).arg("--out").arg(out).args(["--device", "cpu"]);
    command.env("SELVEDGE_TEST_KEY", "secret").env_remove("SELVEDGE_NO_KEY").output().unwrap()
}

#[test]
fn missing_captions_are_written_once_shown_and_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let (url, asked) = stand_in(|n| {
        let who = if n == 0 { "olis dotted bear" } else { "hta striped bear" };
        says(&format!(" \"A photo of a {who}, number {n}.\"\n"))
    });
    let section =
        format!("[caption]\nurl = \"{url}\"\nmodel = \"eyes\"\nkey_env = \"SELVEDGE_TEST_KEY\"\n");
    let path = config(folder.path(), &section);
    let run = train(&path, "run");
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{errors}");
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(text("a/01.txt"), "A photo of a olis dotted bear, by hand.\n");
    assert_eq!(text("a/02.txt"), "A photo of a olis dotted bear, number 0.\n");
    assert_eq!(text("b/02.txt"), "A photo of a hta striped bear, number 2.\n");
    assert!(errors.contains("A photo of a hta striped bear, number 1."), "{errors}");
    {
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 3);
        for (i, (first, key, body)) in asked.iter().enumerate() {
            assert_eq!(first, "POST /v1/chat/completions HTTP/1.1");
            assert_eq!((key.as_str(), &body["model"]), ("Bearer secret", &json!("eyes")));
            let content = &body["messages"][0]["content"];
            let who = if i == 0 { "olis dotted bear" } else { "hta striped bear" };
            assert!(content[0]["text"].as_str().unwrap().contains(who));
            let image = content[1]["image_url"]["url"].as_str().unwrap();
            let png = image.strip_prefix("data:image/png;base64,").unwrap();
            let png = base64::engine::general_purpose::STANDARD.decode(png).unwrap();
            assert!(png.starts_with(b"\x89PNG"));
        }
    }
    assert!(!text("run/config.toml").contains("secret"), "the key is in the run's configuration");

    // all are there: nothing is sent, and they are what is trained on
    assert!(train(&path, "again").status.success());
    assert_eq!(asked.lock().unwrap().len(), 3);
    let mut mix = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    mix.arg("mix").arg(&path).args(["--count", "20", "--out"]).arg(folder.path().join("mixes"));
    assert!(mix.output().unwrap().status.success());
    assert!(text("mixes/mixes.jsonl").contains("hta striped bear, number 2."));
}

#[test]
fn nothing_is_sent_without_the_section_and_refusals_are_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(&config(folder.path(), ""), "run");
    assert!(run.status.success());
    assert!(!folder.path().join("a/02.txt").exists());

    let (url, asked) = stand_in(|n| match n {
        0 => (401, "{\"error\": \"no such key\"}".into()),
        1 => says("A lovely animal."),
        2 => (200, "<html>".into()),
        3 => says("A photo of a olis dotted bear, here."),
        _ => says(""),
    });
    let section = |url: &str| format!("[caption]\nurl = \"{url}\"\nmodel = \"eyes\"\n");
    let refused = |section: &str, words: &[&str]| {
        let run = train(&config(folder.path(), section), "none");
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{error}");
        let line = error.lines().find(|l| l.starts_with("error:")).unwrap_or_default();
        assert!(words.iter().all(|w| line.contains(w)), "{words:?}: {error}");
        assert!(!folder.path().join("none").exists());
    };
    refused(&section(&url), &["401", "no such key", "02."]);
    refused(&section(&url), &["A lovely animal", "olis dotted bear"]);
    refused(&section(&url), &["no JSON"]);
    // what was written before a refusal stays
    refused(&section(&url), &["b/01"]);
    assert!(folder.path().join("a/02.txt").exists());
    assert_eq!(asked.lock().unwrap()[0].1, "", "a key was sent that nobody named");
    let came = asked.lock().unwrap().len();
    refused(&format!("{}key_env = \"SELVEDGE_NO_KEY\"\n", section(&url)), &["SELVEDGE_NO_KEY"]);
    refused("[caption]\nurl = \"example\"\nmodel = \"x\"\n", &["caption.url"]);
    refused("[caption]\nmodel = \"x\"\n", &["caption"]);
    refused("[caption]\nkey_env = \"X\"\n", &["caption.key_env"]);
    refused("[caption]\nurl = \"http://127.0.0.1:9\"\nmodel = \"x\"\n", &["127.0.0.1:9"]);
    assert_eq!(asked.lock().unwrap().len(), came);
}

#[test]
fn a_missing_class_is_asked_for_once_written_beside_the_photos_and_used_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let (url, asked) = stand_in(|n| match n {
        0 => says("\"A green striped bear.\""),
        _ => says("A photo of a hta green striped bear, before a wall."),
    });
    let section = format!("[caption]\nurl = \"{url}\"\nmodel = \"eyes\"\n");
    let path = config(folder.path(), &section);
    let bare = fs::read_to_string(&path).unwrap().replace("class = \"striped bear\"\n", "");
    fs::write(&path, &bare).unwrap();
    fs::write(folder.path().join("a/02.txt"), "A photo of a olis dotted bear.\n").unwrap();
    // other commands do not ask, and nothing is sent before the rest of the file was checked
    let mix = |out: &str| {
        let mut mix = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        mix.arg("mix").arg(&path).args(["--count", "20", "--out"]).arg(folder.path().join(out));
        mix.output().unwrap()
    };
    let refused = mix("none");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2));
    assert!(error.contains("subject 2: class") && error.contains("class.txt"), "{error}");
    fs::write(&path, bare.replace("steps = 1", "steps = 1\nlearning_rate = -1.0")).unwrap();
    assert_eq!(train(&path, "wrong").status.code(), Some(2));
    assert_eq!(asked.lock().unwrap().len(), 0);

    fs::write(&path, &bare).unwrap();
    let run = train(&path, "run");
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{errors}");
    assert!(errors.contains("subject b: green striped bear"), "{errors}");
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(text("b/class.txt"), "green striped bear\n");
    assert!(text("run/config.toml").contains("class = \"green striped bear\""));
    {
        let asked = asked.lock().unwrap();
        let shown = asked[0].2["messages"][0]["content"].as_array().unwrap().len();
        assert_eq!((asked.len(), shown), (3, 3), "a class from two photos, two captions");
    }
    assert!(mix("mixes").status.success());
    assert!(text("mixes/mixes.jsonl").contains("hta green striped bear, before a wall."));
    assert!(train(&path, "again").status.success());
    assert_eq!(asked.lock().unwrap().len(), 3);

    // an answer that is no class is refused, and nothing is written
    let (url, _) = stand_in(|_| says("I cannot help with that, sorry; try another photo of it."));
    fs::remove_file(folder.path().join("b/class.txt")).unwrap();
    let section = format!("url = \"{url}\"");
    let start = bare.find("url = ").unwrap();
    let end = start + bare[start..].find('\n').unwrap();
    fs::write(&path, format!("{}{section}{}", &bare[..start], &bare[end..])).unwrap();
    let run = train(&path, "third");
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2));
    assert!(errors.contains("6 plain words") && !folder.path().join("b/class.txt").exists());
}
