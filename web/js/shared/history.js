// Undo and redo of plain values.

export class History {
  #done = [];
  #undone = [];

  constructor(most = 200) {
    this.most = most;
  }

  /** What there was before a change. */
  keep(value) {
    const text = JSON.stringify(value);
    if (this.#done[this.#done.length - 1] === text) return;
    this.#done.push(text);
    if (this.#done.length > this.most) this.#done.shift();
    this.#undone = [];
  }

  clear() {
    this.#done = [];
    this.#undone = [];
  }

  undo(now) {
    return this.#step(this.#done, this.#undone, now);
  }

  redo(now) {
    return this.#step(this.#undone, this.#done, now);
  }

  #step(from, to, now) {
    if (!from.length) return null;
    to.push(JSON.stringify(now));
    return JSON.parse(from.pop());
  }
}
