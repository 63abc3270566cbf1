//! Opus packets, as Ogg and WebM carry them, to samples at 48 kHz.
//!
//! The stream's header (RFC 7845, section 5.1) says the channels, how many samples at the beginning belong to no one
//! (`pre-skip`), and a gain.

use opus_pure::{OpusDecoder, OpusMSDecoder};

use super::ContainerError;

/// Opus decodes to this rate; lower ones would save nothing that matters here.
pub(super) const RATE_HZ: u32 = 48_000;
/// The longest packet: 120 ms.
const MAX_PACKET_SAMPLES: usize = 5_760;
/// Opus streams, and how many of them are stereo, for 1 to 8 channels in the order of Vorbis (RFC 7845, 5.1.1.2).
const VORBIS_STREAMS: [(u8, u8); 8] = [(1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (4, 3), (5, 3)];

/// Decodes one stream.
pub(super) struct OpusStream {
    decoder: Decoder,
    channels: u16,
    gain: f32,
    /// Samples of one channel still to drop.
    skip: usize,
    pcm: Vec<f32>,
}

enum Decoder {
    Single(Box<OpusDecoder>),
    Multi(OpusMSDecoder),
}

impl OpusStream {
    /// Makes a decoder from the identification header.
    pub(super) fn new(header: &[u8]) -> Result<Self, ContainerError> {
        let damaged = |reason: &str| ContainerError::Damaged {
            format: "opus",
            reason: reason.to_owned(),
        };
        let Some((b"OpusHead", &[_, channels, s0, s1, _, _, _, _, g0, g1, family, ref mapping @ ..])) =
            header.split_first_chunk::<8>()
        else {
            return Err(damaged("its header is not one of Opus"));
        };
        let standard_streams = VORBIS_STREAMS.get(usize::from(channels).wrapping_sub(1));
        let rate_hz = RATE_HZ as i32;
        let decoder = match (family, channels, mapping) {
            (0, 1 | 2, _) => OpusDecoder::new(rate_hz, usize::from(channels))
                .map(Box::new)
                .map(Decoder::Single),
            (1, _, &[streams, coupled, ..]) if standard_streams == Some(&(streams, coupled)) => {
                OpusMSDecoder::new(rate_hz, usize::from(channels), family).map(Decoder::Multi)
            }
            _ => {
                let found = format!("Opus with {channels} channels in mapping {family}");
                return Err(ContainerError::Unsupported { found });
            }
        }
        .map_err(|error| damaged(&error.to_string()))?;
        let gain_db = f32::from(i16::from_le_bytes([g0, g1])) / 256.0;
        Ok(Self {
            decoder,
            channels: u16::from(channels),
            gain: 10f32.powf(gain_db / 20.0),
            skip: usize::from(u16::from_le_bytes([s0, s1])),
            pcm: vec![0.0; MAX_PACKET_SAMPLES * usize::from(channels)],
        })
    }

    /// Channels of the stream.
    pub(super) fn channels(&self) -> u16 {
        self.channels
    }

    /// Decodes a packet and drops `trim_end` samples off its end: `(samples, channels) f32`. None: the packet is
    /// damaged.
    pub(super) fn decode(&mut self, packet: &[u8], trim_end: usize) -> Option<&[f32]> {
        if packet.is_empty() {
            return None;
        }
        let decoded = match &mut self.decoder {
            Decoder::Single(decoder) => decoder.decode(packet, MAX_PACKET_SAMPLES, &mut self.pcm),
            Decoder::Multi(decoder) => decoder.decode(packet, MAX_PACKET_SAMPLES, &mut self.pcm),
        };
        let end = decoded.ok()?.saturating_sub(trim_end);
        let start = self.skip.min(end);
        self.skip -= start;
        let channels = usize::from(self.channels);
        let samples = self.pcm.get_mut(start * channels..end * channels)?;
        if self.gain != 1.0 {
            samples.iter_mut().for_each(|sample| *sample *= self.gain);
        }
        Some(samples)
    }
}
