// When each sample was sent, so that an event about it can be timed: the page reports the same delays as the bench.

export class SendLog {
  constructor() {
    this.positions = []; // sample position after each message, growing
    this.times = []; // when it was sent, in milliseconds
  }

  note(position, time) {
    this.positions.push(position);
    this.times.push(time);
  }

  /** When the sample before `position` was sent; undefined when it was not yet. */
  timeOf(position) {
    let low = 0;
    let high = this.positions.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.positions[middle] < position) low = middle + 1;
      else high = middle;
    }
    return this.times[low];
  }

  /** Forgets what lies before `position`. */
  forget(position) {
    let count = 0;
    while (count < this.positions.length && this.positions[count] < position) count += 1;
    if (count < 1000) return;
    this.positions.splice(0, count);
    this.times.splice(0, count);
  }
}

/** The median of the newest values. */
export class RecentMedian {
  constructor(size = 25) {
    this.size = size;
    this.values = [];
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this.size) this.values.shift();
  }

  get median() {
    if (this.values.length === 0) return undefined;
    const sorted = [...this.values].sort((a, b) => a - b);
    const middle = sorted.length >> 1;
    return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }
}
