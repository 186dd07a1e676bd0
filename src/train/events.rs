//! TensorBoard event files: scalars in TFRecords.

use crate::error::{Error, Result};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// A writer of scalar summaries; one file a run or resumption, as TensorBoard expects.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

fn varint(mut v: u64, out: &mut Vec<u8>) {
    while v >= 0x80 {
        out.push((v as u8) | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Field `number` as length-delimited bytes.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// An `Event` message: wall time (1), step (2), then `body`.
fn event(wall: f64, step: u64, body: &[u8]) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend_from_slice(&wall.to_le_bytes());
    out.push(2 << 3);
    varint(step, &mut out);
    out.extend_from_slice(body);
    out
}

/// A `Summary` with one simple value for each tag.
fn summary(scalars: &[(&str, f32)]) -> Vec<u8> {
    let mut all = vec![];
    for (tag, value) in scalars {
        let mut one = vec![];
        field(1, tag.as_bytes(), &mut one);
        one.push(2 << 3 | 5);
        one.extend_from_slice(&value.to_le_bytes());
        field(1, &one, &mut all);
    }
    let mut body = vec![];
    field(5, &all, &mut body);
    body
}

/// CRC-32C, rotated and offset as TFRecord wants it.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// One TFRecord: length, its checksum, data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked_crc(data).to_le_bytes());
    out
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Events {
    /// Opens a new event file in `folder`; `first_step` is the step it goes on from, and hides later
    /// points of an interrupted run in TensorBoard.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(folder: &Path, first_step: u64) -> Result<Self> {
        let wall = now();
        let path = folder.join(format!("events.out.tfevents.{:.0}.selvedge.{first_step}", wall));
        let mut file = File::create(&path).map_err(Error::file("create", &path))?;
        let mut version = vec![];
        field(3, b"brain.Event:2", &mut version);
        let mut start = vec![];
        field(7, &[1 << 3, 1], &mut start); // session log: START
        let head = [record(&event(wall, 0, &version)), record(&event(wall, first_step, &start))];
        file.write_all(&head.concat()).map_err(Error::file("write", &path))?;
        Ok(Self { path, file })
    }

    /// Appends scalars of one step.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f32)]) -> Result<()> {
        let bytes = record(&event(now(), step, &summary(scalars)));
        self.file.write_all(&bytes).map_err(Error::file("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_checksums_of_the_format() {
        // the length checksum of an empty record and the CRC-32C check value are published constants
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let r = record(b"ab");
        assert_eq!(r.len(), 8 + 4 + 2 + 4);
        assert_eq!(r[..8], 2u64.to_le_bytes());
        assert_eq!(r[8..12], masked_crc(&r[..8]).to_le_bytes());
        assert_eq!(r[14..], masked_crc(b"ab").to_le_bytes());
    }

    #[test]
    fn a_scalar_event_is_the_protobuf_of_the_schema() {
        let bytes = event(1.5, 300, &summary(&[("loss", 0.25)]));
        let want = [
            &[0x09][..],
            &1.5f64.to_le_bytes(),
            &[0x10, 0xac, 0x02],                // step 300
            &[0x2a, 0x0d, 0x0a, 0x0b],          // summary, value
            &[0x0a, 4, b'l', b'o', b's', b's'], // tag
            &[0x15],
            &0.25f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(bytes, want);
    }
}
