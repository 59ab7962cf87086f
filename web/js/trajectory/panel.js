// The elements of the trajectory editor, without what they do.

import { button, coloursOf, keysInput, make, makeStyle, number } from "../shared/elements.js";
import { EASE_NAMES } from "./model.js";

const TOOLS = {
  move: ["Move", "Move and resize boxes; with Shift the whole path"],
  box: ["Box", "Draw the box of a new object"],
  path: ["Path", "Draw the way of the selected object, over all frames"],
  points: ["Points", "Click the way of the selected object point by point; Enter or a double click ends it"],
};

export function build(editor) {
  makeStyle();
  const tools = Object.fromEntries(
    Object.entries(TOOLS).map(([name, [label, title]]) => [name, button(label, title, () => editor.setTool(name))]),
  );
  const eases = make("select", {
    title: "Speed along the path", "aria-label": "Speed along the path",
    onchange: (event) => {
      editor.act(event.target.value);
      event.target.value = "";
    },
  }, make("option", { value: "" }, "Ease…"), ...EASE_NAMES.map((name) => make("option", { value: name }, name)));
  const play = button("▶", "Play (space)", () => editor.play(), "Play");
  const phrase = make("input", {
    class: "wm-phrase", type: "text", title: "Words of the prompt", "aria-label": "Words of the prompt",
    placeholder: "words of the prompt", onchange: (event) => editor.rename(event.target.value),
  });
  const above = make("div", { class: "wm-bar" }, ...Object.values(tools), eases,
    button("Smooth", "A spline through the keyframes (S)", () => editor.act("smooth")),
    button("Reverse", "Go the path backwards (R)", () => editor.act("reverse")),
    button("Duplicate", "Another object like this (Ctrl+D)", () => editor.act("duplicate")),
    button("−◆", "Drop the keyframe of this frame (Delete)", () => editor.act("drop"), "Drop keyframe"),
    button("↶", "Undo (Ctrl+Z)", () => editor.undo(), "Undo"),
    button("↷", "Redo (Ctrl+Y)", () => editor.redo(), "Redo"));
  const words = make("div", { class: "wm-bar" }, phrase,
    button("New", "Another object (N)", () => editor.add()),
    button("Remove", "Remove the selected object (Shift+Delete)", () => editor.act("remove")));
  const stage = make("canvas", { class: "wm-stage", role: "img", "aria-label": "Boxes and paths" });
  const timeline = make("canvas", { class: "wm-timeline", role: "img", "aria-label": "Keyframes over time" });
  const frame = make("span", { class: "wm-frame" });
  const status = make("span", { class: "wm-status", role: "status" });
  const below = make("div", { class: "wm-bar" }, play, frame,
    make("span", {}, "grid"),
    number(8, "Rows of the attention grid", 1, (rows) => {
      editor.grid = [rows, editor.grid[1]];
      editor.draw();
    }),
    number(8, "Columns of the attention grid", 1, (columns) => {
      editor.grid = [editor.grid[0], columns];
      editor.draw();
    }),
    status);
  const keys = keysInput("Keys of the trajectory editor");
  const root = make("div", { class: "wm-editor wm-trajectory", role: "group", "aria-label": "Trajectory editor" },
    keys, above, words, stage, timeline, below);
  return {
    root, keys, tools, play, phrase, stage, timeline, frame, status,
    fixed: () => above.offsetHeight + words.offsetHeight + below.offsetHeight + 20,
    colours: () => coloursOf(root),
  };
}
