// The audio of one run, kept so that a line can be heard again and so that a dropped connection can be resumed
// without losing a word. Samples are 16-bit mono at `rateHz`; positions are counted from the first sample.
//
// Recent samples stay in memory; what the server has finished with is folded into Blobs, which the browser may keep
// on disk, so an hour of speech does not fill the memory of the page.

const FOLD_SECONDS = 10;

export class Recording {
  /** @param {number} rateHz samples per second */
  constructor(rateHz) {
    this.rateHz = rateHz;
    this.length = 0;
    this.chunks = []; // { start, samples: Int16Array } still in memory, in order
    this.blobs = []; // { start, end, blob } folded, in order
  }

  get seconds() {
    return this.length / this.rateHz;
  }

  /** Appends samples; the array is kept, not copied. */
  append(samples) {
    if (samples.length === 0) return;
    this.chunks.push({ start: this.length, samples });
    this.length += samples.length;
  }

  /** At most `max` samples from position `from` on; empty at the end. Samples that were released cannot be read. */
  read(from, max) {
    const index = this.indexOf(from);
    if (index < 0) return new Int16Array(0);
    const first = this.chunks[index];
    const offset = from - first.start;
    if (first.samples.length - offset >= max) return first.samples.subarray(offset, offset + max);
    const out = new Int16Array(Math.min(max, this.length - from));
    let filled = 0;
    for (let i = index; i < this.chunks.length && filled < out.length; i += 1) {
      const { start, samples } = this.chunks[i];
      const skip = Math.max(0, from - start);
      const part = samples.subarray(skip, skip + out.length - filled);
      out.set(part, filled);
      filled += part.length;
    }
    return out;
  }

  /** The first position that `read` can still give. */
  get firstReadable() {
    return this.chunks.length > 0 ? this.chunks[0].start : this.length;
  }

  /** Folds whole chunks before `position` away, ten seconds at a time. */
  release(position) {
    let count = 0;
    let samples = 0;
    while (count < this.chunks.length) {
      const chunk = this.chunks[count];
      if (chunk.start + chunk.samples.length > position) break;
      samples += chunk.samples.length;
      count += 1;
    }
    if (samples < FOLD_SECONDS * this.rateHz) return;
    const folded = this.chunks.splice(0, count);
    const start = folded[0].start;
    this.blobs.push({ start, end: start + samples, blob: new Blob(folded.map((chunk) => littleEndian(chunk.samples))) });
  }

  /** Forgets what comes after `position`. */
  truncate(position) {
    while (this.chunks.length > 0 && this.chunks.at(-1).start >= position) this.chunks.pop();
    const last = this.chunks.at(-1);
    if (last && last.start + last.samples.length > position) last.samples = last.samples.subarray(0, position - last.start);
    this.length = Math.min(this.length, position);
  }

  /** A WAV file of the seconds from `start` to `end`. */
  wav(start, end) {
    const from = Math.max(0, Math.floor(start * this.rateHz));
    const to = Math.min(this.length, Math.ceil(end * this.rateHz));
    const parts = [];
    let bytes = 0;
    const add = (part, size) => {
      parts.push(part);
      bytes += size;
    };
    for (const { start: first, end: last, blob } of this.blobs) {
      const a = Math.max(from, first);
      const b = Math.min(to, last);
      if (a < b) add(blob.slice((a - first) * 2, (b - first) * 2), (b - a) * 2);
    }
    for (const { start: first, samples } of this.chunks) {
      const a = Math.max(from, first);
      const b = Math.min(to, first + samples.length);
      if (a < b) add(littleEndian(samples.subarray(a - first, b - first)), (b - a) * 2);
    }
    return new Blob([wavHeader(this.rateHz, bytes), ...parts], { type: 'audio/wav' });
  }

  /** Index of the chunk that holds `position`, or -1. */
  indexOf(position) {
    let low = 0;
    let high = this.chunks.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const { start, samples } = this.chunks[middle];
      if (position < start) high = middle - 1;
      else if (position >= start + samples.length) low = middle + 1;
      else return middle;
    }
    return -1;
  }
}

const HOST_IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** The bytes of `samples` in the order that the wire and WAV want. */
export function littleEndian(samples) {
  if (HOST_IS_LITTLE_ENDIAN) return samples;
  const view = new DataView(new ArrayBuffer(samples.length * 2));
  samples.forEach((value, index) => view.setInt16(index * 2, value, true));
  return view;
}

/** The 44 bytes before `dataBytes` bytes of 16-bit mono PCM. */
export function wavHeader(rateHz, dataBytes) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (offset, value) => [...value].forEach((letter, index) => view.setUint8(offset + index, letter.charCodeAt(0)));
  text(0, 'RIFF');
  view.setUint32(4, 36 + dataBytes, true);
  text(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rateHz, true);
  view.setUint32(28, rateHz * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, 'data');
  view.setUint32(40, dataBytes, true);
  return view.buffer;
}

/** Floating-point samples of one or more channels, mixed to one and rounded to 16 bits. */
export function toInt16(channels) {
  const length = channels[0].length;
  const out = new Int16Array(length);
  for (let i = 0; i < length; i += 1) {
    let sum = 0;
    for (const channel of channels) sum += channel[i];
    const value = Math.round((sum / channels.length) * 32768);
    out[i] = value > 32767 ? 32767 : value < -32768 ? -32768 : value;
  }
  return out;
}
