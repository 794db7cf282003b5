const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id), N = v => v.map(Number), ONE = D.temperatures.length >> 1;
const state = {}, total = list => list.reduce((a, b) => a + b, 0);

// -- the loss of one row: the shown classes, and the others as one logsumexp -----------------------

function walk(row, z, w, k, e) {
  const s = D.scale / D.temperatures[k], cap = D.softcap, o = row.others, V = D.classes, t = row.token;
  const shape = v => cap === null ? v * s : cap * Math.tanh(v * s / cap), x = z.map(shape);
  const slope = z.map(v => cap === null ? s : s / Math.cosh(v * s / cap) ** 2);
  const [far, more, weighted, shared] = o ? N(o.crowds[k]) : [0, 0, 0, 0], every = o ? [...x, far] : x;
  const m = Math.max(...every), top = every.indexOf(m);
  // The peak is left out: added to its 1, the rest of a confident row would be lost.
  const besides = (list, peak, at) => list.reduce((sum, v, j) => j === at ? sum : sum + Math.exp(v - peak), isFinite(peak) ? 0 : NaN);
  const rest = besides(every, m, top), log = Math.log1p(rest), lse = m + log;
  const p = every.map(v => Math.exp(v - m) / (1 + rest)), nll = every.map(v => log - (v - m));
  const pull = w.map((v, j) => v * row.share[j]), weights = [...w];
  if (o) { pull.push(o.shares); weights.push(o.weights); }
  const dot = (a, b, more) => a.reduce((sum, v, j) => v ? sum + v * b[j] : sum, more);
  const hard = dot(pull, nll, shared), smooth = dot(weights, nll, weighted);
  const asked = pull.map((v, j) => (1 - e) * v + e / V * weights[j]);
  const z2 = D.z_loss ? D.z_loss * lse * lse : 0;
  const own = (1 - e) * hard, spread = e ? e / V * smooth : 0, loss = t * (own + spread + z2);
  const most = asked.indexOf(Math.max(...asked)), sum = total(asked);
  const beside = j => j === most ? total(asked.filter((_, i) => i !== j)) : sum - asked[j];
  const slack = j => j === top ? rest / (1 + rest) : 1 - p[j];  // 1 - p, with all its digits
  const push = j => t * (beside(j) * p[j] - asked[j] * slack(j) + (D.z_loss ? 2 * D.z_loss * lse * p[j] : 0));
  const gradient = every.map((_, j) => push(j) * (j < z.length ? slope[j] : s));
  const high = o ? shape(Number(o.max)) : -Infinity, peak = Math.max(...x, high), at = x.indexOf(peak);  // of single classes
  const beyond = besides(x, peak, at) + (o ? at < 0 ? more : (1 + more) * Math.exp(high - peak) : 0);
  return {x, peak, rest: beyond, log: Math.log1p(beyond), lse, p, nll, hard, smooth, own, spread, z2, loss, asked, sum, gradient};
}

// -- numbers as the terminal writes them -----------------------------------------------------------

function number(v, places = 6) {
  if (!isFinite(v)) return v !== v ? "nan" : v > 0 ? "inf" : "-inf";
  if (v === 0) return "0";
  if (Math.abs(v) >= 10 ** (-1 - (places >> 1)) && Math.abs(v) < 1e6) return v.toFixed(places);
  return padded(v.toExponential(Math.max(places - 2, 2)));
}
const padded = text => text.replace(/e([+-])(\d)$/, "e$10$2");
const general = v => v && v < 1e-4 ? padded((+v.toPrecision(6)).toExponential()) : +v.toPrecision(6);
const short = v => number(v, 4), signed = v => (v > 0 ? "+" : "") + short(v);
const count = n => n.toLocaleString("en-US");

// -- the page --------------------------------------------------------------------------------------

function fill(it, attributes, ...children) {
  for (const name in attributes) it.setAttribute(name, attributes[name]);
  it.append(...children);
  return it;
}
const make = (tag, ...rest) => fill(document.createElement(tag), ...rest);
const svg = (tag, ...rest) => $("curve").append(fill(document.createElementNS($("curve").namespaceURI, tag), ...rest));
const cell = (kind, ...children) => make("td", {class: kind}, ...children);
const head = (text, more) => make("th", {scope: "row", ...more}, text);
const tell = (it, value, text) => { it.textContent = text; it.dataset.value = value; };
const name = (row, j) => row.index[j] + (row.names[j] && " " + row.names[j]);
const where = row => row.at.join(", ") || "0";

