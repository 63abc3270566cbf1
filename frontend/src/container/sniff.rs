//! What a file is, by its first bytes.

use std::io::Seek;

use super::packets::{Kind, PacketDecoder};
use super::source::Source;
use super::wav::Wav;
use super::{ContainerError, Decode, DecodeLimits, Info};
use crate::pcm::ChannelSelection;

/// Enough for every signature, and to tell text from noise.
const HEAD_BYTES: usize = 512;

/// Opens `source` as what it is.
pub(super) fn open(
    mut source: Source,
    limits: &DecodeLimits,
    selection: ChannelSelection,
) -> Result<(Info, Box<dyn Decode>), ContainerError> {
    let mut buffer = [0; HEAD_BYTES];
    let mut tagged = false;
    let head = loop {
        let length = source.read_up_to(&mut buffer)?;
        match id3_bytes(&buffer[..length]) {
            Some(tag) => source.cut_front(tag)?,
            None => break &buffer[..length],
        }
        tagged = true;
    };
    source.rewind()?;
    let kind = match signature(head) {
        Signature::Unknown if tagged && !head.is_empty() => Kind::Mp3,
        Signature::Unknown if tagged => return Err(ContainerError::NoAudio { format: "mp3" }),
        Signature::Wav => return Wav::open(source, limits, selection),
        Signature::Packets(kind) => kind,
        Signature::Known(found) => {
            return Err(ContainerError::Unsupported {
                found: found.to_owned(),
            });
        }
        Signature::Unknown => {
            return Err(ContainerError::NotAudio {
                looks_like: looks_like(head),
            });
        }
    };
    PacketDecoder::open(source, kind, limits, selection)
}

/// Bytes of an ID3v2 tag, which may stand in front of MP3, AAC and FLAC. Pictures in it can be larger than the audio.
fn id3_bytes(head: &[u8]) -> Option<u64> {
    let &[b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] = head else {
        return None;
    };
    let size = [a, b, c, d]
        .iter()
        .fold(0u64, |size, &byte| size << 7 | u64::from(byte & 0x7F));
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    Some(10 + size + footer)
}

enum Signature {
    Wav,
    Packets(Kind),
    /// Something that is known and not read.
    Known(&'static str),
    Unknown,
}

fn signature(head: &[u8]) -> Signature {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if (at(0, b"RIFF") || at(0, b"RF64") || at(0, b"BW64")) && at(8, b"WAVE") {
        return Signature::Wav;
    }
    // The first packet of an Ogg stream stands behind a page header of 28 bytes.
    if at(0, b"OggS") && at(28, b"Speex   ") {
        return Signature::Known("Speex audio");
    }
    let packets = [
        (0, &b"fLaC"[..], Kind::Flac),
        (0, b"OggS", Kind::Ogg),
        (4, b"ftyp", Kind::M4a),
        (0, b"\x1A\x45\xDF\xA3", Kind::Webm),
    ];
    if let Some((.., kind)) = packets.into_iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return Signature::Packets(kind);
    }
    let known = [
        (0, &b"RIFX"[..], "a big-endian WAV file"),
        (8, b"AVI ", "an AVI video"),
        (0, b"FORM", "an AIFF file"),
        (0, b"caff", "a CAF file"),
        (0, b".snd", "an AU file"),
        (0, b"#!AMR", "an AMR file"),
        (0, b"\x30\x26\xB2\x75\x8E\x66\xCF\x11", "a WMA file"),
        (0, b"wvpk", "a WavPack file"),
        (0, b"MAC ", "a Monkey's Audio file"),
        (0, b"MThd", "a MIDI file"),
    ];
    if let Some((.., name)) = known.into_iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return Signature::Known(name);
    }
    match *head {
        // An MPEG audio frame: 11 bits of sync, a version and a layer that exist, a bit rate and a sample rate likewise.
        [0xFF, second, third, ..] if second & 0xE0 == 0xE0 => {
            let (version, layer) = ((second >> 3) & 3, (second >> 1) & 3);
            if layer == 0 && second & 0xF6 == 0xF0 {
                Signature::Packets(Kind::Adts)
            } else if version != 1 && layer != 0 && third >> 4 != 0xF && (third >> 2) & 3 != 3 {
                Signature::Packets(Kind::Mp3)
            } else {
                Signature::Unknown
            }
        }
        _ => Signature::Unknown,
    }
}

/// For the sender of something else: the best guess at what it is.
fn looks_like(head: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"\x89PNG") || starts(b"\xFF\xD8\xFF") || starts(b"GIF8") {
        "a picture"
    } else if starts(b"%PDF") {
        "a PDF document"
    } else if starts(b"PK\x03\x04") || starts(b"\x1F\x8B") || starts(b"7z\xBC\xAF") {
        "an archive"
    } else if is_text(head) {
        "text"
    } else if head.iter().all(|&byte| byte == 0) {
        "zeros"
    } else {
        "nothing known; headerless audio needs its encoding and rate said"
    }
}

fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The head may end inside a character.
        Err(error) if head.len() - error.valid_up_to() < 4 => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty()
        && valid
            .chars()
            .all(|character| !character.is_control() || "\t\r\n".contains(character))
}
