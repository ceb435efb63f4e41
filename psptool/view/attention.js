// Draws an attention map on the skeleton, as arrows between groups of joints and rings for self-attention, and next to it
// as a matrix. Maps are summed over time: one per clip, person, stream, level and head.
"use strict";

class Attention {
  constructor(player, data, topology) {
    Object.assign(this, { player, data, topology });
    this.chosen = { level: data.levels[0], head: -1, stream: data.streams[0], person: data.persons[0], row: -1, count: 10 };
    const box = element("div", player.root, { className: "attention" });
    const bar = element("div", box, { className: "bar" });
    this.pick(bar, "level", data.levels.map((level) => [level, `${level} level`]));
    this.pick(bar, "stream", data.streams.map((stream) => [stream, `${stream} stream`]));
    this.pick(bar, "head", [[-1, "mean over heads"], ...[...Array(data.heads).keys()].map((head) => [head, `head ${head + 1}`])]);
    if (data.persons.length > 1) this.pick(bar, "person", data.persons.map((person) => [person, `person ${person + 1}`]));
    this.pick(bar, "count", [5, 10, 20, 40, 80].map((count) => [count, `${count} strongest`]), 10);
    this.matrix = element("div", box);
    this.text = element("div", box, { className: "note" });
    this.show();
  }

  pick(bar, key, choices, first = choices[0][0]) {
    const select = element("select", bar, { title: key });
    for (const [value, text] of choices) element("option", select, { value, textContent: text, selected: value === first });
    select.addEventListener("change", () => {
      this.chosen[key] = typeof choices[0][0] === "number" ? Number(select.value) : select.value;
      if (key === "level") this.chosen.row = -1;
      this.show();
    });
  }

  groups() {
    return this.topology.levels[this.chosen.level];
  }

  // The selected map (G, G): row u is the attention of group u to each group v.
  map() {
    const { level, head, stream, person } = this.chosen, size = this.groups().length, { heads } = this.data;
    const packed = this.data.maps[stream][level];
    this.numbers ??= {};
    const numbers = (this.numbers[stream + level] ??= new Int16Array(bytes(packed.values).buffer));
    const first = this.data.persons.indexOf(person) * heads, from = head < 0 ? 0 : head, to = head < 0 ? heads : head + 1;
    return Array.from({ length: size }, (_, u) => Array.from({ length: size }, (_, v) => {
      let sum = 0;
      for (let s = from; s < to; s++) sum += numbers[((first + s) * size + u) * size + v];
      return (sum * packed.step) / (to - from);
    }));
  }

