// The page: state, controls, drawing. The mathematics is in the script before it.
const DATA = JSON.parse($("data").textContent);
const START = {
  picture: "photos/0", basis: "dct", order: "spectrum",
  soft: 1, white: false, t: 0.5, seed: 1, row: 2, column: 3,
};
const state = { ...START };
const LABELS = {
  spectrum: "weak components (by softness)",
  column: "right-hand columns",
  level: "fine levels",
  radius: "high frequencies",
};
const CHOICES = {
  pixels: ["spectrum", "column"],
  dct: ["spectrum", "radius"],
  haar: ["spectrum", "level", "column"],
};

// What depends on picture and basis; what depends on the schedule; the state at t.
const scene = {}, plan = {}, now = {};

function compute(changed) {
  const names = Object.keys(changed), some = (...w) => w.some((n) => names.includes(n));
  if (some("picture", "basis", "seed")) chooseScene();
  if (some("picture", "basis", "order", "soft", "white")) chooseSchedule();
  if (some("picture", "basis", "row", "column")) chooseWave();
  lookAt(state.t);
}

function chooseScene() {
  const [name, index] = state.picture.split("/"), set = DATA[name], n = set.side;
  const basis = makeBasis(state.basis, n);
  const image = Float64Array.from(bytes(set.images[index]), (v) => v * set.step - 1);
  const logs = unpack(set.variances[state.basis]);
  const sorted = Array.from(logs.keys()).sort((a, b) => logs[b] - logs[a]);
  const rank = new Int32Array(n * n);
  sorted.forEach((i, k) => (rank[i] = k + 1));
  Object.assign(scene, {
    n, basis, image, logs, sorted, rank,
    c: basis.forward(image), mean: basis.forward(unpack(set.mean)),
    variances: logs.map(Math.exp), deviations: logs.map((l) => Math.exp(l / 2)),
    eps: normals(n * n, state.seed), low: least(logs), high: most(logs),
  });
  for (const k of ["gamma", "z", "guess"]) now[k] = new Float64Array(n * n);
}

function chooseSchedule() {
  const { logs, n, low, high } = scene, { soft, white } = state;
  const order = makeOrder(state.order, state.basis, n, logs);
  plan.scale = white ? scene.deviations : null;
  plan.schedule = state.order === "spectrum"
    ? softConditioning(logs, soft, order, white)
    : sequential(order, soft, white ? -7 : low - 7, white ? 3 : high + 3);
}

// The image of the chosen component alone.
function chooseWave() {
  const { n, basis } = scene, one = new Float64Array(n * n);
  state.row = Math.min(state.row, n - 1);
  state.column = Math.min(state.column, n - 1);
  one[state.row * n + state.column] = 1;
  scene.wave = basis.inverse(one);
}

function lookAt(t) {
  const { c, eps, mean, variances } = scene;
  gammaInto(now.gamma, plan.schedule, t);
  noisedInto(now.z, c, eps, now.gamma, plan.scale);
  guessInto(now.guess, now.z, now.gamma, mean, variances, plan.scale);
}

// Σ is 1 in the scale of the process where the noise has the variances of the data.
const logSNR = (i, gamma) => (state.white ? 0 : scene.logs[i]) - gamma;

function gammaOf(i, t) {
  const { low, slope, bounds } = plan.schedule, line = low[i] + t * slope[i];
  return bounds ? Math.min(bounds[1], Math.max(bounds[0], line)) : line;
}

let changed = {}; // since the last drawing
const draw = eachFrame(() => {
  compute(changed);
  changed = {};
  const { n, image, basis, wave } = scene, light = most(wave.map(Math.abs));
  showValues();
  paint("clean", n, GREY, image);
  paint("wave", n, GREY, wave.map((v) => v / light), 64);
  paint("noised", n, GREY, basis.inverse(now.z));
  paint("guess", n, GREY, basis.inverse(now.guess));
  paint("map", n, RAMP, now.gamma.map((g, i) => logSNR(i, g) / 8));
  markMap();
  drawSpectrum();
  drawCurves();
});

function change(values) {
  Object.assign(state, values);
  Object.assign(changed, values);
  draw();
}

// Colours of -1 to 1 in 256 steps: black to white; and blue, where noise is all, over
// near white to orange, where signal is all.
const ENDS = [[0, 114, 178], [242, 242, 242], [230, 159, 0]];
const GREY = Array.from({ length: 256 }, (_, i) => [i, i, i]);
const RAMP = GREY.map(([i]) => {
  const u = i / 127.5, k = u < 1 ? 0 : 1, share = u - k;
  return ENDS[k].map((a, j) => Math.round(a + share * (ENDS[k + 1][j] - a)));
});

