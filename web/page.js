// The parts of the page that several modules work on, made once.

import { Picture } from './picture.js';
import { Transcript } from './transcript.js';
import { byId, Notice, RawEvents, TranscriptView } from './view.js';

export const transcript = new Transcript();
export const picture = new Picture(byId('picture'));
export const notice = new Notice();
export const raw = new RawEvents();
export const view = new TranscriptView();
