// Plays skeletons on canvases: rotation by dragging, zoom, slider, single frames, speed. No library.
// Each element with data-clip gets a player of that clip. A clip may have several scenes (recorded, normalized).
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const NOWHERE = -32768; // stored value of a joint without a position; psptool/view/scene.py has the same constant
const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const STATES = { 0: "lost", 1: "inferred", 2: "tracked", 255: "unknown" };
const FRONT = { yaw: 0, pitch: 0 };
// Yaw and pitch in radians, and zoom. A skeleton in 2D is seen from the front.
const start = (topology) => (topology.flat ? { ...DATA.view, ...FRONT } : { ...DATA.view });
const AXES = DATA.axes; // unit vectors to the right, up and to the viewer, by vertical axis

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

function element(tag, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  parent.append(made);
  return made;
}

let inks = {};
function readInks() {
  const style = getComputedStyle(document.documentElement);
  inks = new Proxy({}, { get: (kept, name) => (kept[name] ??= style.getPropertyValue(`--${name}`).trim()) });
}

function mix(ink, ground, share) {
  const parts = [1, 3, 5].map((at) => {
    const [a, b] = [ink, ground].map((hex) => parseInt(hex.slice(at, at + 2), 16));
    return Math.round(a + (b - a) * share);
  });
  return `rgb(${parts.join(",")})`;
}

// A clip in one coordinate system: positions of all persons in all frames.
class Scene {
  constructor(data, clip, topology) {
    Object.assign(this, { title: data.title, kept: data.kept, persons: data.persons, topology });
    this.frames = clip.frames;
    this.joints = topology.joints.length;
    this.numbers = new Int16Array(bytes(data.xyz).buffer);
    this.present = bytes(data.present);
    this.state = typeof data.state === "number" ? null : bytes(data.state);
    this.everyState = data.state;
    Object.assign(this, { step: data.step, middle: data.middle, axes: AXES[data.up] });
    this.fit();
  }

  isPresent(person, frame) {
    return this.present[person * this.frames + frame] > 0;
  }

  stateOf(person, frame, joint) {
    return this.state ? this.state[(person * this.frames + frame) * this.joints + joint] : this.everyState;
  }

  // Position of a joint as right, up, to the viewer; null if it is missing.
  point(person, frame, joint) {
    const at = ((person * this.frames + frame) * this.joints + joint) * 3;
    if (this.numbers[at] === NOWHERE) return null;
    const xyz = [0, 1, 2].map((axis) => this.numbers[at + axis] * this.step + this.middle[axis]);
    return this.axes.map((axis) => dot(axis, xyz));
  }

  // Bounding box of the whole clip, so that the view does not follow the body.
  fit() {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    for (let person = 0; person < this.persons; person++)
      for (let frame = 0; frame < this.frames; frame++) {
        if (!this.isPresent(person, frame)) continue;
        for (let joint = 0; joint < this.joints; joint++) {
          const p = this.point(person, frame, joint);
          if (p) for (let a = 0; a < 3; a++) { low[a] = Math.min(low[a], p[a]); high[a] = Math.max(high[a], p[a]); }
        }
      }
    if (low[0] === Infinity) { low.fill(-1); high.fill(1); }
    this.low = low; this.high = high;
    this.centre = low.map((l, a) => (l + high[a]) / 2);
    this.half = low.map((l, a) => Math.max((high[a] - l) / 2, 1e-3));
    this.reach = Math.hypot(...this.half);
    this.skull = this.headSize();
  }

  // About half of the median neck length, which keeps the head size constant although the joint jitters.
  headSize() {
    const bone = this.topology.bones.find(([, child]) => child === this.topology.head), lengths = [];
    if (!bone) return 0; // a skeleton without a head
    const [neck] = bone;
    for (let person = 0; person < this.persons; person++)
      for (let frame = 0; frame < this.frames; frame++) {
        const [a, b] = [neck, this.topology.head].map((joint) => this.isPresent(person, frame) && this.point(person, frame, joint));
        if (a && b) lengths.push(Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]));
      }
    return 0.55 * (lengths.sort((a, b) => a - b)[lengths.length >> 1] ?? 0);
  }
}

