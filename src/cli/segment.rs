//! `selvedge segment`: the mask of a subject, from a box or points given by hand.

use super::common::{DeviceArgs, note, out};
use crate::{
    error::{Error, Result},
    segment::{
        overlay::overlay,
        prompt::{Point, Prompt, Rectangle},
        segmenter::Segmenter,
    },
    tensor::{
        atomic::atomic_write,
        image::{read, write_png},
    },
};
use clap::Args;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Cut the subject of a photo out, as a box or points show it.
///
/// Writes <stem>_mask.png (0 or 255, the photo's size: where training looks for it when --out is the photo's own folder),
/// overlays/<stem>.png to look at, and the photo's entry in segments.json. Exit 1 when the mask is empty.
///
/// Example: selvedge segment dog/00.jpg --box 40,60,400,380 --segmenter mobile_sam.safetensors --out dog
#[derive(Clone, Debug, Args)]
pub struct SegmentArgs {
    /// The photo.
    pub photo: PathBuf,
    /// A box around the subject, in pixels of the photo from its upper left corner.
    #[arg(long = "box", value_name = "x0,y0,x1,y1", allow_hyphen_values = true)]
    pub area: Option<Rectangle>,
    /// A point on the subject (1, the default) or not on it (0); repeatable.
    #[arg(long = "point", value_name = "x,y[,0|1]", allow_hyphen_values = true)]
    pub points: Vec<Point>,
    /// A SAM or MobileSAM: transformers folder, or a file with the original names (or a folder that holds it).
    #[arg(long, value_name = "DIR")]
    pub segmenter: PathBuf,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Where to compute.
    #[command(flatten)]
    pub place: DeviceArgs,
}

/// What was cut out, an entry a photo.
const LIST: &str = "segments.json";

/// Runs the command.
///
/// # Errors
/// Those of reading, of the network and of writing; [`Error::Config`] for a prompt outside the photo.
pub fn run(args: &SegmentArgs) -> Result<u8> {
    let prompt = Prompt { area: args.area, points: args.points.clone() };
    let mut entries = entries(&args.out.join(LIST))?;
    let photo = read(&args.photo)?.rgb();
    prompt.check([photo.height, photo.width])?;
    let (device, dtype) = args.place.open()?;
    let cut = Segmenter::open(&args.segmenter, device, dtype)?.cut(&photo, &prompt)?;
    // a folder of its own: beside the photo, training would take the overlay for another photo
    let overlays = args.out.join("overlays");
    fs::create_dir_all(&overlays).map_err(Error::file("create", &overlays))?;
    let stem = args.photo.file_stem().unwrap_or_default().to_string_lossy();
    let mask = args.out.join(format!("{stem}_mask.png"));
    let look = overlays.join(format!("{stem}.png"));
    write_png(&mask, &cut.mask, &[])?;
    write_png(&look, &overlay(&photo, &cut.mask, &prompt), &[])?;
    let inside = cut.mask.data.iter().filter(|v| **v > 0).count();
    let share = inside as f64 / cut.mask.data.len().max(1) as f64;
    entries.retain(|e| e["photo"] != json!(args.photo));
    entries.push(json!({
        "photo": args.photo, "mask": mask, "overlay": look, "prompt": prompt,
        "share": share, "quality": cut.quality,
    }));
    let text = format!("{:#}\n", Value::Array(entries));
    atomic_write(args.out.join(LIST), |w| w.write_all(text.as_bytes()))?;
    out(&format!(
        "{}: {:.1} % of the photo, quality {:.3}\n",
        mask.display(),
        100.0 * share,
        cut.quality
    ));
    if inside == 0 {
        note(&format!(
            "{}: nothing was found there; move the box or add --point",
            args.photo.display()
        ));
        return Ok(1);
    }
    Ok(0)
}

/// What earlier calls wrote for other photos; nothing where there is no list yet.
fn entries(path: &Path) -> Result<Vec<Value>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::File { path: path.into(), action: "read", source: e }),
    };
    serde_json::from_slice(&text).map_err(|e| Error::Format {
        path: path.into(),
        found: format!("{e}"),
        expected: "the list that segment writes".into(),
        fix: "move the file away, or name another --out".into(),
    })
}
