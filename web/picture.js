// The live picture: a spectrogram of the last seconds with the recognised words under the sounds that they were
// heard in. It draws only when something changed, and nothing is drawn that the text below does not say, so it is
// one image to a screen reader.

import { BANDS, COLUMNS_PER_SECOND } from './spectrum.js';

const PIXELS_PER_SECOND = 120;
const WORDS_HEIGHT = 46;
const FONT = '13px system-ui, sans-serif';
const MAX_COLUMNS = 30 * 60 * COLUMNS_PER_SECOND; // half an hour, about 9 MB

export class Picture {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.strip = document.createElement('canvas');
    this.columns = []; // Uint8Array(BANDS) each
    this.dropped = 0; // columns before the first kept one
    this.words = []; // { text, start, end, row }
    this.partial = [];
    this.playhead = undefined; // seconds, while a line is heard
    this.readColours();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      this.readColours();
      this.redraw();
    });
    new ResizeObserver(() => this.redraw()).observe(canvas);
    this.redraw();
  }

  get seconds() {
    return (this.dropped + this.columns.length) / COLUMNS_PER_SECOND;
  }

  addColumns(columns) {
    for (const column of columns) this.columns.push(column);
    if (this.columns.length > MAX_COLUMNS * 1.1) {
      this.dropped += this.columns.length - MAX_COLUMNS;
      this.columns.splice(0, this.columns.length - MAX_COLUMNS);
      const kept = this.dropped / COLUMNS_PER_SECOND;
      this.words = this.words.filter((word) => word.end > kept);
    }
    this.redraw();
  }

  /** Leaves room for sound that the page has not seen. */
  skip(seconds) {
    const blank = new Uint8Array(BANDS);
    this.addColumns(Array.from({ length: Math.round(seconds * COLUMNS_PER_SECOND) }, () => blank));
  }

  addWords(words) {
    this.words.push(...this.inRows(words));
    this.redraw();
  }

  setPartial(words) {
    this.partial = this.inRows(words);
    this.redraw();
  }

  /** Words with the row that each is written in: a word keeps its own while the picture moves. */
  inRows(words) {
    const last = this.words.at(-1)?.row ?? 1;
    return words.map((word, index) => ({ ...word, row: (last + 1 + index) % 2 }));
  }

  /** Shows the surroundings of `seconds` with a line there; undefined goes back to the newest sound. */
  setPlayhead(seconds) {
    this.playhead = seconds;
    this.redraw();
  }

  clear() {
    this.columns = [];
    this.dropped = 0;
    this.words = [];
    this.partial = [];
    this.redraw();
  }

  readColours() {
    const style = getComputedStyle(this.canvas);
    const value = (name) => style.getPropertyValue(name).trim();
    this.colours = {
      ink: value('--ink'), dim: value('--dim'), line: value('--line'), accent: value('--accent'), ground: value('--picture-ground'),
    };
    this.palette = ramp(['--picture-0', '--picture-1', '--picture-2', '--picture-3'].map(value));
  }

  redraw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  draw() {
    const { canvas, context, colours } = this;
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (width === 0) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.fillStyle = colours.ground;
    context.fillRect(0, 0, width, height);

    if (this.columns.length === 0) {
      context.font = FONT;
      context.fillStyle = colours.dim;
      context.textAlign = 'center';
      context.textBaseline = 'middle';
      context.fillText('Here your speech is drawn, with each word under its sound', width / 2, height / 2, width - 24);
      context.textAlign = 'start';
      return;
    }
    const shown = width / PIXELS_PER_SECOND;
    const end = this.playhead === undefined
      ? Math.max(shown, this.seconds)
      : Math.max(shown, Math.min(Math.max(shown, this.seconds), this.playhead + shown / 2));
    const begin = end - shown;
    const x = (seconds) => (seconds - begin) * PIXELS_PER_SECOND;
    const soundHeight = height - WORDS_HEIGHT;
    this.drawSound(begin, shown, width, soundHeight);
    this.drawSeconds(begin, end, x, soundHeight);
    this.drawWords(x, begin, end, soundHeight, height);
    if (this.playhead !== undefined) {
      context.fillStyle = colours.accent;
      context.fillRect(x(this.playhead) - 1, 0, 2, height);
    }
  }

  drawSound(begin, shown, width, height) {
    const count = Math.ceil(shown * COLUMNS_PER_SECOND);
    const { strip, columns, palette } = this;
    if (strip.width !== count || strip.height !== BANDS) {
      strip.width = count;
      strip.height = BANDS;
    }
    const context = strip.getContext('2d');
    const image = context.createImageData(count, BANDS);
    const pixels = new Uint32Array(image.data.buffer);
    const first = Math.round(begin * COLUMNS_PER_SECOND) - this.dropped;
    for (let i = 0; i < count; i += 1) {
      const column = columns[first + i];
      if (!column) continue;
      for (let band = 0; band < BANDS; band += 1) pixels[(BANDS - 1 - band) * count + i] = palette[column[band]];
    }
    context.putImageData(image, 0, 0);
    this.context.imageSmoothingEnabled = true;
    this.context.drawImage(strip, 0, 0, width, height);
  }

  drawSeconds(begin, end, x, height) {
    const { context, colours } = this;
    context.font = '11px system-ui, sans-serif';
    context.textBaseline = 'top';
    context.fillStyle = colours.dim;
    for (let second = Math.ceil(begin); second < end; second += 1) {
      context.globalAlpha = 0.35;
      context.fillRect(x(second), height - 4, 1, 4);
      context.globalAlpha = 1;
      if (second % 5 === 0 && second > 0) context.fillText(`${second} s`, x(second) + 4, 4);
    }
  }

  drawWords(x, begin, end, top, height) {
    const { context, colours } = this;
    context.font = FONT;
    context.textBaseline = 'middle';
    const visible = (word) => word.end > begin - 1 && word.start < end;
    const all = [
      ...this.words.filter(visible).map((word) => ({ ...word, colour: colours.ink })),
      ...this.partial.filter(visible).map((word) => ({ ...word, colour: colours.dim })),
    ];
    // Short words follow each other faster than their letters have room: two rows, taken in turn.
    const rowHeight = (height - top - 6) / 2;
    all.forEach(({ text, start, end: until, colour, row }, index) => {
      const left = x(start);
      // The boundary through the sound, and the span that the model heard the word in.
      context.fillStyle = colours.ink;
      context.globalAlpha = 0.22;
      context.fillRect(left, 0, 1, top);
      context.globalAlpha = 1;
      context.fillStyle = colour;
      context.fillRect(left, top + 2, Math.max(3, (until - start) * PIXELS_PER_SECOND - 2), 2);
      const next = all.slice(index + 1).find((word) => word.row === row)?.start ?? Infinity;
      const label = fitted(context, text, (next - start) * PIXELS_PER_SECOND - 6);
      context.fillText(label, left, top + 6 + rowHeight * (row + 0.5));
    });
  }
}

/** The text, or as much of it as `room` pixels hold. */
function fitted(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  for (let length = text.length - 1; length > 0; length -= 1) {
    const cut = `${text.slice(0, length)}…`;
    if (context.measureText(cut).width <= room) return cut;
  }
  return '';
}

/** 256 colours between the given `#rrggbb` ones, as little-endian pixels. */
function ramp(stops) {
  const rgb = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const position = (i / 255) * (rgb.length - 1);
    const low = Math.min(rgb.length - 2, Math.floor(position));
    const [r, g, b] = rgb[low].map((value, channel) => Math.round(value + (rgb[low + 1][channel] - value) * (position - low)));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}