// Squares at a whole-number zoom.
function paint(id, n, table, values, fixed) {
  const canvas = $(id), room = fixed || canvas.parentElement.clientWidth;
  const sharp = window.devicePixelRatio || 1; // pixels of the screen in one of the page
  const size = (n * Math.max(1, Math.floor((room * sharp) / n))) / sharp;
  if (!fixed) Object.assign(canvas.style, { width: `${size}px`, height: `${size}px` });
  if (canvas.width !== n) canvas.width = canvas.height = n;
  const ctx = canvas.getContext("2d"), data = ctx.createImageData(n, n);
  for (let i = 0; i < n * n; i++) {
    const level = Math.round(127.5 * (Math.min(1, Math.max(-1, values[i])) + 1));
    const colour = table[level];
    for (let j = 0; j < 3; j++) data.data[4 * i + j] = colour[j];
    data.data[4 * i + 3] = 255;
  }
  ctx.putImageData(data, 0, 0);
}

// A ring around the chosen component.
function markMap() {
  const map = $("map"), one = map.clientWidth / scene.n, size = Math.max(one, 7) + 4;
  const at = (place, start) => `${start + (place + 0.5) * one - size / 2}px`;
  Object.assign($("ring").style, {
    left: at(state.column, map.offsetLeft), top: at(state.row, map.offsetTop),
    width: `${size}px`, height: `${size}px`,
  });
}

function drawSpectrum() {
  const { ctx, w, h } = surface("spectrum", 0.62), { n, sorted, variances } = scene;
  const box = { left: 36, top: 8, width: w - 44, height: h - 44 }, count = n * n;
  const powers = (from, to, step) =>
    Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, i) => from + i * step);
  const low = Math.floor(scene.low / Math.LN10) - (state.white ? 2 : 1);
  const high = Math.ceil(Math.max(scene.high, 0) / Math.LN10);
  const named = (e) => [e, e === 0 ? "1" : e === 1 ? "10" : `10${sup(e)}`];
  const decades = powers(0, Math.floor(Math.log10(count)), 1).map((e) => [e, `${10 ** e}`]);
  const [X, Y] = axes(
    ctx, box,
    { from: -0.05, to: Math.log10(count) + 0.05, ticks: decades, label: "rank" },
    { from: low, to: high, ticks: powers(low, high, high - low > 5 ? 2 : 1).map(named), label: "" },
  );
  const size = n > 8 ? 2 : 5;
  const dots = (colour, value) => {
    ctx.fillStyle = colour;
    for (let k = 0; k < count; k += 1 + (k >> 8)) { // fewer where they are dense
      const v = Math.log10(value(sorted[k]));
      if (v >= low) ctx.fillRect(X(Math.log10(k + 1)) - size / 2, Y(v) - size / 2, size, size);
    }
  };
  const keep = (i) => 1 / (1 + Math.exp(now.gamma[i]));
  dots(colours.noise, (i) => (1 - keep(i)) * (plan.scale ? variances[i] : 1));
  dots(colours.data, (i) => keep(i) * variances[i]);
  ctx.save();
  ctx.fillStyle = colours.soft;
  ctx.textAlign = "left";
  ctx.fillText("variance", box.left + 6, box.top + 20);
  ctx.restore();
}

const sup = (e) => [...String(e)].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[+d] ?? "⁻").join("");

// Dark to light, as in the colour map viridis, kept off the lightest end.
const SHADES = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#bddf26"];
const SHADES_DARK = ["#fde725", "#7ad151", "#22a884", "#2a9d9e", "#5f86c4", "#9a6fb8"];

function drawCurves() {
  const { ctx, w, h } = surface("curves", 0.62), { n, sorted } = scene, count = n * n;
  const box = { left: 36, top: 8, width: w - 44, height: h - 44 };
  const [X, Y] = axes(
    ctx, box,
    { from: 0, to: 1, ticks: ticks([0, 0.5, 1], 1), label: "time t" },
    { from: -20, to: 20, ticks: ticks([-20, -10, 0, 10, 20]), label: "" },
  );
  ctx.save();
  ctx.beginPath();
  ctx.rect(box.left, box.top, box.width, box.height);
  ctx.clip();
  line(ctx, [[X(0), Y(0)], [X(1), Y(0)]], colours.soft, 1, [2, 3]);
  const curve = (i) => Array.from({ length: 101 }, (_, k) => {
    const t = k / 100;
    return [X(t), Y(logSNR(i, gammaOf(i, t)))];
  });
  const shades = root.dataset.theme === "dark" ? SHADES_DARK : SHADES;
  const ranks = shades.map((_, k) => Math.round(count ** (k / 5)));
  ranks.forEach((rank, k) => line(ctx, curve(sorted[rank - 1]), shades[k], 1.8));
  $("ranks").innerHTML = ranks
    .map((rank, k) => `<span class="key" style="--key: ${shades[k]}">${rank}</span>`)
    .join(" ");
  line(ctx, curve(state.row * n + state.column), colours.mark, 2.6, [6, 3]);
  line(ctx, [[X(state.t), Y(-20)], [X(state.t), Y(20)]], colours.mark, 1.5);
  ctx.fillStyle = colours.soft;
  ctx.textAlign = "left";
  ctx.textBaseline = "bottom";
  ctx.fillText("more noise than signal below 0", box.left + 6, box.top + box.height - 5);
  ctx.restore();
}

