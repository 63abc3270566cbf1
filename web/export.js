// The transcript as files. Pure: lines in, text out.

const MAX_CUE_CHARACTERS = 84; // two lines of 42, as subtitles are usually set
const MAX_CUE_SECONDS = 7;
const LINE_CHARACTERS = 42;

export const formats = {
  txt: { type: 'text/plain', write: toText },
  srt: { type: 'application/x-subrip', write: toSrt },
  vtt: { type: 'text/vtt', write: toVtt },
  json: { type: 'application/json', write: toJson },
};

/** One line of text for each final. */
export function toText(lines) {
  return lines.map((line) => `${line.text}\n`).join('');
}

/** SubRip. */
export function toSrt(lines) {
  return cues(lines)
    .map((cue, index) => `${index + 1}\n${stamp(cue.start, ',')} --> ${stamp(cue.end, ',')}\n${wrap(cue.text)}\n\n`)
    .join('');
}

/** WebVTT; `-->` and markup in the text are escaped. */
export function toVtt(lines) {
  const escape = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  return `WEBVTT\n\n${cues(lines)
    .map((cue) => `${stamp(cue.start, '.')} --> ${stamp(cue.end, '.')}\n${escape(wrap(cue.text))}\n\n`)
    .join('')}`;
}

/** The shape of the server's verbose JSON: text, segments, words. */
export function toJson(lines) {
  const segments = lines.map(({ start, end, text, confidence }, id) => ({
    id, start: round(start), end: round(end), text, confidence,
  }));
  const words = lines.flatMap((line) => line.words.map(({ word, start, end, confidence }) => ({
    word, start: round(start), end: round(end), confidence,
  })));
  const duration = segments.at(-1)?.end ?? 0;
  return `${JSON.stringify({ text: lines.map((line) => line.text).join(' '), duration, segments, words }, null, 2)}\n`;
}

/** Lines cut to the size of subtitles, at words, where their times are known. */
export function cues(lines) {
  const out = [];
  for (const line of lines) {
    const fits = line.text.length <= MAX_CUE_CHARACTERS && line.end - line.start <= MAX_CUE_SECONDS;
    if (fits || line.words.length === 0) {
      out.push({ start: line.start, end: line.end, text: line.text });
      continue;
    }
    let open = null;
    for (const { word, start, end } of line.words) {
      const full = open && (open.text.length + 1 + word.length > MAX_CUE_CHARACTERS || end - open.start > MAX_CUE_SECONDS);
      if (full) {
        out.push(open);
        open = null;
      }
      open = open ? { start: open.start, end, text: `${open.text} ${word}` } : { start, end, text: word };
    }
    if (open) out.push(open);
  }
  return out;
}

/** Two lines of about the same length where one would be too long. */
function wrap(text) {
  if (text.length <= LINE_CHARACTERS) return text;
  const middle = text.length / 2;
  let best = -1;
  for (let i = text.indexOf(' '); i >= 0; i = text.indexOf(' ', i + 1)) {
    if (best < 0 || Math.abs(i - middle) < Math.abs(best - middle)) best = i;
  }
  return best < 0 ? text : `${text.slice(0, best)}\n${text.slice(best + 1)}`;
}

function stamp(seconds, point) {
  const total = Math.max(0, Math.round(seconds * 1000));
  const two = (value) => String(value).padStart(2, '0');
  const milliseconds = String(total % 1000).padStart(3, '0');
  return `${two(Math.floor(total / 3_600_000))}:${two(Math.floor(total / 60_000) % 60)}:${two(Math.floor(total / 1000) % 60)}${point}${milliseconds}`;
}

const round = (seconds) => Math.round(seconds * 1000) / 1000;