// Draws one scene on one canvas.
class Stage {
  constructor(scene, parent) {
    this.scene = scene;
    const box = element("div", parent, { className: "stage" });
    this.canvas = element("canvas", box);
    element("div", box, { className: "name", textContent: scene.title });
    this.gone = element("div", box, { className: "gone" });
    this.pen = this.canvas.getContext("2d");
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * ratio), height = Math.round(this.canvas.clientHeight * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    return ratio;
  }

  aim(view) {
    const { scene, canvas } = this;
    this.turn = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    const across = Math.hypot(scene.half[0], scene.half[2]);
    const fits = Math.min((canvas.height * 0.42) / (scene.half[1] + across * 0.16), (canvas.width * 0.44) / across);
    this.scale = fits * view.zoom;
    this.far = 5 * scene.reach;
  }

  // A point of the scene on the canvas: x, y in pixels, depth from -1 (near) to 1, and its magnification.
  project(point) {
    const [cy, sy, cp, sp] = this.turn, [x, y, z] = point.map((value, axis) => value - this.scene.centre[axis]);
    const right = x * cy + z * sy, near = -x * sy + z * cy;
    const up = y * cp - near * sp, close = y * sp + near * cp;
    const size = this.far / Math.max(this.far - close, this.far * 0.2);
    return {
      x: this.canvas.width / 2 + right * this.scale * size, y: this.canvas.height / 2 - up * this.scale * size,
      depth: clamp(-close / this.scene.reach, -1, 1), size,
    };
  }

  line(a, b) {
    this.pen.beginPath();
    this.pen.moveTo(a.x, a.y);
    this.pen.lineTo(b.x, b.y);
    this.pen.stroke();
  }

  draw(frame, view, overlay) {
    this.ratio = this.resize();
    this.aim(view);
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.pen.lineCap = this.pen.lineJoin = "round";
    this.floor();
    const bodies = [...Array(this.scene.persons).keys()].filter((person) => this.scene.isPresent(person, frame));
    const points = bodies.map((person) => this.scene.topology.joints.map((_, joint) => this.scene.point(person, frame, joint)));
    points.forEach((body) => this.shadow(body));
    const limbs = points.flatMap((body, number) => this.limbs(body, bodies[number], frame));
    this.pen.globalAlpha = overlay ? 0.4 : 1; // a paler body under the attention map
    limbs.sort((a, b) => b.depth - a.depth).forEach((limb) => limb.draw());
    this.pen.globalAlpha = 1;
    if (overlay) points.forEach((body, number) => overlay.draw(this, body, bodies[number]));
    const absent = this.scene.kept.map((kept, person) => (kept && !bodies.includes(person) ? person + 1 : 0)).filter(Boolean);
    const nobody = absent.length && !bodies.length;
    this.gone.textContent = nobody ? "no person in this frame" : absent.map((n) => `person ${n} is not in this frame`).join(", ");
  }

  floor() {
    if (this.scene.topology.flat) return;
    const { scene, pen } = this, [, ground] = scene.low;
    const size = Math.max(scene.high[0] - scene.low[0], scene.high[2] - scene.low[2]);
    const every = 0.5 * 2 ** Math.max(0, Math.ceil(Math.log2(size / 20))); // few lines also for pixels
    const from = [0, 2].map((a) => Math.floor(scene.low[a] / every - 1) * every);
    const to = [0, 2].map((a) => Math.ceil(scene.high[a] / every + 1) * every);
    pen.strokeStyle = inks.grid;
    pen.lineWidth = this.ratio;
    for (let x = from[0]; x <= to[0] + 1e-6; x += every) this.line(this.project([x, ground, from[1]]), this.project([x, ground, to[1]]));
    for (let z = from[1]; z <= to[1] + 1e-6; z += every) this.line(this.project([from[0], ground, z]), this.project([to[0], ground, z]));
  }

  shadow(body) {
    if (this.scene.topology.flat) return;
    const ground = this.scene.low[1];
    this.pen.strokeStyle = inks.grid;
    this.pen.lineWidth = 5 * this.ratio;
    for (const bone of this.scene.topology.bones) {
      const ends = bone.map((joint) => body[joint]);
      if (ends.every(Boolean)) this.line(...ends.map(([x, , z]) => this.project([x, ground, z])));
    }
  }

