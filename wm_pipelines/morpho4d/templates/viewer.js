// Gaussians in WebGL 2: projected and sorted here, blended by the graphics card in floats. The projection is that of
// custom_kernels/gaussians, so that the picture is the same.
"use strict";

const NEAR = 0.05, LEAST_ALPHA = 1 / 255, SH_DC = 0.28209479177387814;
const scene = JSON.parse(document.getElementById("scene").textContent);

/* ---- the numbers: blocks of float32 and int32, in the order in which the page was written ---- */

function unpack() {
  const text = atob(document.getElementById("numbers").textContent.trim());
  const bytes = Uint8Array.from(text, c => c.charCodeAt(0));
  let at = 0;
  const n = scene.count, m = scene.moving, t = scene.times.length;
  const take = (length, kind = Float32Array) => new kind(bytes.buffer, 4 * ((at += length) - length), length);
  return {
    means: take(3 * n), quats: take(4 * n), scales: take(3 * n), opacities: take(n), sh: take(3 * scene.coefficients * n),
    ids: take(n, Int32Array), moving: take(m, Int32Array), paths: take(3 * m * t), turns: take(4 * m * t),
  };
}

const data = unpack();
const count = scene.count;

/* ---- where the Gaussians are at a moment ---- */

const means = data.means.slice(), quats = data.quats.slice();

function pose(time) {
  const times = scene.times, last = times.length - 1, m = scene.moving;
  let after = times.findIndex(t => t >= time);
  if (after < 0) after = last;
  const before = Math.max(after - 1, 0), gap = times[after] - times[before];
  const share = gap > 0 ? Math.min(Math.max((time - times[before]) / gap, 0), 1) : 0;
  for (let i = 0; i < m; i++) {
    const g = data.moving[i], a = before * m + i, b = after * m + i;
    for (let c = 0; c < 3; c++)
      means[3 * g + c] = data.paths[3 * a + c] + share * (data.paths[3 * b + c] - data.paths[3 * a + c]);
    let dot = 0, length = 0;
    for (let c = 0; c < 4; c++) dot += data.turns[4 * a + c] * data.turns[4 * b + c];
    const side = dot < 0 ? -1 : 1, q = [0, 0, 0, 0];
    for (let c = 0; c < 4; c++) {
      q[c] = (1 - share) * data.turns[4 * a + c] + share * side * data.turns[4 * b + c];
      length += q[c] * q[c];
    }
    for (let c = 0; c < 4; c++) quats[4 * g + c] = q[c] / Math.sqrt(length);
  }
}

/* ---- colours ---- */

const hidden = new Set(), paint = new Map(), brightness = new Map();

function luminance(r, g, b) { return 0.2126 * r + 0.7152 * g + 0.0722 * b }

for (let i = 0, sums = new Map(); i < count; i++) {
  const k = 3 * scene.coefficients * i, id = data.ids[i];
  const light = luminance(...[0, 1, 2].map(c => Math.max(0.5 + SH_DC * data.sh[k + c], 0)));
  const [sum, n] = sums.get(id) ?? [0, 0];
  sums.set(id, [sum + light, n + 1]);
  brightness.set(id, (sum + light) / (n + 1));
}

function basis(x, y, z) {
  const xx = x * x, yy = y * y, zz = z * z;
  return [
    SH_DC, -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
    1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * zz - xx - yy),
    -1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy),
    -0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z,
    -0.4570457994644658 * y * (4 * zz - xx - yy), 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
    -0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy),
    -0.5900435899266435 * x * (xx - 3 * yy),
  ];
}

function colour(i, matrix, eye) {
  const k = 3 * scene.coefficients * i, rgb = [0.5, 0.5, 0.5];
  let values = [SH_DC];
  if (scene.coefficients > 1) {  // the direction in the Gaussian's own frame
    const d = [0, 1, 2].map(c => means[3 * i + c] - eye[c]), length = Math.hypot(...d);
    values = basis(...[0, 1, 2].map(c => (matrix[c] * d[0] + matrix[3 + c] * d[1] + matrix[6 + c] * d[2]) / length));
  }
  for (let n = 0; n < scene.coefficients; n++)
    for (let c = 0; c < 3; c++) rgb[c] += values[n] * data.sh[k + 3 * n + c];
  for (let c = 0; c < 3; c++) rgb[c] = Math.max(rgb[c], 0);
  const painted = paint.get(data.ids[i]);
  if (!painted) return rgb;
  const shade = luminance(...rgb) / Math.max(brightness.get(data.ids[i]), 1e-3);
  return painted.map(c => Math.min(c * shade, 1));
}

/* ---- the camera: x right, y down, z forward ---- */

const home = { turn: scene.turn.slice(), shift: scene.shift.slice() };
let camera = { ...home }, scale = 1, orbit = null;