function showValues() {
  const { t, soft, row, column, basis } = state, { n, rank } = scene, i = row * n + column;
  const ordered = state.order !== "spectrum";
  $("t-out").textContent = t.toFixed(3);
  $("soft-out").textContent = soft.toFixed(2);
  $("soft-name").innerHTML = ordered ? "window softness <i>b</i>" : "softness <i>a</i>";
  Object.assign($("soft"), { max: ordered ? 0.95 : 3, value: soft });
  $("t").value = t;
  const snr = logSNR(i, now.gamma[i]);
  const kind = { pixels: "Pixel", dct: "Cosine", haar: "Haar coefficient" }[basis];
  $("picked").textContent = `${kind} (${row}, ${column}), rank ${rank[i]} of ${n * n}: ` +
    `log-SNR ${signed(snr, 1)}. Choose another one on the map, by touch or arrow keys.`;
  let above = 0;
  for (let k = 0; k < n * n; k++) above += logSNR(k, now.gamma[k]) > 0;
  if (!timer.running()) $("said").textContent =
    `${inWords()} At t = ${t.toFixed(2)}, ${above} of ${n * n} components have more signal than noise.`;
}

function inWords() {
  const { soft, white, order } = state;
  const even = order === "spectrum" ? soft === 0 : white && soft === 0;
  const standard = order === "spectrum" ? soft === 1 : !white && soft === 0;
  if (even) return "All components have the same log-SNR at every time.";
  if (standard)
    return white
      ? "The log-SNRs are those of standard diffusion, the noise has the variances of the data."
      : "Standard diffusion: one noise level for all components, whatever the basis.";
  if (order === "spectrum")
    return soft < 1
      ? "Less hierarchy than in standard diffusion: strong and weak components lose their signal closer together."
      : "More hierarchy than in standard diffusion: weak components lose their signal long before strong ones.";
  const first = { column: "Columns, the right-most first,", level: "Levels, the finest first,",
    radius: "Frequencies, the highest first," }[order];
  return `${first} turn to noise one after the other; each takes ${(100 * (1 - soft)).toFixed(0)} % of the time.`;
}

function offerOrders() {
  $("order").replaceChildren(...CHOICES[state.basis].map((name) =>
    new Option(LABELS[name], name, false, name === state.order)));
}

function chooseOrder(order, soft) {
  const known = CHOICES[state.basis].includes(order) ? order : "spectrum";
  const usual = known === "spectrum" ? 1 : 0.6;
  const values = { order: known };
  if (soft !== undefined) values.soft = soft;
  else if ((known === "spectrum") !== (state.order === "spectrum")) values.soft = usual;
  Object.assign(state, values);
  offerOrders();
  return values;
}

const timer = player($("play"), () => state.t, (t) => change({ t }));
$("play").addEventListener("click", () => {
  if (timer.running()) return timer.stop();
  if (state.t > 0.999) change({ t: 0 });
  timer.play(1);
});
$("t").addEventListener("input", (e) => {
  timer.stop();
  change({ t: +e.target.value });
});
$("soft").addEventListener("input", (e) => {
  change({ soft: Math.round(50 * e.target.value) / 50 });
});
$("picture").addEventListener("change", (e) => change({ picture: e.target.value }));
$("white").addEventListener("change", (e) => change({ white: e.target.checked }));
$("order").addEventListener("change", (e) => change(chooseOrder(e.target.value)));
$("basis").addEventListener("change", (e) => {
  state.basis = e.target.value;
  change({ basis: e.target.value, ...chooseOrder(state.order) });
});
$("again").addEventListener("click", () => change({ seed: state.seed + 1 }));

function setAll(values) {
  timer.stop();
  Object.assign(state, values);
  document.querySelector(`[name=basis][value=${state.basis}]`).checked = true;
  $("picture").value = state.picture;
  $("white").checked = state.white;
  offerOrders();
  change({ ...state });
}
each("[data-at]", (b) => b.addEventListener("click", () => {
  const [basis, order, soft] = b.dataset.at.split(",");
  setAll({ basis, order, soft: +soft });
}));
$("reset").addEventListener("click", () => setAll(START));

function pick(e) {
  const { width, height } = $("map").getBoundingClientRect(), { n } = scene;
  const at = (v, size) => Math.min(n - 1, Math.max(0, Math.floor((v / size) * n)));
  change({ row: at(e.offsetY, height), column: at(e.offsetX, width) });
}
$("map").addEventListener("pointerdown", (e) => {
  $("map").setPointerCapture(e.pointerId);
  pick(e);
});
$("map").addEventListener("pointermove", (e) => e.buttons && pick(e));
$("map").addEventListener("keydown", (e) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
  if (!step) return;
  e.preventDefault();
  const move = (v, d) => Math.min(scene.n - 1, Math.max(0, v + d));
  change({ row: move(state.row, step[0]), column: move(state.column, step[1]) });
});

$("picture").append(
  new Option("photograph: tower", "photos/0"),
  new Option("photograph: flower", "photos/1"),
  ...DATA.digits.images.map((_, i) => new Option(`digit: ${i}`, `digits/${i}`)),
);
watch(draw);
setAll(START);
