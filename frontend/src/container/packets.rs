//! Compressed files: symphonia takes the container apart, symphonia or `opus-pure` decodes the packets.
//!
//! Both are held to what they may do: one format is offered to a file, every call is inside `catch_unwind` (a panic is a
//! damaged file and never more), the size of a packet is checked before a decoder is made, and a packet that cannot be
//! decoded is left out and counted.

use std::io::{ErrorKind, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_FLAC, CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_MP3, CODEC_ID_OPUS, CODEC_ID_VORBIS,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::common::Limit;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::{Hint, Probe};
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;

use super::m4a::{self, Edit};
use super::opus::{self, OpusStream};
use super::source::Source;
use super::{AudioFormat, ContainerError, Decode, DecodeLimits, Info, Warning};
use crate::pcm::{ChannelSelection, counted};

/// Packets in a row that cannot be decoded before the file is given up.
const MAX_DAMAGED_IN_A_ROW: u32 = 256;

/// The containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flac,
    Ogg,
    Mp3,
    M4a,
    Webm,
    Adts,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Flac => "flac",
            Kind::Ogg => "ogg",
            Kind::Mp3 => "mp3",
            Kind::M4a => "m4a",
            Kind::Webm => "webm",
            Kind::Adts => "aac",
        }
    }

    /// A probe that knows this container only.
    fn probe(self) -> Probe {
        use symphonia::default::formats as readers;
        let mut probe = Probe::default();
        match self {
            Kind::Flac => probe.register_format::<readers::FlacReader<'_>>(),
            Kind::Ogg => probe.register_format::<readers::OggReader<'_>>(),
            Kind::Mp3 => probe.register_format::<readers::MpaReader<'_>>(),
            Kind::M4a => probe.register_format::<readers::IsoMp4Reader<'_>>(),
            Kind::Webm => probe.register_format::<readers::MkvReader<'_>>(),
            Kind::Adts => probe.register_format::<readers::AdtsReader<'_>>(),
        }
        probe
    }
}

/// A compressed file between its header and its end.
pub(super) struct PacketDecoder {
    kind: Kind,
    format: Box<dyn FormatReader>,
    track_id: u32,
    codec: Codec,
    selection: ChannelSelection,
    limits: DecodeLimits,
    file_length: u64,
    /// The part to be heard; None is all of it.
    edit: Option<Edit>,
    /// Samples of one channel that were decoded, before the edit and after it.
    decoded: u64,
    heard: u64,
    /// What the first packet gave; later ones must have the same rate.
    rate_hz: u32,
    /// Mono samples that were decoded to open the file.
    first: Vec<f32>,
    interleaved: Vec<f32>,
    damaged: u64,
    damaged_in_a_row: u32,
    non_finite: u64,
    truncated: Option<Warning>,
}

enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusStream>),
}

/// What came of one packet.
enum Step {
    Samples,
    Nothing,
    End,
}

