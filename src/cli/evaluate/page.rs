//! The page of a study: self-contained, answers are kept in the browser and saved to a file.

use crate::{
    cli::plot::escape,
    error::Result,
    metrics::study::{CRITERIA, Item, Key, Question},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::fmt::Write as _;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;\
background:#fff;color:#222}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}\
img{max-width:100%;border-radius:4px}.card{margin:2rem 0;padding-top:1rem;border-top:1px solid #8886}\
.two{display:grid;grid-template-columns:1fr 1fr;gap:.6rem}.refs img{height:9rem;margin:.2rem}\
label{margin-right:1.2rem;white-space:nowrap}#bar{position:sticky;bottom:0;padding:.7rem 0;background:inherit}\
button{font:inherit;padding:.4rem 1rem}";

/// Fills the pictures in, keeps every choice, and saves them as the file that `evaluate correlate` reads.
const SCRIPT: &str = "document.querySelectorAll('img[data-p]').forEach(i=>i.src=P[i.dataset.p]);\
const read=()=>JSON.parse(localStorage.getItem(S)||'{}');let A=read();\
const show=()=>{document.getElementById('n').textContent=Object.keys(A).length+' of '+N+' answered'};\
document.querySelectorAll('input').forEach(i=>{if(A[i.name]===i.value)i.checked=true;\
i.onchange=()=>{A[i.name]=i.value;localStorage.setItem(S,JSON.stringify(A));show()}});show();\
document.getElementById('save').onclick=()=>{const a=document.createElement('a');\
a.href=URL.createObjectURL(new Blob([JSON.stringify({study:S,answers:A})],{type:'application/json'}));\
a.download='answers.json';a.click()};";

/// The page; `picture` gives the PNG of an item. Nothing on it tells the methods.
///
/// # Errors
/// Those of `picture`.
pub fn page(
    key: &Key,
    prompt: Option<&str>,
    references: &[(String, Vec<Vec<u8>>)],
    mut picture: impl FnMut(&Item) -> Result<Vec<u8>>,
) -> Result<String> {
    let url = |png: &[u8]| format!("data:image/png;base64,{}", STANDARD.encode(png));
    let mut shown: Vec<&Item> = vec![];
    let mut pictures = vec![];
    let mut body = String::from("<h1>Which pictures are right?</h1>");
    if let Some(prompt) = prompt {
        let _ = write!(body, "<p>The pictures were made for: <b>{}</b></p>", escape(prompt));
    }
    for (class, photos) in references {
        let _ = write!(body, "<div class=refs><p>Photos of the {}</p>", escape(class));
        for png in photos {
            let _ = write!(body, "<img alt=\"{}\" src=\"{}\">", escape(class), url(png));
        }
        body += "</div>";
    }
    for (i, question) in key.questions.iter().enumerate() {
        let mut number = |item| -> Result<usize> {
            if let Some(at) = shown.iter().position(|s| *s == item) {
                return Ok(at);
            }
            pictures.push(url(&picture(item)?));
            shown.push(item);
            Ok(shown.len() - 1)
        };
        match question {
            Question::Fidelity(item) => {
                let p = number(item)?;
                let _ = write!(
                    body,
                    "<div class=card><img alt=\"picture\" data-p={p}><p>Are all subjects there, \
                     each of them once and looking like its own photos?</p>"
                );
                radios(&mut body, &format!("q{i}"), &[("yes", "yes"), ("no", "no")]);
            }
            Question::Pair { left, right } => {
                let (l, r) = (number(left)?, number(right)?);
                let _ = write!(
                    body,
                    "<div class=card><div class=two><img alt=\"left\" data-p={l}>\
                     <img alt=\"right\" data-p={r}></div>"
                );
                for (criterion, text) in CRITERIA {
                    let _ = write!(body, "<p>{text}</p>");
                    let choices =
                        [("left", "left"), ("right", "right"), ("neither", "cannot be determined")];
                    radios(&mut body, &format!("q{i}.{criterion}"), &choices);
                }
            }
        }
        body += "</div>";
    }
    let (study, count) = (&key.study, key.choices().len());
    let pictures = serde_json::to_string(&pictures).unwrap_or_default();
    Ok(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{study}</title>\
         <style>{STYLE}</style></head><body>{body}<div id=bar><button id=save>Save answers</button> \
         <span id=n></span></div><script>const S=\"{study}\",N={count},P={pictures};{SCRIPT}</script>\
         </body></html>\n"
    ))
}

fn radios(body: &mut String, name: &str, choices: &[(&str, &str)]) {
    for (value, text) in choices {
        let _ = write!(
            body,
            "<label><input type=radio name=\"{name}\" value=\"{value}\"> {text}</label>"
        );
    }
}