function eyeOf({ turn, shift }) {
  return [0, 1, 2].map(c => -(turn[c] * shift[0] + turn[3 + c] * shift[1] + turn[6 + c] * shift[2]));
}

function cross(a, b) { return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]] }
function dot(a, b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] }
function unit(a) { const length = Math.hypot(...a) || 1; return a.map(v => v / length) }

const up = scene.up;
const aside = unit(cross(up, Math.abs(up[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0])), ahead = cross(up, aside);

function startOrbit() {
  const eye = eyeOf(camera), forward = camera.turn.slice(6, 9), middle = [0, 0, 0];
  for (let i = 0; i < count; i++) for (let c = 0; c < 3; c++) middle[c] += means[3 * i + c] / count;
  const distance = Math.max(dot(middle.map((v, c) => v - eye[c]), forward), 0.1);
  const back = forward.map(v => -v);
  orbit = {
    target: eye.map((v, c) => v + distance * forward[c]), distance,
    yaw: Math.atan2(dot(back, ahead), dot(back, aside)), pitch: Math.asin(Math.min(Math.max(dot(back, up), -1), 1)),
  };
}

function lookAround(across, down, nearer) {
  if (!orbit) startOrbit();
  orbit.yaw -= across;
  orbit.pitch = Math.min(Math.max(orbit.pitch + down, -1.5), 1.5);
  orbit.distance *= nearer;
  const level = Math.cos(orbit.pitch);
  const back = [0, 1, 2].map(c => level * Math.cos(orbit.yaw) * aside[c] + level * Math.sin(orbit.yaw) * ahead[c]
    + Math.sin(orbit.pitch) * up[c]);
  const eye = orbit.target.map((v, c) => v + orbit.distance * back[c]);
  const z = back.map(v => -v), x = unit(cross(z, up)), y = cross(z, x);
  camera = { turn: [...x, ...y, ...z], shift: [-dot(x, eye), -dot(y, eye), -dot(z, eye)] };
}

/* ---- projection ---- */

const FLOATS = 11;  // u, v, the inverse covariance a b c, opacity, colour, half sizes of the box
let flat = new Float32Array(FLOATS * count), depth = new Float32Array(count), order = new Uint32Array(0);

function project(time) {
  pose(time);
  const w = camera.turn, t = camera.shift, eye = eyeOf(camera);
  const fx = scene.focal[0] * scale, fy = scene.focal[1] * scale, cx = scene.middle[0] * scale, cy = scene.middle[1] * scale;
  const width = scene.size[1] * scale, height = scene.size[0] * scale, wide = 0.15 * width / fx, tall = 0.15 * height / fy;
  const dilation = scene.dilation * scale * scale;
  const found = [];
  for (let i = 0; i < count; i++) {
    const px = means[3 * i], py = means[3 * i + 1], pz = means[3 * i + 2], opacity = data.opacities[i];
    const z = w[6] * px + w[7] * py + w[8] * pz + t[2];
    if (z <= NEAR || opacity <= LEAST_ALPHA || hidden.has(data.ids[i])) continue;
    const x = (w[0] * px + w[1] * py + w[2] * pz + t[0]) / z, y = (w[3] * px + w[4] * py + w[5] * pz + t[1]) / z;
    const jx = Math.min(Math.max(x, -cx / fx - wide), (width - cx) / fx + wide);
    const jy = Math.min(Math.max(y, -cy / fy - tall), (height - cy) / fy + tall);
    const m = matrixOf(i);
    let xx = dilation, xy = 0, yy = dilation;
    for (let c = 0; c < 3; c++) {  // axis c of the Gaussian, in the picture
      const s = data.scales[3 * i + c], ax = m[c] * s, ay = m[3 + c] * s, az = m[6 + c] * s;
      const vx = w[0] * ax + w[1] * ay + w[2] * az, vy = w[3] * ax + w[4] * ay + w[5] * az, vz = w[6] * ax + w[7] * ay + w[8] * az;
      const u = fx * (vx - jx * vz) / z, v = fy * (vy - jy * vz) / z;
      xx += u * u; xy += u * v; yy += v * v;
    }
    const det = xx * yy - xy * xy, far = Math.sqrt(2 * Math.log(opacity / LEAST_ALPHA));
    const rgb = colour(i, m, eye);
    flat.set([x * fx + cx, y * fy + cy, yy / det, -xy / det, xx / det, opacity, ...rgb,
      far * Math.sqrt(xx), far * Math.sqrt(yy)], FLOATS * i);
    depth[i] = z;
    found.push(i);
  }
  order = Uint32Array.from(found).sort((a, b) => depth[b] - depth[a]);  // far ones first
}

function matrixOf(i) {
  const q = 4 * i, a = quats[q], b = quats[q + 1], c = quats[q + 2], d = quats[q + 3];
  return [
    1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c),
    2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b),
    2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c),
  ];
}