impl PacketDecoder {
    pub(super) fn open(
        mut source: Source,
        kind: Kind,
        limits: &DecodeLimits,
        selection: ChannelSelection,
    ) -> Result<(Info, Box<dyn Decode>), ContainerError> {
        let file_length = source.len();
        let edit = if kind == Kind::M4a {
            m4a::edit(&mut source)
        } else {
            None
        };
        if kind == Kind::Webm || kind == Kind::M4a && m4a::ends_early(&mut source) {
            source.hide_end();
        }
        source.rewind()?;
        let format = guarded(kind, || {
            let stream = MediaSourceStream::new(Box::new(source), MediaSourceStreamOptions::default());
            let metadata = MetadataOptions::default()
                .limit_tag_bytes(Limit::Maximum(64 << 10))
                .limit_visual_bytes(Limit::Maximum(0));
            kind.probe()
                .probe(&Hint::new(), stream, FormatOptions::default(), metadata)
        })?
        .map_err(|error| refusal(kind, error))?;
        let (track_id, codec, codec_name) = select_track(kind, &*format, limits, selection)?;
        let mut decoder = Self {
            kind,
            format,
            track_id,
            codec,
            selection,
            limits: limits.clone(),
            file_length,
            edit,
            decoded: 0,
            heard: 0,
            rate_hz: 0,
            first: Vec::new(),
            interleaved: Vec::new(),
            damaged: 0,
            damaged_in_a_row: 0,
            non_finite: 0,
            truncated: None,
        };
        // The first packet says the rate and the channels: headers of AAC often do not.
        let mut first = Vec::new();
        let mut channels = 0;
        loop {
            match decoder.step(&mut first, &mut channels)? {
                Step::Samples => break,
                Step::Nothing => limits.check_deadline()?,
                Step::End if decoder.damaged > 0 => {
                    let reason = format!("none of its {} packets can be decoded", decoder.damaged);
                    return Err(ContainerError::Damaged {
                        format: kind.name(),
                        reason,
                    });
                }
                Step::End => return Err(ContainerError::NoAudio { format: kind.name() }),
            }
        }
        decoder.first = first;
        let declared_samples = decoder.declared_samples();
        // An MP3 may only have been estimated.
        if let (Some(declared), true) = (declared_samples, kind != Kind::Mp3) {
            limits.check_declared(declared, decoder.rate_hz)?;
        }
        let info = Info {
            format: AudioFormat {
                container: kind.name(),
                codec: codec_name,
            },
            rate_hz: decoder.rate_hz,
            channels,
            declared_samples,
        };
        Ok((info, Box::new(decoder)))
    }

    /// Samples of one channel by the container.
    fn declared_samples(&self) -> Option<u64> {
        let track = self
            .format
            .tracks()
            .iter()
            .find(|track| track.id == self.track_id)?;
        let seconds = match self.edit.and_then(|edit| edit.seconds) {
            Some(seconds) => seconds,
            None => track.time_base?.calc_duration(track.duration?)?.as_secs_f64(),
        };
        let samples = (seconds * f64::from(self.rate_hz)).round() as u64;
        // A file in fragments says 0 and means that it did not know.
        (samples > 0).then_some(samples)
    }

    /// Whether the container tells its length and did not just guess it from the size of the file.
    fn declares_exactly(&self) -> bool {
        let told = |track: &Track| track.id == self.track_id && track.delay.is_some();
        match self.kind {
            Kind::Flac | Kind::M4a => true,
            // LAME's tag has both the delay and the length.
            Kind::Mp3 => self.format.tracks().iter().any(told),
            Kind::Ogg | Kind::Webm | Kind::Adts => false,
        }
    }

    /// The end of the packets: too early when much less came than was told.
    fn end(&mut self) -> Step {
        let slack = u64::from(self.rate_hz / 10);
        let missing = self
            .declared_samples()
            .is_some_and(|declared| self.heard + slack < declared);
        if missing && self.declares_exactly() {
            self.set_truncated();
        }
        Step::End
    }

    fn set_truncated(&mut self) {
        self.truncated = Some(Warning::Truncated {
            declared_bytes: None,
            present_bytes: self.file_length,
        });
    }