function rows() {
  const most = Math.max(...D.rows.map(row => row.loss).filter(isFinite), 1e-300);
  D.rows.forEach((row, at) => {
    const bar = make("i"), input = make("input", {type: "radio", name: "row"});
    bar.style.width = Math.min(100, Math.max(0, 100 * row.loss / most)) + "%";
    input.onchange = () => choose(at);
    $("rows").append(make("label", {}, input, "row " + where(row), make("b", {}, row.ignored ? "ignored" : number(+row.loss, 4)), bar));
  });
}

function choose(at) {
  const row = D.rows[at], z = N(row.z), finite = [0, ...z.filter(isFinite)];
  Object.assign(state, {row, z, w: N(row.weight), k: ONE, e: D.smoothing, lines: []});
  state.low = Math.floor(Math.min(...finite)) - 4;
  state.high = Math.ceil(Math.max(...finite)) + 4;
  document.getElementsByName("row")[at].checked = true;
  const target = row.ignored ? "ignored" : row.picked < 0 ? "asks nothing" : "target " + (D.soft ? "asks most of" : "=") + " class " + name(row, row.picked);
  $("row-title").textContent = "row " + where(row) + " · " + target + " · " + count(D.classes) + " classes";
  $("classes").tBodies[0].replaceChildren(...z.map((_, j) => line(row, j)), ...(row.others ? [crowd(row.others)] : []));
  for (const id of ["t", "e", "w", "reset"]) $(id).disabled = row.ignored;
  show();
}

function line(row, j) {
  const {low, high, z, lines} = state, target = j === row.picked, called = name(row, j);
  const slider = make("input", {type: "range", step: "any", min: low, max: high, "aria-label": "logit of class " + called}), was = make("i"), it = {slider, z: make("data")};
  slider.oninput = () => { z[j] = +slider.value; show(); };
  keys(slider, () => Math.max(z[j], low), v => { z[j] = v; }, .1);
  was.style.left = `calc(8px + (100% - 16px) * ${(Math.max(z[j], low) - low) / (high - low) || 0})`;
  it.weight = make("input", {type: "number", min: 0, step: "any", "aria-label": "weight of class " + called});
  it.weight.oninput = () => { if (it.weight.value >= 0) { state.w[j] = +it.weight.value; show(); } };
  lines.push(it);
  return make("tr", target ? {class: "target"} : {}, head((target ? "→ " : "") + called, {title: called}),
    cell("n", it.z), cell("wide", make("span", {class: "drag"}, slider, was)), cell("w", it.weight), ...bars(it));
}

function crowd(others) {
  const it = {}, n = others.count;
  state.lines.push(it);
  return make("tr", {class: "others quiet"}, head("… " + count(n) + (n === 1 ? " other" : " others")),
    cell("n", "≤ " + short(Number(others.max))), cell("wide", "as one logsumexp"), cell("w"), ...bars(it));
}

function bars(it) {
  for (const part of ["p", "g"]) it[part] = make("data");
  for (const part of ["bar", "pull"]) it[part] = make("i");
  const track = (kind, bar) => cell("", make("span", {class: kind, "aria-hidden": true}, bar));
  return [cell("n", it.p), track("bar", it.bar), cell("n", it.g), track("bar pull", it.pull)];
}

function keys(slider, get, set, step) {
  slider.onkeydown = event => {
    const by = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10}[event.key];
    if (!by) return;  // Home and End are the browser's
    event.preventDefault();
    set(Math.min(slider.max, Math.max(slider.min, +(get() + by * (event.shiftKey ? step / 10 : step)).toFixed(12))));
    show();
  };
}

const asGiven = () => state.k === ONE && state.e === D.smoothing && !reweighted();
const reweighted = () => state.row.weight.some((v, j) => Number(v) !== state.w[j]);

