// Draws: finals as lines, the partial, notices, toasts, the raw events. It decides nothing.

import { clock, pieces } from './transcript.js';

export const byId = (id) => document.getElementById(id);

const NEAR_BOTTOM_PIXELS = 64;
const UNSURE_BELOW = 0.6;
const TOAST_MS = 10_000;
const MAX_RAW_EVENTS = 500;

/** An element with a class, text and attributes. */
export function make(tag, { className, text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The transcript's box: it follows the newest line only while the reader is at the bottom. */
export class TranscriptView {
  constructor() {
    this.scroll = byId('scroll');
    this.log = byId('log');
    this.newest = byId('newest');
    this.onPlay = () => {}; // called with the line that is to be heard
    this.elements = new Map(); // line id → { element, words }
    this.scroll.addEventListener('scroll', () => this.showNewest(), { passive: true });
    this.newest.addEventListener('click', () => {
      this.toBottom();
      this.scroll.focus();
    });
  }

  get nearBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    return scrollHeight - scrollTop - clientHeight <= NEAR_BOTTOM_PIXELS;
  }

  toBottom() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
    this.newest.hidden = true;
  }

  showNewest() {
    this.newest.hidden = this.nearBottom;
  }

  /** Runs a change and then keeps the bottom in view, if it was. */
  keeping(change) {
    const follow = this.nearBottom;
    change();
    if (follow) this.toBottom();
    else this.showNewest();
  }

  add(line) {
    this.keeping(() => this.log.append(this.element(line)));
    byId('empty').hidden = true;
  }

  /** Draws all lines anew: after clearing and undoing. */
  replace(lines) {
    this.elements.clear();
    this.log.replaceChildren(...lines.map((line) => this.element(line)));
    byId('empty').hidden = lines.length > 0;
    this.toBottom();
  }

  element(line) {
    const time = make('button', { className: 'time', type: 'button', text: `▶ ${clock(line.start)}`, 'aria-label': `Hear the line at ${clock(line.start)}` });
    const text = make('span', { className: 'text' });
    const words = pieces(line).map((piece, index) => {
      const word = make('span', { text: piece.text });
      if (piece.confidence < UNSURE_BELOW) {
        word.className = 'unsure';
        word.title = `confidence ${Math.round(piece.confidence * 100)} %`;
      }
      if (index > 0) text.append(' ');
      text.append(word);
      return { word, start: piece.start, end: piece.end };
    });
    const element = make('div', { className: 'line', 'data-line': line.id, 'data-heard': '' }, time, text);
    if (line.delay !== undefined) {
      element.append(make('span', { className: 'delay', text: `${line.delay.toFixed(1)} s`, title: 'from the end of the last word to this line' }));
    }
    element.addEventListener('click', () => {
      // Someone who selects text wants the text.
      if (getSelection().isCollapsed) this.onPlay(line);
    });
    this.elements.set(line.id, { element, words });
    return element;
  }

  setPartial(partial) {
    this.keeping(() => {
      byId('partial').hidden = partial === null;
      if (partial === null) return;
      byId('empty').hidden = true;
      byId('partial-time').textContent = clock(partial.start);
      byId('partial-stable').textContent = partial.stable;
      byId('partial-open').textContent = partial.open;
    });
  }

  /** Marks the line that is heard, and in it the word at `seconds`. */
  markPlaying(line, seconds) {
    const { element, words } = this.elements.get(line.id) ?? {};
    element?.classList.add('playing');
    for (const { word, start, end } of words ?? []) word.classList.toggle('spoken', seconds >= start && seconds < end);
  }

  clearPlaying() {
    for (const { element, words } of this.elements.values()) {
      element.classList.remove('playing');
      for (const { word } of words) word.classList.remove('spoken');
    }
  }
}

/** One notice above everything: a problem and what can be done. */
export class Notice {
  constructor() {
    this.box = byId('alerts');
  }

  /** Shows `{ title, text }` and buttons `{ label, run }`; gives the text's element, for countdowns. */
  show({ title, text, quiet = false, dismissable = true, buttons = [] }) {
    const sentence = make('p', { text });
    const notice = make('div', { className: quiet ? 'notice quiet' : 'notice' }, make('div', { className: 'words' }, make('strong', { text: title }), sentence));
    // A countdown that changes each second must not be read out each second.
    const countdown = make('span', { 'aria-live': 'off' });
    sentence.append(' ', countdown);
    for (const { label, run } of buttons) {
      const button = make('button', { className: 'plain', type: 'button', text: label });
      button.addEventListener('click', run);
      notice.append(button);
    }
    if (dismissable) {
      const close = make('button', { className: 'plain', type: 'button', text: 'Dismiss' });
      close.addEventListener('click', () => this.hide());
      notice.append(close);
    }
    this.box.replaceChildren(notice);
    return countdown;
  }

  hide() {
    this.box.replaceChildren();
  }
}

/** A short remark at the bottom that goes by itself, with at most one button. */
export function toast(text, button) {
  const box = byId('toasts');
  const element = make('div', { className: 'toast' }, make('span', { text }));
  const remove = () => {
    clearTimeout(timer);
    element.remove();
  };
  const timer = setTimeout(() => {
    element.remove();
    button?.expired?.();
  }, button ? TOAST_MS : TOAST_MS / 3);
  if (button) {
    const action = make('button', { type: 'button', text: button.label });
    action.addEventListener('click', () => {
      remove();
      button.run();
    });
    element.append(action);
  }
  box.replaceChildren(element);
}

/** The raw events, drawn only while the pane is open. */
export class RawEvents {
  constructor() {
    this.pane = byId('events');
    this.lines = [];
    this.count = 0;
    this.pane.addEventListener('toggle', () => this.draw());
  }

  add(direction, text) {
    this.count += 1;
    this.lines.push(`${direction} ${text}`);
    if (this.lines.length > MAX_RAW_EVENTS) this.lines.shift();
    if (this.scheduled) return;
    this.scheduled = true;
    setTimeout(() => {
      this.scheduled = false;
      this.draw();
    }, 100);
  }

  get text() {
    return this.lines.map((line) => `${line}\n`).join('');
  }

  draw() {
    byId('events-count').textContent = String(this.count);
    if (!this.pane.open) return;
    const box = byId('events-text');
    const follow = box.scrollHeight - box.scrollTop - box.clientHeight <= NEAR_BOTTOM_PIXELS;
    box.textContent = this.text;
    if (follow) box.scrollTop = box.scrollHeight;
  }
}
