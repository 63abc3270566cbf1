//! The edit list of an M4A file: which part of the decoded audio is the recording.
//!
//! AAC encoders put a thousand or two samples in front, and fill the last packet; the file says so in the `elst` atom of
//! its track (ISO/IEC 14496-12, 8.6.6), which symphonia reads and does not apply.

use std::io::{Seek, SeekFrom};

use super::source::Source;

/// Atoms that are looked at on one level.
const MAX_ATOMS: usize = 256;

/// The part of a track that is to be heard, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Edit {
    /// What comes before it.
    pub(super) skip_seconds: f64,
    /// How long it is, if the file says so.
    pub(super) seconds: Option<f64>,
}

/// An atom's kind and where its content lies.
struct Atom {
    kind: [u8; 4],
    start: u64,
    end: u64,
    /// It says that it goes on beyond what it is in.
    cut: bool,
}

/// Whether the file ends before its audio does, with the index in front of it: then it can be read from front to back
/// as far as it goes.
pub(super) fn ends_early(source: &mut Source) -> bool {
    let whole = Atom {
        kind: *b"file",
        start: 0,
        end: source.len(),
        cut: false,
    };
    let atoms = children(source, &whole);
    let index = atoms.iter().position(|atom| &atom.kind == b"moov");
    let cut = atoms.iter().position(|atom| atom.cut);
    matches!((index, cut), (Some(index), Some(cut)) if index < cut)
}

/// The edit of the first audio track; None when there is none, or one of several parts. Leaves `source` anywhere.
pub(super) fn edit(source: &mut Source) -> Option<Edit> {
    let whole = Atom {
        kind: *b"file",
        start: 0,
        end: source.len(),
        cut: false,
    };
    let movie = child(source, &whole, b"moov")?;
    let movie_timescale = timescale(source, &movie, b"mvhd")?;
    for track in children(source, &movie)
        .into_iter()
        .filter(|atom| &atom.kind == b"trak")
    {
        let media = child(source, &track, b"mdia")?;
        let handler = child(source, &media, b"hdlr")?;
        if read::<4>(source, handler.start + 8)? != *b"soun" {
            continue;
        }
        let media_timescale = timescale(source, &media, b"mdhd")?;
        let edits = child(source, &track, b"edts")?;
        let list = child(source, &edits, b"elst")?;
        let [version, _, _, _, c0, c1, c2, c3] = read::<8>(source, list.start)?;
        if [c0, c1, c2, c3] != [0, 0, 0, 1] {
            return None;
        }
        let (duration, media_time) = if version == 1 {
            let [d0, d1, d2, d3, d4, d5, d6, d7, t0, t1, t2, t3, t4, t5, t6, t7] =
                read(source, list.start + 8)?;
            let duration = u64::from_be_bytes([d0, d1, d2, d3, d4, d5, d6, d7]);
            (duration, i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]))
        } else {
            let [d0, d1, d2, d3, t0, t1, t2, t3] = read(source, list.start + 8)?;
            let duration = u32::from_be_bytes([d0, d1, d2, d3]);
            (
                u64::from(duration),
                i64::from(i32::from_be_bytes([t0, t1, t2, t3])),
            )
        };
        return (media_time >= 0).then(|| Edit {
            skip_seconds: media_time as f64 / media_timescale,
            seconds: (duration > 0).then(|| duration as f64 / movie_timescale),
        });
    }
    None
}

/// Units per second of the atom's header atom `kind`.
fn timescale(source: &mut Source, atom: &Atom, kind: &[u8; 4]) -> Option<f64> {
    let header = child(source, atom, kind)?;
    let [version] = read::<1>(source, header.start)?;
    let times = if version == 1 { 16 } else { 8 };
    let timescale = u32::from_be_bytes(read(source, header.start + 4 + times)?);
    (timescale > 0).then(|| f64::from(timescale))
}

fn child(source: &mut Source, atom: &Atom, kind: &[u8; 4]) -> Option<Atom> {
    children(source, atom)
        .into_iter()
        .find(|child| &child.kind == kind)
}

fn children(source: &mut Source, atom: &Atom) -> Vec<Atom> {
    let mut found = Vec::new();
    let mut position = atom.start;
    while found.len() < MAX_ATOMS && position < atom.end {
        let Some([s0, s1, s2, s3, k0, k1, k2, k3]) = read::<8>(source, position) else {
            break;
        };
        let (header, size) = match u32::from_be_bytes([s0, s1, s2, s3]) {
            0 => (8, atom.end - position),
            1 => match read::<8>(source, position + 8) {
                Some(size) => (16, u64::from_be_bytes(size)),
                None => break,
            },
            size => (8, u64::from(size)),
        };
        if size < header {
            break;
        }
        let claimed = position.saturating_add(size);
        let (end, cut) = (claimed.min(atom.end), claimed > atom.end);
        found.push(Atom {
            kind: [k0, k1, k2, k3],
            start: position + header,
            end,
            cut,
        });
        position = end;
    }
    found
}

fn read<const N: usize>(source: &mut Source, position: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    source.seek(SeekFrom::Start(position)).ok()?;
    (source.read_up_to(&mut bytes).ok()? == N).then_some(bytes)
}