/* ---- which object is at a pixel: the one that covers most of it ---- */

function pick(x, y) {
  const shares = new Map();
  let light = 1;
  for (let n = order.length - 1; n >= 0 && light > 1e-4; n--) {
    const k = FLOATS * order[n], dx = x - flat[k], dy = y - flat[k + 1];
    const power = -0.5 * (flat[k + 2] * dx * dx + 2 * flat[k + 3] * dx * dy + flat[k + 4] * dy * dy);
    const alpha = Math.min(0.99, flat[k + 5] * Math.exp(power));
    if (alpha <= LEAST_ALPHA) continue;
    const id = data.ids[order[n]];
    shares.set(id, (shares.get(id) ?? 0) + alpha * light);
    light *= 1 - alpha;
  }
  if (1 - light < 0.5) return null;
  return [...shares].reduce((a, b) => (b[1] > a[1] ? b : a))[0];
}

/* ---- WebGL ---- */

const canvas = document.getElementById("picture");
const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });

const SPLAT_VERTEX = `#version 300 es
layout(location=0) in vec2 corner; layout(location=1) in vec2 centre; layout(location=2) in vec4 shape;
layout(location=3) in vec3 colour; layout(location=4) in vec2 reach;
uniform vec2 size; out vec2 away; flat out vec4 form; flat out vec3 paint;
void main() {
  away = corner * reach; form = shape; paint = colour;
  vec2 place = (centre + away) / size;
  gl_Position = vec4(2.0 * place.x - 1.0, 1.0 - 2.0 * place.y, 0.0, 1.0);
}`;
const SPLAT_FRAGMENT = `#version 300 es
precision highp float; in vec2 away; flat in vec4 form; flat in vec3 paint; out vec4 result;
void main() {
  float power = -0.5 * (form.x * away.x * away.x + 2.0 * form.y * away.x * away.y + form.z * away.y * away.y);
  float alpha = min(0.99, form.w * exp(power));
  if (alpha <= 1.0 / 255.0) discard;
  result = vec4(paint * alpha, alpha);
}`;
const LAST_VERTEX = `#version 300 es
layout(location=0) in vec2 corner; void main() { gl_Position = vec4(corner, 0.0, 1.0); }`;
const LAST_FRAGMENT = `#version 300 es
precision highp float; uniform highp sampler2D blended; uniform vec3 background; out vec4 result;
void main() {
  vec4 sum = texelFetch(blended, ivec2(gl_FragCoord.xy), 0);
  result = vec4(clamp(sum.rgb + (1.0 - sum.a) * background, 0.0, 1.0), 1.0);
}`;

function program(vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return made;
}

let drawn = null;

function setUp() {
  // floats, where the card can blend them: bytes would round at every layer
  const whole = gl.getExtension("EXT_color_buffer_float") && gl.getExtension("EXT_float_blend");
  const half = whole || gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float");
  const made = {
    splats: program(SPLAT_VERTEX, SPLAT_FRAGMENT), last: program(LAST_VERTEX, LAST_FRAGMENT),
    format: whole ? gl.RGBA32F : half ? gl.RGBA16F : gl.RGBA8,
    corners: gl.createBuffer(), instances: gl.createBuffer(), array: gl.createVertexArray(), plain: gl.createVertexArray(),
    frame: gl.createFramebuffer(), texture: null, size: "",
  };
  gl.bindBuffer(gl.ARRAY_BUFFER, made.corners);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  for (const array of [made.plain, made.array]) {
    gl.bindVertexArray(array);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
  }
  gl.bindBuffer(gl.ARRAY_BUFFER, made.instances);
  [[1, 2, 0], [2, 4, 2], [3, 3, 6], [4, 2, 9]].forEach(([place, width, offset]) => {
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, gl.FLOAT, false, 4 * FLOATS, 4 * offset);
    gl.vertexAttribDivisor(place, 1);
  });
  return made;
}

function target() {
  const size = `${canvas.width} ${canvas.height}`;
  if (drawn.size !== size) {
    gl.deleteTexture(drawn.texture);
    drawn.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, drawn.texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, drawn.format, canvas.width, canvas.height);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, drawn.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, drawn.texture, 0);
    drawn.size = size;
  }
}

