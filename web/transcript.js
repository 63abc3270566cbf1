// The text so far: finals, which never change, and the one partial that may. Pure data; the page draws it.

export class Transcript {
  constructor() {
    this.lines = []; // { id, run, start, end, text, words, confidence, delay }
    this.partial = null; // { start, end, stable, open }
    this.nextId = 1;
  }

  /** Takes a partial whose times are seconds on the page. An empty one removes the last. */
  setPartial(event) {
    const words = (event.text ?? '').split(/\s+/).filter((word) => word !== '');
    if (words.length === 0) {
      this.partial = null;
      return;
    }
    const count = Math.max(0, Math.min(event.stable_words ?? 0, words.length));
    this.partial = {
      start: event.start,
      end: event.end,
      stable: words.slice(0, count).join(' '),
      open: words.slice(count).join(' '),
      words: event.words ?? [],
    };
  }

  /** Takes a final and gives its line, or null when it has no words. The partial becomes it. */
  addFinal(event, { run, delay } = {}) {
    this.partial = null;
    const text = (event.formatted ?? event.text ?? '').trim();
    if (text === '') return null;
    const line = {
      id: this.nextId,
      run,
      start: event.start,
      end: event.end,
      text,
      // A written form has other words than were spoken, so the spoken ones' times cannot be put on it.
      words: event.formatted === undefined ? event.words ?? [] : [],
      confidence: event.confidence,
      delay,
    };
    this.nextId += 1;
    this.lines.push(line);
    return line;
  }

  get isEmpty() {
    return this.lines.length === 0;
  }

  /** Removes the finals and gives a function that puts them back, before any that came since. */
  clear() {
    const removed = this.lines;
    this.lines = [];
    return () => { this.lines = [...removed, ...this.lines]; };
  }
}

/** Seconds as `0:07`, `12:34` or `1:02:03`. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, '0');
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** A line as pieces to draw: `{ text, start?, end?, confidence? }`, one for each word where times are known. */
export function pieces(line) {
  const spoken = line.words.map((word) => word.word).join(' ');
  if (line.words.length === 0 || spoken !== line.text) return [{ text: line.text }];
  return line.words.map(({ word, start, end, confidence }) => ({ text: word, start, end, confidence }));
}

/** Words with times for a picture: the event's own or, where it has none, its text spread by letters over its span. */
export function timedWords({ words, text, start, end }) {
  if (words?.length > 0) return words.map((word) => ({ text: word.word, start: word.start, end: word.end }));
  const parts = (text ?? '').split(/\s+/).filter((word) => word !== '');
  const letters = parts.reduce((sum, word) => sum + word.length + 1, 0);
  let at = start;
  return parts.map((word) => {
    const from = at;
    at += ((end - start) * (word.length + 1)) / letters;
    return { text: word, start: from, end: at };
  });
}
