// The timeline of a long recording under the slider: one bar per window, a cursor, the classes of the current window.
// A click or drag on it goes to that time.
"use strict";

class Timeline {
  constructor(player, data) {
    Object.assign(this, { player, data });
    const time = player.strip.parentElement;
    this.band = element("div", time, { className: "band" });
    for (const window of data.windows) this.bar(window);
    this.cursor = element("b", this.band);
    for (const kind of ["pointerdown", "pointermove"]) this.band.addEventListener(kind, (event) => this.go(event));
    this.text = element("p", time, { className: "meta" });
    const legend = element("p", time, { className: "legend" });
    for (const [name, colour] of data.classes) {
      const entry = element("span", legend);
      element("i", entry).style.background = colour;
      entry.append(name);
    }
  }

  percent(frame) {
    return `${(100 * frame) / this.player.frames}%`;
  }

  bar(window) {
    const bar = element("i", this.band, { title: window.text });
    const width = this.percent(window.to - window.from);
    Object.assign(bar.style, { left: this.percent(window.from), width, height: `${100 * window.share}%`, background: window.colour ?? "none" });
  }

  go(event) {
    if (!(event.buttons & 1)) return;
    const { left, width } = this.band.getBoundingClientRect();
    this.player.seek(Math.floor(((event.clientX - left) / width) * this.player.frames));
  }

  show(frame) {
    this.cursor.style.left = this.percent(frame + 0.5);
    this.text.textContent = this.data.windows.find((window) => frame < window.to).text;
  }
}