function draw() {
  if (!gl) return;
  drawn ??= setUp();
  canvas.width = scene.size[1] * scale;
  canvas.height = scene.size[0] * scale;
  project(now);
  const rows = new Float32Array(FLOATS * order.length);
  order.forEach((g, n) => rows.set(flat.subarray(FLOATS * g, FLOATS * (g + 1)), FLOATS * n));
  target();
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.bindFramebuffer(gl.FRAMEBUFFER, drawn.frame);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  gl.useProgram(drawn.splats);
  gl.uniform2f(gl.getUniformLocation(drawn.splats, "size"), canvas.width, canvas.height);
  gl.bindVertexArray(drawn.array);
  gl.bindBuffer(gl.ARRAY_BUFFER, drawn.instances);
  gl.bufferData(gl.ARRAY_BUFFER, rows, gl.DYNAMIC_DRAW);
  gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, order.length);
  gl.disable(gl.BLEND);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  gl.useProgram(drawn.last);
  gl.uniform3f(gl.getUniformLocation(drawn.last, "background"), ...scene.background);
  gl.bindTexture(gl.TEXTURE_2D, drawn.texture);
  gl.bindVertexArray(drawn.plain);
  gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  document.getElementById("clock").textContent = `${now.toFixed(2)} s`;
}

function pixels() {
  draw();
  const width = canvas.width, height = canvas.height, rgba = new Uint8Array(4 * width * height), rgb = [];
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
  for (let y = height - 1; y >= 0; y--)
    for (let x = 0; x < width; x++) rgb.push(...rgba.subarray(4 * (y * width + x), 4 * (y * width + x) + 3));
  return rgb;
}

/* ---- hands ---- */

let now = scene.times[0], playing = null, dragged = null, waiting = false;
const slider = document.getElementById("time"), button = document.getElementById("play");

function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw() });
}

function setTime(time) { now = time; slider.value = time; later() }

function choose(id) {
  document.getElementById("name").textContent = id === null ? "Nothing there." : scene.names[id];
  for (const item of document.querySelectorAll("#objects li")) item.classList.toggle("chosen", item.dataset.id === `${id}`);
  return id;
}

function hide(id, away) { away ? hidden.add(id) : hidden.delete(id); later() }

function recolour(id, hex) {
  if (hex) paint.set(id, [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16) / 255));
  else paint.delete(id);
  later();
}

function setScale(factor) { scale = factor; later() }

for (const [key, name] of Object.entries(scene.names)) {
  const id = Number(key), item = document.createElement("li"), label = document.createElement("span");
  const seen = document.createElement("input"), tint = document.createElement("input");
  item.dataset.id = key;
  Object.assign(seen, { type: "checkbox", checked: true, title: "Show", ariaLabel: `Show ${name}` });
  Object.assign(tint, { type: "color", value: scene.colours[key], title: "Colour", ariaLabel: `Colour of ${name}` });
  label.textContent = name;
  label.onclick = () => choose(id);
  seen.onchange = () => hide(id, !seen.checked);
  tint.oninput = () => recolour(id, tint.value);
  item.append(seen, label, tint);
  document.getElementById("objects").append(item);
}

button.onclick = () => {
  if (playing !== null) { cancelAnimationFrame(playing); playing = null; button.textContent = "Play"; return }
  let before = performance.now();
  const length = scene.times.at(-1) - scene.times[0];
  const step = moment => {
    now += (moment - before) / 1000;
    before = moment;
    if (now > scene.times.at(-1)) now = scene.times[0] + (length > 0 ? (now - scene.times.at(-1)) % length : 0);
    slider.value = now;
    draw();
    playing = requestAnimationFrame(step);
  };
  button.textContent = "Pause";
  playing = requestAnimationFrame(step);
};
slider.oninput = () => setTime(Number(slider.value));
document.getElementById("home").onclick = () => { camera = { ...home }; orbit = null; later() };

canvas.onpointerdown = event => {
  dragged = { x: event.clientX, y: event.clientY, far: 0 };
  canvas.setPointerCapture(event.pointerId);
};
canvas.onpointermove = event => {
  if (!dragged) return;
  const dx = event.clientX - dragged.x, dy = event.clientY - dragged.y;
  Object.assign(dragged, { x: event.clientX, y: event.clientY, far: dragged.far + Math.abs(dx) + Math.abs(dy) });
  if (dragged.far > 3) { lookAround(dx * 0.008, dy * 0.008, 1); later() }
};
canvas.onpointerup = event => {
  const box = canvas.getBoundingClientRect();
  if (dragged && dragged.far <= 3)
    choose(pick((event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height));
  dragged = null;
};
canvas.onpointercancel = () => { dragged = null };
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  lookAround(0, 0, Math.exp(event.deltaY * 0.001));
  later();
}, { passive: false });

const most = Math.max(1, Math.floor(480 / Math.max(...scene.size)));
const scales = document.getElementById("scale");
for (let factor = 1; factor <= Math.max(most, 4); factor++) {
  const [height, width] = scene.size.map(v => v * factor);
  scales.append(new Option(`${width} × ${height}`, factor));
}
scales.value = scale = most;
scales.onchange = () => setScale(Number(scales.value));

if (gl) draw();
else document.getElementById("name").textContent = "This browser has no WebGL 2, which the picture needs.";

window.viewer = { draw, pixels, pick, choose, hide, recolour, setTime, setScale, lookAround };
