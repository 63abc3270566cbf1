// How loud the microphone is, and what to say about it.

const FLOOR_DB = -60;
const NOTHING_DB = -65; // a live microphone in a quiet room is above this
const QUIET_DB = -38; // peaks of speech that is too far away
const CLIPPED_SAMPLES = 8; // within the clipping memory: one loud plosive is not worth a remark
const PATIENCE_SECONDS = 4;
const CLIPPING_MEMORY_SECONDS = 2;

const decibels = (value) => (value > 0 ? 20 * Math.log10(value) : -120);

export class Level {
  constructor() {
    this.shown = 0; // 0 to 1: falls slower than it rises, as meters do
    this.seconds = 0;
    this.recent = []; // { age, peak, clipped } of the last seconds
  }

  /** Takes the level of a chunk of `seconds` and gives `{ level: 0…1, hint }`, the hint one of
   *  undefined, 'clipping', 'silence', 'quiet'. */
  update({ peak, rms, clipped }, seconds) {
    this.seconds += seconds;
    const target = Math.min(1, Math.max(0, 1 - decibels(rms * Math.SQRT2) / FLOOR_DB));
    const fall = Math.exp(-seconds / 0.25);
    this.shown = target > this.shown ? target : target + (this.shown - target) * fall;

    for (const chunk of this.recent) chunk.age += seconds;
    this.recent = this.recent.filter((chunk) => chunk.age < PATIENCE_SECONDS);
    this.recent.push({ age: 0, peak, clipped });

    return { level: this.shown, hint: this.hint() };
  }

  hint() {
    let clipped = 0;
    let peak = 0;
    for (const chunk of this.recent) {
      peak = Math.max(peak, chunk.peak);
      if (chunk.age < CLIPPING_MEMORY_SECONDS) clipped += chunk.clipped;
    }
    if (clipped >= CLIPPED_SAMPLES) return 'clipping';
    if (this.seconds < PATIENCE_SECONDS) return undefined;
    if (decibels(peak) < NOTHING_DB) return 'silence';
    if (decibels(peak) < QUIET_DB) return 'quiet';
    return undefined;
  }
}
