// Runs on the audio thread: mixes the microphone's channels, rounds to 16 bits and hands over chunks of about 20 ms
// with their level. The rate is the AudioContext's own: the server resamples better than a page should.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    const quantum = 128;
    this.chunk = new Int16Array(quantum * Math.max(1, Math.round((sampleRate * 0.02) / quantum)));
    this.filled = 0;
    this.resetLevel();
    this.port.onmessage = () => {
      // The page stops: what is in the chunk belongs to the last word.
      this.post();
      this.port.postMessage({ ended: true });
      this.stopped = true;
    };
  }

  resetLevel() {
    this.peak = 0;
    this.energy = 0;
    this.clipped = 0;
  }

  post() {
    if (this.filled === 0) return;
    const samples = this.chunk.slice(0, this.filled);
    const rms = Math.sqrt(this.energy / this.filled);
    this.port.postMessage({ samples, peak: this.peak, rms, clipped: this.clipped }, [samples.buffer]);
    this.filled = 0;
    this.resetLevel();
  }

  process(inputs) {
    if (this.stopped) return false;
    const channels = inputs[0];
    if (channels.length === 0) return true;
    for (let i = 0; i < channels[0].length; i += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      const value = sum / channels.length;
      const size = Math.abs(value);
      if (size > this.peak) this.peak = size;
      if (size >= 0.999) this.clipped += 1;
      this.energy += value * value;
      this.chunk[this.filled] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      this.filled += 1;
      if (this.filled === this.chunk.length) this.post();
    }
    return true;
  }
}

registerProcessor('waxwing-capture', Capture);
