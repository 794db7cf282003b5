// What the tests ask of a page: an object of functions, called one at a time.
({
  read() {
    const number = it => Number(it.dataset.value);
    const texts = list => [...list].map(it => it.textContent);
    const lines = [...document.querySelectorAll("#classes tbody tr")];
    const column = at => lines.map(line => line.cells[at].querySelector("data")).filter(it => it).map(number);
    return {
      loss: number(document.querySelector("#loss")),
      whole: number(document.querySelector("#whole data") || {dataset: {}}),
      title: document.querySelector("#row-title").textContent,
      z: column(1),
      p: column(4),
      g: column(6),
      steps: [...document.querySelectorAll("#steps li")].map(li => texts(li.querySelectorAll("b, span, code"))),
      terms: [...document.querySelectorAll("#terms dt")].map(dt => texts([dt, ...dt.nextSibling.children])),
    };
  },

  // Elements with text of their own.
  leaves() {
    const seen = it => { const r = it.getBoundingClientRect(); return r.width > 1 && r.height > 1; };
    return [...document.querySelectorAll("main *")].filter(it => seen(it) && this.texts(it).length);
  },

  texts(it) {
    return [...it.childNodes].filter(node => node.nodeType === 3 && node.textContent.trim());
  },

  // Pairs of lines of text, controls, tables and pictures that lie on one another.
  overlaps() {
    const whole = [...document.querySelectorAll(".scroll, .knobs input, button, svg")];
    const boxes = whole.map(it => [it, it.getBoundingClientRect()]);
    for (const it of this.leaves().filter(it => !it.closest(".scroll, button, svg"))) {
      for (const node of this.texts(it)) {
        const range = document.createRange();
        range.selectNodeContents(node);
        for (const line of range.getClientRects()) boxes.push([it, line]);
      }
    }
    const found = [];
    boxes.forEach(([a, r], i) => boxes.slice(i + 1).forEach(([b, s]) => {
      const wide = Math.min(r.right, s.right) - Math.max(r.left, s.left);
      const high = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
      if (a !== b && wide > 1 && high > 3 && !a.contains(b) && !b.contains(a)) found.push([a, b].map(it => it.outerHTML));
    }));
    return found;
  },

  // Where these are, less the room above and below letters.
  boxes(of) {
    return [...document.querySelectorAll(of)].map(it => {
      const r = it.getBoundingClientRect();
      return [r.left, r.right, r.top + 4, r.bottom - 4, it.textContent];
    });
  },

  // WCAG's contrast of two colours.
  ratio(a, b) {
    const light = colour => {
      const [r, g, b] = colour.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  },

  colour(text) {
    return text.match(/[\d.]+/g).map(Number);
  },

  under(it) {
    for (; it; it = it.parentElement) {
      const colour = this.colour(getComputedStyle(it).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  },

  // Each text with its contrast.
  contrast() {
    const html = this.leaves().filter(it => !(it instanceof SVGElement));
    const of = it => this.ratio(this.colour(getComputedStyle(it).color).slice(0, 3), this.under(it));
    return html.map(it => [it.textContent.slice(0, 40), of(it)]);
  },

  // The contrast of bars and of the curve.
  graphics() {
    const bars = [...document.querySelectorAll(".bar i")].filter(it => it.offsetWidth > 2);
    const of = it => this.ratio(this.colour(getComputedStyle(it).backgroundColor).slice(0, 3), this.under(it.parentElement));
    const curve = this.colour(getComputedStyle(document.querySelector("#curve text ~ path")).stroke).slice(0, 3);
    return [...bars.map(of), this.ratio(curve, this.under(document.querySelector(".card")))];
  },

  // Is that font of the system there? Then what it falls back to makes no difference.
  font(name) {
    const pen = document.createElement("canvas").getContext("2d");
    const width = font => { pen.font = "40px " + font; return pen.measureText("mwjQ0").width; };
    return width(`"${name}", monospace`) === width(`"${name}", serif`);
  },
})
