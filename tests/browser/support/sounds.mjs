// The recordings that the tests speak: LibriVox sentences from Debian's pocketsphinx-testdata, 16 kHz WAV.

import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { wavHeader } from '../../../web/recording.js';

const LIBRIVOX = '/usr/share/pocketsphinx/test/data/librivox';
const RATE = 16_000;

/** The clips' names, in the order of the book. */
export const CLIPS = ['0870', '0880', '0890', '0920', '0930'];

export const clipPath = (name) => `${LIBRIVOX}/sense_and_sensibility_01_austen_64kb-${name}.wav`;

/** What was read in the clips, in lower case. */
export async function wordsOf(names) {
  const table = await readFile(`${LIBRIVOX}/transcription`, 'utf8');
  return names.flatMap((name) => {
    const line = table.split('\n').find((each) => each.includes(`-${name})`));
    return line.replace(/<\/?s>|\(.*\)/g, ' ').trim().split(/\s+/);
  });
}

/** One WAV file of several clips with `gap` seconds of silence before, between and after. */
export async function join16k(names, gap = 1) {
  const silence = Buffer.alloc(Math.round(gap * RATE) * 2);
  const parts = [silence];
  for (const name of names) parts.push((await readFile(clipPath(name))).subarray(44), silence);
  const sound = Buffer.concat(parts);
  const path = join(await mkdtemp(join(tmpdir(), 'waxwing-sound-')), 'speech.wav');
  await writeFile(path, Buffer.concat([Buffer.from(wavHeader(RATE, sound.length)), sound]));
  return path;
}

/** Word errors between a hypothesis and what was read, as a fraction of the words read. */
export function wordErrorRate(reference, hypothesis) {
  let row = hypothesis.map((_, index) => index + 1);
  row.unshift(0);
  for (const [i, word] of reference.entries()) {
    const next = [i + 1];
    for (const [j, heard] of hypothesis.entries()) {
      next.push(Math.min(row[j] + (word === heard ? 0 : 1), row[j + 1] + 1, next[j] + 1));
    }
    row = next;
  }
  return row.at(-1) / reference.length;
}
