// Samples to picture columns: 100 a second, each 48 mel bands from low to high as bytes of loudness.

export const BANDS = 48;
export const COLUMNS_PER_SECOND = 100;
const LOWEST_HZ = 80;
const HIGHEST_HZ = 7600;
const FLOOR_DB = -88;
const CEILING_DB = -28;

const mel = (hertz) => 1127 * Math.log1p(hertz / 700);
const hertz = (mels) => 700 * Math.expm1(mels / 1127);

export class Spectrum {
  /** @param {number} rateHz samples per second */
  constructor(rateHz) {
    this.hop = rateHz / COLUMNS_PER_SECOND; // may be fractional: 11025 Hz
    this.size = 2 ** Math.ceil(Math.log2(rateHz * 0.025));
    this.window = Float32Array.from({ length: this.size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / this.size));
    this.fft = new Fft(this.size);
    this.edges = bandEdges(rateHz, this.size);
    this.history = new Float32Array(this.size); // the newest samples, as a ring
    this.written = 0;
    this.columns = 0;
    this.real = new Float32Array(this.size);
    this.imaginary = new Float32Array(this.size);
  }

  /** The columns that 16-bit `samples` complete, one after the other. */
  push(samples) {
    const out = [];
    let next = Math.round((this.columns + 1) * this.hop);
    for (const sample of samples) {
      this.history[this.written % this.size] = sample / 32768;
      this.written += 1;
      if (this.written === next) {
        out.push(this.column());
        this.columns += 1;
        next = Math.round((this.columns + 1) * this.hop);
      }
    }
    return out;
  }

  column() {
    const { size, history, window, real, imaginary, edges } = this;
    for (let i = 0; i < size; i += 1) {
      real[i] = history[(this.written + i) % size] * window[i];
      imaginary[i] = 0;
    }
    this.fft.transform(real, imaginary);
    const column = new Uint8Array(BANDS);
    for (let band = 0; band < BANDS; band += 1) {
      let loudest = 0;
      for (let bin = edges[band]; bin < edges[band + 1]; bin += 1) {
        loudest = Math.max(loudest, real[bin] * real[bin] + imaginary[bin] * imaginary[bin]);
      }
      const decibels = 10 * Math.log10(loudest / (size * size / 16) + 1e-12);
      column[band] = Math.max(0, Math.min(255, Math.round(((decibels - FLOOR_DB) / (CEILING_DB - FLOOR_DB)) * 255)));
    }
    return column;
  }
}

/** First bin of each band and, last, the end; every band has at least one bin. */
function bandEdges(rateHz, size) {
  const highest = Math.min(HIGHEST_HZ, rateHz / 2);
  const step = (mel(highest) - mel(LOWEST_HZ)) / BANDS;
  const edges = Array.from({ length: BANDS + 1 }, (_, i) => Math.round((hertz(mel(LOWEST_HZ) + i * step) * size) / rateHz));
  for (let i = 1; i < edges.length; i += 1) edges[i] = Math.max(edges[i], edges[i - 1] + 1);
  return edges;
}

/** The radix-2 transform in place, for one power of two. */
export class Fft {
  constructor(size) {
    this.size = size;
    const bits = Math.log2(size);
    this.reversed = Uint32Array.from({ length: size }, (_, i) => {
      let out = 0;
      for (let bit = 0; bit < bits; bit += 1) out |= ((i >> bit) & 1) << (bits - 1 - bit);
      return out;
    });
    this.cosine = Float32Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sine = Float32Array.from({ length: size / 2 }, (_, i) => -Math.sin((2 * Math.PI * i) / size));
  }

  transform(real, imaginary) {
    const { size, reversed, cosine, sine } = this;
    for (let i = 0; i < size; i += 1) {
      const j = reversed[i];
      if (i < j) {
        [real[i], real[j]] = [real[j], real[i]];
        [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
      }
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k += 1) {
          const low = start + k;
          const high = low + half;
          const c = cosine[k * stride];
          const s = sine[k * stride];
          const r = real[high] * c - imaginary[high] * s;
          const m = real[high] * s + imaginary[high] * c;
          real[high] = real[low] - r;
          imaginary[high] = imaginary[low] - m;
          real[low] += r;
          imaginary[low] += m;
        }
      }
    }
  }
}