  // Bones, joints and head of one body with their depth; drawn from far to near.
  limbs(body, person, frame) {
    const { pen, ratio, scene } = this, found = [], kept = scene.kept[person];
    const ink = kept ? inks[`person${person % 4}`] : inks.dropped;
    const thick = clamp((this.scale * scene.reach) / 42, 3, 9 * ratio);
    const shade = (depth, of) => mix(of, inks.stage, 0.2 + 0.2 * depth);
    for (const [a, b] of scene.topology.bones) {
      if (!body[a] || !body[b]) continue;
      const [from, to] = [this.project(body[a]), this.project(body[b])], depth = (from.depth + to.depth) / 2;
      const isHead = b === scene.topology.head;
      found.push({ depth, draw: () => {
        pen.lineWidth = thick * from.size + 3 * ratio;
        pen.strokeStyle = inks.stage;
        this.line(from, to);
        pen.lineWidth = thick * from.size;
        pen.strokeStyle = shade(depth, ink);
        this.line(from, to);
        if (isHead) this.disc(to, scene.skull * this.scale, shade(depth, ink));
      } });
    }
    scene.topology.joints.forEach((_, joint) => {
      if (!body[joint]) return;
      const at = this.project(body[joint]), state = scene.stateOf(person, frame, joint);
      const odd = state === 0 || state === 1;
      if (joint === scene.topology.head && !odd) return; // a dot in the middle of a head looks like an eye
      found.push({ depth: at.depth - 0.04, draw: () => this.disc(at, thick * (odd ? 0.66 : 0.46), kept ? inks[STATES[state] ?? "unknown"] : ink) });
    });
    return found;
  }

  disc(at, radius, ink) {
    const { pen } = this;
    pen.beginPath();
    pen.arc(at.x, at.y, radius * at.size, 0, 2 * Math.PI);
    pen.fillStyle = ink;
    pen.lineWidth = 1.2 * this.ratio;
    pen.strokeStyle = inks.stage;
    pen.fill();
    pen.stroke();
  }
}

