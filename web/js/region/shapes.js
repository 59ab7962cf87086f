// Shapes of a region, in fractions of the picture: {box: [x0, y0, x1, y1]} or {polygon: [[x, y], ..]}. No DOM.

const cut = (value) => Math.min(1, Math.max(0, value));
export const round = (value) => Number(cut(value).toFixed(4));

/** Corners of a shape. */
export function pointsOf(shape) {
  if (shape.polygon) return shape.polygon;
  const [x0, y0, x1, y1] = shape.box;
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}

/** A shape moved by as much as it can go. */
export function movedShape(shape, dx, dy) {
  const points = pointsOf(shape);
  const within = (step, axis) => {
    const values = points.map((point) => point[axis]);
    return Math.min(1 - Math.max(...values), Math.max(-Math.min(...values), step));
  };
  const [x, y] = [within(dx, 0), within(dy, 1)];
  const at = (a, b) => [round(a + x), round(b + y)];
  if (shape.polygon) return { polygon: shape.polygon.map(([a, b]) => at(a, b)) };
  return { box: [...at(shape.box[0], shape.box[1]), ...at(shape.box[2], shape.box[3])] };
}

/** Whether a place lies in a shape: whether the shape winds around it, as Python fills it. */
export function contains(shape, [x, y]) {
  const points = pointsOf(shape);
  let winding = 0;
  points.forEach(([x0, y0], n) => {
    const [x1, y1] = points[(n + 1) % points.length];
    if ((y0 <= y) === (y1 <= y)) return;
    if (x0 + ((y - y0) * (x1 - x0)) / (y1 - y0) < x) winding += y1 > y0 ? 1 : -1;
  });
  return winding !== 0;
}

/** The text that the widget holds. */
export function write(shapes) {
  return shapes.length ? JSON.stringify({ version: 1, shapes }) : "";
}