    /// Reads and decodes one packet, appending mono samples to `out`.
    fn step(&mut self, out: &mut Vec<f32>, channels: &mut u16) -> Result<Step, ContainerError> {
        let kind = self.kind;
        let format = &mut self.format;
        let packet = match guarded(kind, || format.next_packet())? {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(self.end()),
            Err(Error::ResetRequired) => {
                // Another stream follows in the same Ogg file.
                let (track_id, codec, _) = select_track(kind, &*self.format, &self.limits, self.selection)?;
                (self.track_id, self.codec) = (track_id, codec);
                return self.count_in_a_row();
            }
            Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                // A recorder in a browser never writes an end, so a WebM without one is whole.
                if kind != Kind::Webm {
                    self.set_truncated();
                }
                return Ok(Step::End);
            }
            Err(Error::IoError(error)) => return Err(error.into()),
            Err(_) => return self.count_damaged(),
        };
        if packet.track_id != self.track_id {
            return Ok(Step::Nothing);
        }
        let codec = &mut self.codec;
        let interleaved = &mut self.interleaved;
        let Some((rate_hz, count)) = guarded(kind, || decode(codec, &packet, interleaved))? else {
            return self.count_damaged();
        };
        self.damaged_in_a_row = 0;
        if self.interleaved.is_empty() {
            return Ok(Step::Nothing);
        }
        let (actual, max) = (self.interleaved.len() as u64, self.limits.max_packet_samples);
        if actual > max {
            return Err(ContainerError::PacketTooLarge { actual, max });
        }
        self.limits.check_rate(rate_hz)?;
        self.limits.check_channels(count, self.selection)?;
        if self.rate_hz != 0 && self.rate_hz != rate_hz {
            let reason = format!("its sample rate changes from {} to {rate_hz} Hz", self.rate_hz);
            return Err(ContainerError::Damaged {
                format: kind.name(),
                reason,
            });
        }
        (self.rate_hz, *channels) = (rate_hz, count);
        let (selection, non_finite) = (self.selection, &mut self.non_finite);
        let samples = (self.interleaved.len() / usize::from(count)) as u64;
        let part = heard_part(self.edit, rate_hz, self.decoded, samples);
        self.decoded += samples;
        self.heard += (part.end - part.start) as u64;
        let part = part.start * usize::from(count)..part.end * usize::from(count);
        let frames = self.interleaved[part].chunks_exact(usize::from(count));
        out.extend(frames.map(|frame| counted(selection.mono(frame), non_finite)));
        Ok(Step::Samples)
    }

    fn count_damaged(&mut self) -> Result<Step, ContainerError> {
        self.damaged += 1;
        self.count_in_a_row()
    }

    /// Gives up on what seems to have no end of packets without audio: what was heard until there is good.
    fn count_in_a_row(&mut self) -> Result<Step, ContainerError> {
        self.damaged_in_a_row += 1;
        if self.damaged_in_a_row < MAX_DAMAGED_IN_A_ROW {
            return Ok(Step::Nothing);
        }
        if self.heard > 0 {
            self.set_truncated();
            return Ok(Step::End);
        }
        let reason = format!("{MAX_DAMAGED_IN_A_ROW} packets in a row cannot be decoded");
        Err(ContainerError::Damaged {
            format: self.kind.name(),
            reason,
        })
    }
}