  show() {
    this.rows = this.map();
    this.largest = Math.max(1e-9, ...this.rows.flat().map(Math.abs));
    const all = this.rows.flatMap((row, u) => row.map((value, v) => ({ u, v, value })));
    const { row, count } = this.chosen;
    this.arrows = all.filter(({ u }) => row < 0 || u === row).sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, count);
    this.draw_matrix();
    this.describe();
    this.player.stale = true;
  }

  describe(cell = null) {
    const names = this.groups().map(([name]) => name), { row } = this.chosen;
    const sign = (value) => `${value >= 0 ? "+" : "−"}${Number(Math.abs(value).toPrecision(2))}`;
    const [strongest] = this.arrows;
    const shown = cell ?? strongest;
    this.text.textContent = "";
    element("p", this.text, { textContent: `${names[shown.u]} attends to ${shown.u === shown.v ? "itself" : names[shown.v]}: ${sign(shown.value)}` });
    element("p", this.text, { textContent:
      "An arrow points from a group to the group that it attends to; a ring is attention to itself. Width shows the " +
      `absolute value, colour the sign. Values from ${sign(Math.min(...this.rows.flat()))} to ${sign(Math.max(...this.rows.flat()))}. ` +
      (row < 0 ? "Click a row of the matrix to show only its group." : `Only ${names[row]} is shown. Click the row again to show all groups.`) });
  }

  draw_matrix() {
    const names = this.groups().map(([name]) => name), size = names.length, side = size > 12 ? 15 : 26;
    const longest = Math.max(...names.map((name) => name.length)), left = longest * 6.6 + 14, top = longest * 5.8 + 16;
    const parts = [];
    const text = (x, y, more) => `<text x="${x}" y="${y}" ${more}></text>`;
    names.forEach((name, u) => {
      parts.push(text(left - 6, top + (u + 0.5) * side + 4, `text-anchor="end" class="${u === this.chosen.row ? "" : "soft"}"`));
      parts.push(text(0, 0, `transform="translate(${left + (u + 0.5) * side + 4} ${top - 6}) rotate(-60)" class="soft"`));
    });
    this.rows.forEach((row, u) => row.forEach((value, v) => {
      const ink = value >= 0 ? inks.plus : inks.minus;
      const faded = this.chosen.row >= 0 && this.chosen.row !== u ? 0.25 : 1;
      parts.push(`<rect class="cell" x="${left + v * side}" y="${top + u * side}" width="${side - 1}" height="${side - 1}" rx="2" fill="${ink}" fill-opacity="${((Math.abs(value) / this.largest) * faded).toFixed(3)}" data-u="${u}" data-v="${v}" stroke="${inks.line}" stroke-width="0.5"/>`);
    }));
    const wide = left + size * side + longest * 3.4, tall = top + size * side + 4;
    this.matrix.innerHTML = `<svg viewBox="0 0 ${wide} ${tall}" style="width:${wide}px" role="img">${parts.join("")}</svg>`;
    // Names are from the file: set as text, never as markup.
    this.matrix.querySelectorAll("text").forEach((label, n) => { label.textContent = names[Math.floor(n / 2)]; });
    this.matrix.querySelectorAll("rect").forEach((rect) => {
      const [u, v] = [Number(rect.dataset.u), Number(rect.dataset.v)];
      rect.addEventListener("pointerenter", () => this.describe({ u, v, value: this.rows[u][v] }));
      rect.addEventListener("click", () => { this.chosen.row = this.chosen.row === u ? -1 : u; this.show(); });
    });
  }

  draw(stage, body, person) {
    if (person !== this.chosen.person) return;
    const { pen, ratio } = stage;
    const centres = this.groups().map(([, joints]) => {
      const there = joints.map((joint) => body[joint]).filter(Boolean);
      return there.length ? stage.project([0, 1, 2].map((axis) => there.reduce((sum, p) => sum + p[axis], 0) / there.length)) : null;
    });
    for (const { u, v, value } of [...this.arrows].reverse()) {
      if (!centres[u] || !centres[v]) continue;
      const share = Math.abs(value) / this.largest;
      pen.strokeStyle = pen.fillStyle = value >= 0 ? inks.plus : inks.minus;
      pen.globalAlpha = 0.25 + 0.7 * share;
      pen.lineWidth = (0.8 + 4.2 * share) * ratio;
      if (u === v) this.ring(pen, centres[u], (7 + 7 * share) * ratio);
      else this.arrow(pen, centres[u], centres[v], ratio);
    }
    pen.globalAlpha = 1;
    if (this.chosen.level === "joint") return;
    for (const centre of centres) if (centre) stage.disc(centre, 3.5 * ratio, inks.ink);
  }

  ring(pen, at, radius) {
    pen.beginPath();
    pen.arc(at.x, at.y, radius, 0, 2 * Math.PI);
    pen.stroke();
  }

  // Curved to one side, so that the arrows of both directions do not overlap.
  arrow(pen, a, b, ratio) {
    const [dx, dy] = [b.x - a.x, b.y - a.y], length = Math.hypot(dx, dy) || 1;
    const bend = { x: (a.x + b.x) / 2 - dy * 0.22, y: (a.y + b.y) / 2 + dx * 0.22 };
    const heading = Math.atan2(b.y - bend.y, b.x - bend.x), head = Math.min(5 * ratio + pen.lineWidth * 1.6, length * 0.4);
    const neck = { x: b.x - Math.cos(heading) * head * 0.8, y: b.y - Math.sin(heading) * head * 0.8 };
    pen.lineCap = "butt";
    pen.beginPath();
    pen.moveTo(a.x, a.y);
    pen.quadraticCurveTo(bend.x, bend.y, neck.x, neck.y);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(b.x, b.y);
    for (const side of [-0.42, 0.42]) pen.lineTo(b.x - Math.cos(heading + side) * head, b.y - Math.sin(heading + side) * head);
    pen.closePath();
    pen.fill();
  }
}