class Player {
  constructor(root) {
    const clip = DATA.clips[Number(root.dataset.clip)], topology = DATA.topologies[clip.topology];
    Object.assign(this, { root, clip, topology, frames: clip.frames, fps: clip.fps, at: 0, playing: false, speed: 1, view: start(topology), shown: true, stale: true });
    root.tabIndex = 0;
    const stages = element("div", root, { className: "stages" });
    this.stages = clip.scenes.map((scene) => new Stage(new Scene(scene, clip, topology), stages));
    this.controls(root, "compact" in root.dataset);
    this.overlay = clip.attention ? new Attention(this, clip.attention, topology) : null;
    this.timeline = clip.timeline ? new Timeline(this, clip.timeline) : null;
    this.stages.forEach((stage) => this.grip(stage.canvas));
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("pointerenter", () => { current = this; });
    new IntersectionObserver(([entry]) => { this.shown = entry.isIntersecting; this.stale = true; }).observe(root);
    new ResizeObserver(() => { this.stale = true; }).observe(root);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches && this.frames > 1) this.toggle();
  }

  get frame() {
    return Math.floor(this.at) % this.frames;
  }

  controls(root, compact) {
    const time = element("div", root, { className: "time" });
    this.slider = element("input", time, { type: "range", min: 0, max: this.frames - 1, value: 0 });
    this.slider.setAttribute("aria-label", `frame of ${this.clip.name}`);
    this.slider.addEventListener("input", () => { this.toggle(false); this.seek(Number(this.slider.value)); });
    this.strip = element("canvas", time);
    const bar = element("div", root, { className: "bar" });
    this.button = element("button", bar, { className: "play", textContent: "Play" });
    this.button.addEventListener("click", () => this.toggle());
    this.output = element("output", bar);
    const speeds = element("select", bar, { title: "speed" });
    for (const speed of SPEEDS) element("option", speeds, { value: speed, textContent: `${speed}×`, selected: speed === 1 });
    speeds.addEventListener("change", () => { this.speed = Number(speeds.value); });
    if (compact) return;
    const view = (name, title, change) => element("button", bar, { textContent: name, title }).addEventListener("click", () => {
      Object.assign(this.view, change);
      this.stale = true;
    });
    if (!this.topology.flat) {
      view("Front", "from the camera, or from the front of the body", FRONT);
      view("Side", "from the side", { yaw: Math.PI / 2, pitch: 0 });
      view("Top", "from above", { yaw: 0, pitch: Math.PI / 2 });
    }
    view("Reset", "key 0", start(this.topology));
  }

  // Dragging rotates all scenes of the clip. The wheel zooms after a click on the player.
  grip(canvas) {
    let held = null;
    canvas.addEventListener("pointerdown", (event) => { held = event; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointerup", () => { held = null; });
    canvas.addEventListener("pointercancel", () => { held = null; });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      this.turnBy((event.clientX - held.clientX) * 0.01, (event.clientY - held.clientY) * 0.01);
      held = event;
    });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !this.root.contains(document.activeElement)) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * 0.0015));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => { Object.assign(this.view, start(this.topology)); this.stale = true; });
  }

  turnBy(yaw, pitch) {
    if (this.topology.flat) return;
    this.view.yaw += yaw;
    this.view.pitch = clamp(this.view.pitch + pitch, -Math.PI / 2, Math.PI / 2);
    this.stale = true;
  }

  zoomBy(factor) {
    this.view.zoom = clamp(this.view.zoom * factor, 0.2, 12);
    this.stale = true;
  }

  toggle(playing = !this.playing) {
    this.playing = playing;
    this.button.textContent = playing ? "Pause" : "Play";
  }

  seek(frame) {
    this.at = clamp(frame, 0, this.frames - 1);
    this.stale = true;
  }

  step(by) {
    this.toggle(false);
    this.seek(this.frame + by);
  }

  key(event) {
    const actions = {
      " ": () => this.toggle(), ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1),
      Home: () => this.seek(0), End: () => this.step(this.frames), 0: () => { Object.assign(this.view, start(this.topology)); this.stale = true; },
      "+": () => this.zoomBy(1.2), "=": () => this.zoomBy(1.2), "-": () => this.zoomBy(1 / 1.2),
    };
    const own = event.target.matches("select, button, input[type=range]");
    const action = own && event.key !== "0" ? null : actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  advance(seconds) {
    if (!this.shown) return;
    if (this.playing) {
      const before = this.frame;
      this.at = (this.at + seconds * this.fps * this.speed) % this.frames;
      this.stale ||= this.frame !== before;
    }
    if (!this.stale) return;
    this.stale = false;
    this.stages.forEach((stage, number) => stage.draw(this.frame, this.view, number === this.stages.length - 1 ? this.overlay : null));
    this.slider.value = this.frame;
    this.output.textContent = `${this.frame + 1} / ${this.frames}  ${(this.frame / this.fps).toFixed(2)} s`;
    this.presence();
    this.timeline?.show(this.frame);
  }

  // One row per person under the slider: solid in frames with the person, faint in others.
  presence() {
    const scene = this.stages[0].scene, rows = scene.persons, width = Math.max(1, this.strip.clientWidth), tall = 4;
    if (this.strip.width === width && this.strip.dataset.ink === inks.person0) return;
    Object.assign(this.strip, { width, height: rows * (tall + 2) });
    this.strip.style.height = `${rows * (tall + 2)}px`;
    this.strip.dataset.ink = inks.person0;
    const pen = this.strip.getContext("2d");
    for (let person = 0; person < rows; person++)
      for (let frame = 0; frame < this.frames; frame++) {
        pen.fillStyle = !scene.isPresent(person, frame) ? inks.faint : scene.kept[person] ? inks[`person${person % 4}`] : inks.dropped;
        const from = Math.floor((frame * width) / this.frames);
        pen.fillRect(from, person * (tall + 2) + 1, Math.ceil(((frame + 1) * width) / this.frames) - from, tall);
      }
  }
}

let current = null;
readInks();
document.addEventListener("DOMContentLoaded", () => {
  const players = [...document.querySelectorAll("[data-clip]")].map((root) => new Player(root));
  [current] = players;
  window.psptool = { players };
  document.addEventListener("keydown", (event) => { if (event.target === document.body) current?.key(event); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readInks();
    players.forEach((player) => { player.stale = true; player.overlay?.show(); });
  });
  let before = performance.now();
  const tick = (now) => {
    players.forEach((player) => player.advance(Math.min(0.25, (now - before) / 1000)));
    before = now;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
});