impl Decode for PacketDecoder {
    fn next_block(&mut self, out: &mut Vec<f32>) -> Result<bool, ContainerError> {
        if !self.first.is_empty() {
            out.append(&mut std::mem::take(&mut self.first));
            return Ok(true);
        }
        let before = out.len();
        loop {
            match self.step(out, &mut 0)? {
                Step::Samples if out.len() > before => return Ok(true),
                Step::Samples | Step::Nothing => self.limits.check_deadline()?,
                Step::End => return Ok(false),
            }
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        let damaged = (self.damaged > 0).then_some(Warning::DamagedPackets { count: self.damaged });
        let non_finite = (self.non_finite > 0).then_some(Warning::NonFinite {
            count: self.non_finite,
        });
        [self.truncated, damaged, non_finite]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Which of a packet's `samples`, the first of which is sample `position` of its track, are to be heard.
fn heard_part(edit: Option<Edit>, rate_hz: u32, position: u64, samples: u64) -> std::ops::Range<usize> {
    let Some(edit) = edit else {
        return 0..samples as usize;
    };
    let at = |seconds: f64| (seconds * f64::from(rate_hz)).round() as u64;
    let skip = at(edit.skip_seconds);
    let end = edit
        .seconds
        .map_or(u64::MAX, |seconds| skip.saturating_add(at(seconds)));
    let start = skip.saturating_sub(position).min(samples);
    start as usize..end.saturating_sub(position).clamp(start, samples) as usize
}

/// Decodes a packet to `(samples, channels) f32`: its rate and channels, or None when it is damaged.
fn decode(codec: &mut Codec, packet: &Packet, interleaved: &mut Vec<f32>) -> Option<(u32, u16)> {
    interleaved.clear();
    match codec {
        Codec::Symphonia(decoder) => {
            let buffer = decoder.decode(packet).ok()?;
            buffer.copy_to_vec_interleaved(interleaved);
            let spec = buffer.spec();
            Some((
                spec.rate(),
                u16::try_from(spec.channels().count()).unwrap_or(u16::MAX),
            ))
        }
        Codec::Opus(stream) => {
            let trim_end = usize::try_from(packet.trim_end.get()).unwrap_or(usize::MAX);
            interleaved.extend_from_slice(stream.decode(&packet.data, trim_end)?);
            Some((opus::RATE_HZ, stream.channels()))
        }
    }
}

/// The first audio track that can be decoded, with its decoder.
fn select_track(
    kind: Kind,
    format: &dyn FormatReader,
    limits: &DecodeLimits,
    selection: ChannelSelection,
) -> Result<(u32, Codec, &'static str), ContainerError> {
    let audio = |track: &&Track| track.track_type() == Some(TrackType::Audio);
    let mut refused = ContainerError::NoAudio { format: kind.name() };
    for track in format.tracks().iter().filter(audio) {
        let Some(parameters) = track
            .codec_params
            .as_ref()
            .and_then(|parameters| parameters.audio())
        else {
            continue;
        };
        match make_decoder(kind, parameters, limits, selection) {
            Ok((codec, name)) => return Ok((track.id, codec, name)),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn make_decoder(
    kind: Kind,
    parameters: &AudioCodecParameters,
    limits: &DecodeLimits,
    selection: ChannelSelection,
) -> Result<(Codec, &'static str), ContainerError> {
    let channels = parameters
        .channels
        .as_ref()
        .map_or(0, |channels| channels.count());
    if let Ok(channels @ 1..) = u16::try_from(channels) {
        limits.check_channels(channels, selection)?;
    }
    let frames = parameters.max_frames_per_packet.unwrap_or(0);
    let actual = frames.saturating_mul(channels.max(1) as u64);
    if actual > limits.max_packet_samples {
        return Err(ContainerError::PacketTooLarge {
            actual,
            max: limits.max_packet_samples,
        });
    }
    let name = codec_name(parameters.codec).ok_or_else(|| ContainerError::Unsupported {
        found: format!("this codec in a {} file", kind.name()),
    })?;
    if parameters.codec == CODEC_ID_OPUS {
        let header = parameters.extra_data.as_deref().unwrap_or_default();
        return Ok((
            Codec::Opus(Box::new(guarded(kind, || OpusStream::new(header))??)),
            name,
        ));
    }
    let decoder = guarded(kind, || {
        let registry: &CodecRegistry = symphonia::default::get_codecs();
        registry.make_audio_decoder(parameters, &AudioDecoderOptions::default())
    })?
    .map_err(|error| match error {
        Error::Unsupported(_) => ContainerError::Unsupported {
            found: format!("this kind of {name} audio"),
        },
        error => refusal(kind, error),
    })?;
    Ok((Codec::Symphonia(decoder), name))
}

fn codec_name(codec: AudioCodecId) -> Option<&'static str> {
    Some(match codec {
        CODEC_ID_FLAC => "flac",
        CODEC_ID_VORBIS => "vorbis",
        CODEC_ID_OPUS => "opus",
        CODEC_ID_MP1 => "mp1",
        CODEC_ID_MP2 => "mp2",
        CODEC_ID_MP3 => "mp3",
        CODEC_ID_AAC => "aac",
        _ => return None,
    })
}

/// Why symphonia would not open a file.
fn refusal(kind: Kind, error: Error) -> ContainerError {
    match error {
        Error::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => ContainerError::Damaged {
            format: kind.name(),
            reason: "it ends before its audio begins".to_owned(),
        },
        Error::IoError(error) => error.into(),
        Error::Unsupported(what) => ContainerError::Damaged {
            format: kind.name(),
            reason: format!("it cannot be taken apart ({what})"),
        },
        error => ContainerError::Damaged {
            format: kind.name(),
            reason: error.to_string(),
        },
    }
}

/// Runs foreign code on foreign bytes: a panic is a damaged file.
fn guarded<T>(kind: Kind, run: impl FnOnce() -> T) -> Result<T, ContainerError> {
    // What a panic leaves half done is dropped with the file: an error ends it.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| ContainerError::Damaged {
        format: kind.name(),
        reason: "the decoder gave up on it".to_owned(),
    })
}
