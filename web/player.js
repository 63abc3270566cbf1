// Lets a line be heard again: one voice at a time.

export class Player {
  /** `onTime(seconds)` follows the playing, in page time; `onEnd()` comes once for every `play`. */
  constructor({ onTime, onEnd }) {
    this.onTime = onTime;
    this.onEnd = onEnd;
    this.audio = null;
  }

  /** Plays the seconds from `from` to `to` of `blob`, whose first sample is at `start` seconds of the page.
   *  Gives false where the browser cannot play it. */
  async play(blob, start, from = 0, to = Infinity) {
    this.stop();
    const url = URL.createObjectURL(blob);
    const audio = new Audio(url);
    this.audio = audio;
    const over = () => { if (this.audio === audio) this.stop(); };
    this.release = () => URL.revokeObjectURL(url);
    audio.onended = over;
    audio.onerror = over;
    const follow = () => {
      if (this.audio !== audio) return;
      if (audio.currentTime >= to) {
        this.stop();
        return;
      }
      this.onTime(start + audio.currentTime);
      requestAnimationFrame(follow);
    };
    try {
      if (from > 0) audio.currentTime = from;
      await audio.play();
      follow();
      return true;
    } catch {
      const interrupted = this.audio !== audio;
      over();
      return interrupted;
    }
  }

  stop() {
    if (!this.audio) return;
    this.audio.pause();
    this.audio = null;
    this.release();
    this.onEnd();
  }
}
