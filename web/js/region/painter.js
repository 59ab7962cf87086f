// The region painter: boxes and free shapes over a condition's map. What it shows comes in through `show`, and every
// change is handed out as JSON.

import { button, coloursOf, enclose, isTyped, keysInput, make, makeStyle } from "../shared/elements.js";
import { History } from "../shared/history.js";
import { contains, movedShape, pointsOf, round, write } from "./shapes.js";

const NUDGE = 0.01;
const CLOSE = 0.004;
const TOOLS = {
  box: ["Box", "Draw a box"],
  free: ["Free", "Draw a shape along the pointer"],
  move: ["Move", "Move a shape"],
};

const clone = (value) => JSON.parse(JSON.stringify(value));

export class RegionPainter {
  /** @param {(text: string) => void} hand takes the JSON of what is drawn */
  constructor(hand) {
    makeStyle();
    this.hand = hand;
    this.shapes = [];
    this.selected = -1;
    this.history = new History();
    this.#build();
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.element);
    this.setTool("box");
  }

  show({ shapes }, fresh = false) {
    if (fresh) this.history.clear();
    else if (!this.unread) this.history.keep(this.shapes);
    [this.shapes, this.unread] = [shapes, false];
    this.say(shapes.length ? "" : "no shape: the condition holds everywhere, or in the mask that is connected");
  }

  say(text, error = false) {
    this.status.textContent = text;
    this.status.classList.toggle("wm-error", error);
    if (error && !this.unread) this.history.keep(this.shapes);
    if (error) [this.shapes, this.unread] = [[], true];
    this.draw();
  }

  setBackground([url]) {
    this.picture = null;
    if (url) {
      const picture = new Image();
      picture.onload = () => {
        this.picture = picture;
        this.draw();
      };
      picture.src = url;
    }
    this.draw();
  }

  setTool(tool) {
    this.tool = tool;
    for (const [name, element] of Object.entries(this.tools)) element.setAttribute("aria-pressed", String(name === tool));
  }

  change(act) {
    this.history.keep(this.shapes);
    act();
    this.handOut();
  }

  handOut() {
    this.selected = Math.min(this.selected, this.shapes.length - 1);
    this.say("");
    this.hand(write(this.shapes));
  }

  undo(redo = false) {
    const shapes = redo ? this.history.redo(this.shapes) : this.history.undo(this.shapes);
    if (!shapes) return;
    [this.shapes, this.unread] = [shapes, false];
    this.handOut();
  }

  remove() {
    if (this.shapes[this.selected]) this.change(() => this.shapes.splice(this.selected, 1));
  }

  nudge(dx, dy) {
    const shape = this.shapes[this.selected];
    if (shape) this.change(() => this.shapes.splice(this.selected, 1, movedShape(shape, dx, dy)));
  }

  draw() {
    const full = this.element.clientWidth - 8;
    if (full <= 0) return;
    const aspect = this.picture ? this.picture.naturalWidth / this.picture.naturalHeight : 1;
    const room = Math.max(100, this.element.clientHeight - this.bar.offsetHeight - this.below.offsetHeight - 20);
    const width = Math.min(full, room * aspect);
    const height = width / aspect;
    Object.assign(this.stage.style, { width: `${width}px`, height: `${height}px` });
    const ratio = Math.max(1, window.devicePixelRatio || 1);
    [this.stage.width, this.stage.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const c = this.stage.getContext("2d");
    c.scale(ratio, ratio);
    if (this.picture) c.drawImage(this.picture, 0, 0, width, height);
    const shown = this.drag?.shape ? [...this.shapes, this.drag.shape] : this.shapes;
    shown.forEach((shape, index) => {
      c.beginPath();
      for (const [x, y] of pointsOf(shape)) c.lineTo(x * width, y * height);
      c.closePath();
      c.fillStyle = "hsl(205 75% 52% / 0.35)";
      c.fill();
      c.strokeStyle = index === this.selected ? coloursOf(this.element).text : "hsl(205 75% 52%)";
      c.lineWidth = index === this.selected ? 2 : 1.5;
      c.stroke();
    });
  }

  close() {
    this.resized.disconnect();
  }

  #build() {
    this.keys = keysInput("Keys of the region painter");
    this.tools = Object.fromEntries(
      Object.entries(TOOLS).map(([name, [label, title]]) => [name, button(label, title, () => this.setTool(name))]),
    );
    this.bar = make("div", { class: "wm-bar" }, ...Object.values(this.tools),
      button("Remove", "Take the selected shape away (Delete)", () => this.remove()),
      button("Clear", "Take all shapes away", () => this.change(() => { this.shapes = []; })),
      button("↶", "Undo (Ctrl+Z)", () => this.undo(), "Undo"),
      button("↷", "Redo (Ctrl+Y)", () => this.undo(true), "Redo"));
    this.stage = make("canvas", { class: "wm-stage", role: "img", "aria-label": "Region over the map" });
    this.status = make("span", { class: "wm-status", role: "status" });
    this.below = make("div", { class: "wm-bar" }, this.status);
    this.element = make("div", { class: "wm-editor wm-region", role: "group", "aria-label": "Region painter" },
      this.keys, this.bar, this.stage, this.below);
    this.stage.addEventListener("pointerdown", (event) => this.#down(event));
    this.stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const kind of ["pointerup", "pointercancel"]) this.stage.addEventListener(kind, () => this.#up());
    this.element.addEventListener("keydown", (event) => this.#key(event));
    enclose(this.element, this.keys);
  }

  #place(event) {
    const rect = this.stage.getBoundingClientRect();
    return [round((event.clientX - rect.left) / rect.width), round((event.clientY - rect.top) / rect.height)];
  }

  #down(event) {
    if (event.button) return;
    this.keys.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    const at = this.#place(event);
    if (this.tool === "move") {
      this.selected = this.shapes.findLastIndex((shape) => contains(shape, at));
      if (this.selected >= 0) this.drag = { from: at, before: clone(this.shapes) };
    } else {
      this.drag = { from: at, shape: this.tool === "box" ? { box: [...at, ...at] } : { polygon: [at] } };
    }
    this.draw();
  }

  #move(event) {
    if (!this.drag) return;
    const at = this.#place(event);
    const { from, shape, before } = this.drag;
    if (before) {
      this.shapes = clone(before);
      this.shapes[this.selected] = movedShape(before[this.selected], at[0] - from[0], at[1] - from[1]);
    } else if (shape.box) {
      shape.box = [0, 1].map((n) => Math.min(from[n], at[n])).concat([0, 1].map((n) => Math.max(from[n], at[n])));
    } else {
      const last = shape.polygon[shape.polygon.length - 1];
      if (Math.hypot(at[0] - last[0], at[1] - last[1]) > CLOSE) shape.polygon.push(at);
    }
    this.draw();
  }

  #up() {
    const { drag } = this;
    this.drag = null;
    if (!drag) return;
    if (drag.before) {
      const now = this.shapes;
      this.shapes = drag.before;
      if (JSON.stringify(now) !== JSON.stringify(drag.before)) this.change(() => { this.shapes = now; });
    } else if (drag.shape.polygon ? drag.shape.polygon.length > 2 : isWide(drag.shape.box)) {
      this.change(() => {
        this.shapes = [...this.shapes, drag.shape];
        this.selected = this.shapes.length - 1;
      });
    }
    this.draw();
  }

  #key(event) {
    event.stopPropagation();
    if (isTyped(event, this.keys)) return;
    const step = event.shiftKey ? 5 * NUDGE : NUDGE;
    const acts = event.ctrlKey || event.metaKey
      ? { z: () => this.undo(event.shiftKey), y: () => this.undo(true) }
      : {
          ArrowLeft: () => this.nudge(-step, 0), ArrowRight: () => this.nudge(step, 0),
          ArrowUp: () => this.nudge(0, -step), ArrowDown: () => this.nudge(0, step),
          Delete: () => this.remove(), Backspace: () => this.remove(),
        };
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

function isWide([x0, y0, x1, y1]) {
  return x1 - x0 > CLOSE && y1 - y0 > CLOSE;
}