function show() {
  const {row, z, w, k, e, lines, low} = state, T = D.temperatures[k];
  document.body.className = $("w").checked ? "weights" : "";
  $("t").value = k;
  $("e").value = e;
  tell($("t-out"), T, +T.toFixed(3));
  tell($("e-out"), e, +e.toFixed(3));
  $("t").setAttribute("aria-valuetext", +T.toFixed(3));
  $("curve").replaceChildren();
  if (row.ignored) {
    tell($("loss"), 0, "0");
    $("change").textContent = row.why;
    for (const id of ["whole", "steps", "terms"]) $(id).replaceChildren();
    return;
  }
  const now = walk(row, z, w, k, e), was = walk(row, N(row.z), N(row.weight), ONE, D.smoothing), full = Math.abs(row.token * now.sum) || 1;
  const by = now.loss - was.loss, g = now.gradient, sum = total(g), size = total(g.map(Math.abs));
  tell($("loss"), now.loss, number(now.loss));
  $("change").textContent = by ? (by > 0 ? "+" : "−") + number(Math.abs(by)) + " from your tensor" : "as in your tensor";
  whole(now, was);
  lines.forEach((it, j) => {
    tell(it.p, now.p[j], short(now.p[j]));
    tell(it.g, g[j], signed(g[j]));
    it.bar.style.width = 100 * now.p[j] + "%";
    it.pull.className = g[j] < 0 ? "neg" : "";
    it.pull.style.width = Math.min(50, 50 * Math.abs(g[j] / full)) + "%";
    if (!it.slider) return;
    tell(it.z, z[j], short(z[j]));
    it.slider.value = Math.max(z[j], low);
    it.slider.setAttribute("aria-valuetext", short(z[j]) + ", probability " + short(now.p[j]));
    if (document.activeElement !== it.weight) it.weight.value = w[j];
  });
  $("p-sum").textContent = short(total(now.p));
  $("g-sum").textContent = D.softcap && row.others ? "" : Math.abs(sum) < 1e-14 * size ? "0" : signed(sum);
  curve(now, was, row.picked);
  steps(now);
}

function whole(now, was) {
  const {name, rows, divisor} = D.reduction, loss = (D.reduction.total - was.loss + now.loss) / divisor, text = name + " over " + count(rows) + (rows === 1 ? " row" : " rows"), it = make("data");
  tell(it, loss, number(loss));
  $("whole").replaceChildren(...(name === "none" ? ["not reduced"] : asGiven() ? [text + ": ", it] : ["the " + text + " with these options takes all rows"]));
}

function curve(now, was, j) {
  if (j < 0) return;
  const high = Math.max(5, ...[now, was].map(facts => facts.nll[j] * 1.12).filter(isFinite));
  const x = p => 34 + 216 * p, y = v => 112 - 102 * Math.min(v, high) / high;
  let path = "M";
  for (let i = 0; i <= 90; i++) { const v = high * (1 - i / 90) ** 2; path += x(Math.exp(-v)).toFixed(1) + " " + y(v).toFixed(1) + " "; }
  svg("title", {}, "−log p of the target is " + number(now.nll[j]) + ", where p is " + short(now.p[j]));
  svg("path", {class: "axes", d: "M34 10V112H250"});
  for (const [x, y, text] of [[34, 126, "0"], [142, 126, "p"], [250, 126, "1"], [22, 112, "0"], [14, 18, +high.toPrecision(3)]]) svg("text", {x, y, "text-anchor": "middle"}, text);
  svg("path", {d: path});
  for (const [facts, kind, r] of [[was, "was", 4], [now, "now", 6]]) if (facts.nll[j] >= 0) svg("circle", {class: kind, r, cx: x(facts.p[j]), cy: y(facts.nll[j])});
}

// -- the steps, in the words of the terminal -------------------------------------------------------

