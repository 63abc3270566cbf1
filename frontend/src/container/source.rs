//! The bytes of a file, with their length, a limit and a deadline.

use std::io::{self, Read, Seek, SeekFrom};
use std::time::Instant;

use symphonia::core::io::MediaSource;

use super::{ContainerError, DecodeLimits};

/// What a file is read from.
pub(super) trait ReadSeek: Read + Seek + Send + Sync {}

impl<T: Read + Seek + Send + Sync> ReadSeek for T {}

/// A file of known length. A read past the deadline fails, so that no reader, ours or symphonia's, can be kept busy
/// by what a file says.
pub(super) struct Source {
    inner: Box<dyn ReadSeek>,
    /// Where the file begins for its readers: after a tag that stands in front of it.
    start: u64,
    length: u64,
    /// Show symphonia a stream without an end: its readers of WebM and M4A refuse a file whose declared length is not
    /// reached, and read what is there of a stream.
    endless: bool,
    deadline: Option<Instant>,
}

impl Source {
    pub(super) fn new(mut inner: Box<dyn ReadSeek>, limits: &DecodeLimits) -> Result<Self, ContainerError> {
        let length = inner.seek(SeekFrom::End(0))?;
        inner.rewind()?;
        match length {
            0 => Err(ContainerError::Empty),
            length if length > limits.max_bytes => Err(ContainerError::TooManyBytes {
                max_bytes: limits.max_bytes,
            }),
            length => Ok(Self {
                inner,
                start: 0,
                length,
                endless: false,
                deadline: limits.deadline,
            }),
        }
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Hides the length and the ability to seek from symphonia.
    pub(super) fn hide_end(&mut self) {
        self.endless = true;
    }

    /// Takes `bytes` off the front and goes to what is then the beginning.
    pub(super) fn cut_front(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.min(self.length);
        self.start += bytes;
        self.length -= bytes;
        self.rewind()
    }

    /// Reads until `buffer` is full or the file ends; how many bytes.
    pub(super) fn read_up_to(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "decoding took longer than allowed",
            )),
            _ => self.inner.read(buffer),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let position = match position {
            SeekFrom::Start(offset) => SeekFrom::Start(self.start.saturating_add(offset)),
            relative => relative,
        };
        let reached = self.inner.seek(position)?;
        reached
            .checked_sub(self.start)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        !self.endless
    }

    fn byte_len(&self) -> Option<u64> {
        (!self.endless).then_some(self.length)
    }
}