function steps(now) {
  const {row, z, w, k, e} = state, j = row.picked, list = [], scale = D.scale / D.temperatures[k], c = D.softcap;
  const moves = c !== null || scale !== 1, X = moves ? "x" : "z";
  if (row.head && z[j] === row.z[j]) list.push(row.head);
  if (moves && j >= 0) {
    const inner = scale === 1 ? "z" : "s z", given = (scale === 1 ? "" : short(scale) + " × ") + short(z[j]);
    list.push(["shape", "x = " + (c ? "c tanh(" + inner + " / c)" : inner),
      "x[target] = " + (c ? short(c) + " tanh(" + given + " / " + short(c) + ")" : given) + " = " + short(now.x[j])]);
  }
  list.push(["peak", "m = max " + X, "m = " + short(now.peak)]);
  list.push(["sum", "Σ exp(" + X + "−m) = 1 + rest,  logsumexp = m + log(1 + rest)",
    "1 + " + number(now.rest) + ",  logsumexp = " + short(now.peak) + " + " + number(now.log) + " = " + number(now.lse)]);
  if (j >= 0) {
    const below = now.x[j] - now.peak;
    if (D.soft) list.push(["ask", "Σ q w (−log p) = Σ q w (log(1 + rest) − (" + X + " − m))",
      "largest share " + number(now.asked[j], 4) + " at class " + row.index[j] + ": " + number(now.hard) + " in all"]);
    else list.push(["pick", "p[target] = exp(" + X + "[target] − logsumexp)", "exp(" + short(now.x[j]) + " − " + number(now.lse, 4) + ") = " + number(now.p[j])],
      ["−log", "−log p[target] = log(1 + rest) − (" + X + "[target] − m)", number(now.log) + " − (" + number(below, 4) + ") = " + number(now.nll[j])]);
    list.push(push(now, j, moves));
  }
  const said = (tag, formula, text) => make(tag, {}, make("span", {class: "quiet"}, formula), make("code", {}, text));
  $("steps").replaceChildren(...list.map(([name, ...rest]) => make("li", {}, make("b", {}, name), said("div", ...rest))));
  $("terms").replaceChildren(...summands(now, w[j], e).flatMap(([name, ...rest]) => [make("dt", {}, name), said("dd", ...rest)]));
}

function push(now, j, moves) {
  const t = D.tokens ? "t " : "", share = asGiven() ? D.share : 1, g = signed(now.gradient[j] * share), rest = number(now.rest);
  if (D.soft || D.weighted || reweighted() || state.e || D.z_loss || moves || state.row.token !== 1) return ["gradient",
    "dL/dz = " + t + "(p Σ a − a" + (D.z_loss ? " + 2ζ logsumexp p)" : ")") + (moves ? " dx/dz" : "") + " / divisor, a the share asked", g + " at the target"];
  const less = now.x[j] === now.peak && now.rest < 1e-3 ? "−" + rest + " / (1 + " + rest + ")" : "(" + number(now.p[j]) + " − 1)";
  return ["gradient", "dL/dz = (p − 1[target]) / divisor", less + " × " + number(share) + " = " + g];
}

function summands(now, weight, e) {
  const list = [], parts = [], share = general(e), hard = number(now.hard);
  const add = (name, formula, text, value, last = true) => {
    list.push([name, formula, text + number(value)]);
    if (last) parts.push(value);
  };
  if (!D.soft && (D.weighted || reweighted())) add("class weight", "w[target] × −log p[target]", short(weight) + " × " + number(weight ? now.hard / weight : 0) + " = ", now.hard, !e);
  else if (!e && D.z_loss) add("target", D.soft ? "Σ q w (−log p)" : "−log p[target]", "", now.hard);
  if (e) add("target's share", "(1 − e) × hard", "(1 − " + share + ") × " + hard + " = ", now.own);
  if (e) add("label smoothing", "e/V × Σ w (−log p)", share + "/" + D.classes + " × " + number(now.smooth) + " = ", now.spread);
  if (D.z_loss) add("z-loss", "ζ × logsumexp²", general(D.z_loss) + " × " + number(now.lse) + "² = ", now.z2);
  const together = parts.length ? total(parts) : now.hard;
  if (parts.length > 1) add("row loss", "what adds up", parts.map(v => number(v)).join(" + ") + " = ", together, false);
  if (D.tokens) add("token weight", "t × row loss", short(state.row.token) + " × " + number(together) + " = ", now.loss, false);
  return list;
}

// -- start -----------------------------------------------------------------------------------------

$("t").oninput = () => { state.k = +$("t").value; show(); };
$("e").oninput = () => { state.e = +$("e").value; show(); };
keys($("e"), () => state.e, v => { state.e = v; }, .01);
$("w").checked = D.weighted;
$("w").onchange = show;
$("reset").onclick = () => choose(D.rows.indexOf(state.row));
if (D.rows.length) { $("app").hidden = false; rows(); choose(D.first); }
