// The page: state, controls, drawing. The mathematics is in the script before it.
const N = 200, STEPS = 120, TRAILS = 6, REACH = 3.4;
const START = { Gamma: 0.01, nu: 4.01, M: 0.25, t: 0.12, way: "forward", seed: 1 };
const state = { ...START };
const grid = times(STEPS);
let xi, process, route, mean; // normal numbers, recipe, paths, the law from x = 1
let stale = true; // whether more than t has changed since the last drawing

function compute() {
  process = recipe(state.Gamma, state.nu, state.M);
  route = paths(process, grid, N, xi, state.way);
  mean = Array.from({ length: 121 }, (_, i) => {
    const t = (i / 120) ** 2;
    return { t, ...transition(process, BETA * t, hsm(process)) };
  });
}

const draw = eachFrame(() => {
  if (stale) {
    compute();
    drawMap();
    drawModes();
  }
  stale = false;
  showValues();
  drawPlane();
  drawMemory();
});

function redraw() {
  stale = true;
  draw();
}

function change(values) {
  Object.assign(state, values);
  stale ||= Object.keys(values).some((k) => k !== "t");
  draw();
}

function renewNoise(seed) {
  xi = normals((STEPS + 1) * N * 4, seed);
  change({ seed });
}

// Position and momentum of particle j at a time between two rows of the grid.
function particle(j, i, share) {
  const at = 2 * (i * N + j), next = at + (i < STEPS ? 2 * N : 0);
  const between = (a, b) => a + share * (b - a);
  return [between(route[at], route[next]), between(route[at + 1], route[next + 1])];
}

function drawPlane() {
  const { ctx, w, h } = surface("plane", 1), unit = Math.sqrt(state.M), top = 62;
  const box = { left: 36, top, width: w - 36 - 62, height: h - top - 34 };
  const x = { from: -REACH, to: REACH, ticks: ticks([-2, 0, 2]), label: "position x" };
  const y = {
    from: -REACH * unit, to: REACH * unit,
    ticks: [-2, 0, 2].map((v) => [v * unit, signed(v * unit, 1)]),
    label: "momentum m",
  };
  ctx.save();
  const [X, Y] = axes(ctx, box, x, { ...y, label: "" });
  const law = lawAt(process, state.t);
  ctx.save();
  ctx.beginPath();
  ctx.rect(box.left, box.top, box.width, box.height);
  ctx.clip();
  drawArrows(ctx, X, Y, law, unit);
  ellipse(ctx, X, Y, { x: 0, m: 0, C: process.S }, 2, colours.soft, null, [5, 4]);
  for (const g of law) {
    ellipse(ctx, X, Y, g, 2, colours.noise, colours["noise-faint"]);
    ellipse(ctx, X, Y, g, 1, colours.noise, colours["noise-faint"]);
  }
  const u = Math.sqrt(state.t) * STEPS, i = Math.min(STEPS - 1, Math.floor(u));
  drawParticles(ctx, X, Y, i, u - i);
  ctx.restore();
  drawMarginals(ctx, box, X, Y, law, i, u - i, unit);
  ctx.fillStyle = colours.soft;
  ctx.textAlign = "left";
  ctx.textBaseline = "top";
  ctx.fillText("momentum m", box.left + 5, box.top + 5);
  ctx.restore();
  const spoken = `Phase space at t = ${state.t.toFixed(2)}, ${state.way}: ${N} particles`;
  $("plane").setAttribute("aria-label", `${spoken} and the exact law`);
}

// The curve on which a normal law has `size` standard deviations.
function ellipse(ctx, X, Y, { x, m, C }, size, stroke, fill, dash = []) {
  const a = Math.sqrt(C[0]), c = C[1] / a, d = Math.sqrt(Math.max(0, C[2] - c * c));
  ctx.beginPath();
  for (let k = 0; k <= 72; k++) {
    const u = size * Math.cos((k * Math.PI) / 36), v = size * Math.sin((k * Math.PI) / 36);
    ctx.lineTo(X(x + a * u), Y(m + c * u + d * v));
  }
  ctx.setLineDash(dash);
  ctx.lineWidth = 1.4;
  ctx.strokeStyle = stroke;
  ctx.fillStyle = fill;
  if (fill) ctx.fill();
  ctx.stroke();
  ctx.setLineDash([]);
}

// Where a particle is carried in the direction of travel, noise left out.
function drawArrows(ctx, X, Y, law, unit) {
  const out = [0, 0], A = process.A, sign = state.way === "forward" ? 1 : -1;
  ctx.strokeStyle = colours.soft;
  ctx.globalAlpha = 0.55;
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (let i = -5; i <= 5; i++) {
    for (let j = -5; j <= 5; j++) {
      const x = i * 0.62, m = j * 0.62 * unit;
      if (state.way === "forward") {
        out[0] = A[0] * x + A[1] * m;
        out[1] = A[2] * x + A[3] * m;
      } else driftInto(out, process, law, x, m, state.way === "sde" ? 2 : 1);
      let dx = sign * (X(out[0]) - X(0)), dy = sign * (Y(out[1]) - Y(0));
      const size = Math.hypot(dx, dy) || 1, length = 15 * Math.tanh(size / 250);
      dx *= length / size;
      dy *= length / size;
      const x1 = X(x) + dx, y1 = Y(m) + dy;
      ctx.moveTo(X(x), Y(m));
      ctx.lineTo(x1, y1);
      ctx.lineTo(x1 - 0.3 * dx - 0.2 * dy, y1 - 0.3 * dy + 0.2 * dx);
      ctx.moveTo(x1, y1);
      ctx.lineTo(x1 - 0.3 * dx + 0.2 * dy, y1 - 0.3 * dy - 0.2 * dx);
    }
  }
  ctx.stroke();
  ctx.globalAlpha = 1;
}

function drawParticles(ctx, X, Y, i, share) {
  ctx.fillStyle = colours.data;
  ctx.globalAlpha = 0.55;
  for (let j = 0; j < N; j++) {
    const [x, m] = particle(j, i, share);
    ctx.fillRect(X(x) - 1.5, Y(m) - 1.5, 3, 3);
  }
  ctx.globalAlpha = 1;
  for (let j = 0; j < TRAILS; j++) {
    const now = particle(j, i, share), before = [];
    if (state.way === "forward") for (let k = 0; k <= i; k++) before.push(k);
    else for (let k = STEPS; k > i; k--) before.push(k);
    const trail = [...before.map((k) => particle(j, k, 0)), now];
    line(ctx, trail.map(([x, m]) => [X(x), Y(m)]), colours.data, 1.5);
    ctx.beginPath();
    ctx.arc(X(now[0]), Y(now[1]), 4.5, 0, 7);
    ctx.fillStyle = colours.data;
    ctx.fill();
    ctx.strokeStyle = colours.bg;
    ctx.stroke();
  }
}

// Histograms of the particles, and the exact densities, above and at the right.
function drawMarginals(ctx, box, X, Y, law, i, share, unit) {
  const bins = 28, counts = [new Float64Array(bins), new Float64Array(bins)];
  for (let j = 0; j < N; j++) {
    const [x, m] = particle(j, i, share);
    for (const [k, v] of [[0, x], [1, m / unit]]) {
      const bin = Math.floor(((v + REACH) / (2 * REACH)) * bins);
      if (bin >= 0 && bin < bins) counts[k][bin] += bins / (2 * REACH * N);
    }
  }
  const density = (k) => (v) => {
    let p = 0;
    for (const g of law) {
      const mean = k ? g.m / unit : g.x, variance = k ? g.C[2] / state.M : g.C[0];
      const far = ((v - mean) ** 2) / (2 * variance);
      p += (g.p * Math.exp(-far)) / Math.sqrt(2 * Math.PI * variance);
    }
    return p;
  };
  const right = box.left + box.width, bottom = box.top + box.height;
  for (const k of [0, 1]) {
    const at = density(k), points = [];
    for (let n = 0; n <= 170; n++) {
      const v = -REACH + (n / 170) * 2 * REACH;
      points.push([v, at(v)]);
    }
    const high = Math.max(...points.map((p) => p[1]), ...counts[k], 0.4);
    const up = (p) => (p / high) * 54;
    ctx.fillStyle = colours.data;
    ctx.globalAlpha = 0.35;
    for (let n = 0; n < bins; n++) {
      const size = up(counts[k][n]);
      if (k) {
        const step = box.height / bins;
        ctx.fillRect(right + 4, bottom - (n + 1) * step, size, step - 1);
      } else {
        const step = box.width / bins;
        ctx.fillRect(box.left + n * step, box.top - 4 - size, step - 1, size);
      }
    }
    ctx.globalAlpha = 1;
    const place = ([v, p]) =>
      k ? [right + 4 + up(p), Y(v * unit)] : [X(v), box.top - 4 - up(p)];
    line(ctx, points.map(place), colours.noise, 1.8);
  }
}

const MAP = { left: 30, top: 8 };
function drawMap() {
  const { ctx, w, h } = surface("map", 0.95);
  const box = { ...MAP, width: w - 38, height: h - 42 };
  const [X, Y] = axes(
    ctx, box,
    { from: 0, to: 10, ticks: ticks([0, 5, 10]), label: "friction ν" },
    { from: 0, to: 4, ticks: ticks([0, 2, 4]), label: "" },
  );
  ctx.save();
  ctx.beginPath();
  ctx.rect(box.left, box.top, box.width, box.height);
  ctx.clip();
  ctx.fillStyle = colours["noise-faint"];
  ctx.fillRect(box.left, box.top, box.width, box.height);
  const half = 2 / Math.sqrt(state.M); // critical: |Γ - ν| = 2/√M
  const strip = [[-half, 0], [half, 0], [half + 4, 4], [4 - half, 4]];
  ctx.beginPath();
  for (const [nu, G] of strip) ctx.lineTo(X(nu), Y(G));
  ctx.fillStyle = colours.bg;
  ctx.fill();
  ctx.fillStyle = colours["data-faint"];
  ctx.fill();
  for (const s of [half, -half])
    line(ctx, [[X(s), Y(0)], [X(s + 4), Y(4)]], colours.ink, 1.5);
  ctx.fillStyle = colours.ink;
  ctx.textBaseline = "middle";
  ctx.textAlign = "center";
  const middle = Math.max(1.7, Math.min(half - 1, 8) / 2 + 0.8);
  ctx.fillText("under", X(middle), Y(1.7));
  if (half < 7) ctx.fillText("over", X((half + 10.6) / 2), Y(0.8));
  ctx.textAlign = "left";
  ctx.fillStyle = colours.soft;
  ctx.fillText("Γ", box.left + 5, box.top + 9);
  ctx.restore();
  dot(ctx, X(state.nu), Y(state.Gamma), colours.mark, 6);
}

function dot(ctx, x, y, colour, size) {
  ctx.beginPath();
  ctx.arc(x, y, size, 0, 7);
  ctx.fillStyle = colour;
  ctx.fill();
  ctx.lineWidth = 1.5;
  ctx.strokeStyle = colours.bg;
  ctx.stroke();
}

function drawModes() {
  const { ctx, w, h } = surface("modes", 0.95);
  const box = { left: 26, top: 8, width: w - 34, height: h - 42 };
  const [X, Y] = axes(
    ctx, box,
    { from: -12, to: 1.5, ticks: ticks([-10, -5, 0]), label: "real part" },
    { from: -5, to: 5, ticks: ticks([-4, 0, 4]), label: "" },
  );
  line(ctx, [[X(0), Y(-5)], [X(0), Y(5)]], colours.line, 1);
  line(ctx, [[X(-12), Y(0)], [X(1.5), Y(0)]], colours.line, 1);
  ctx.fillStyle = colours.soft;
  ctx.textAlign = "left";
  ctx.textBaseline = "top";
  ctx.fillText("imaginary part", box.left + 5, box.top + 4);
  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  for (const [re, im] of eigenvalues(process))
    dot(ctx, X(clamp(re, -12, 1.5)), Y(clamp(im, -5, 5)), colours.mark, 6);
  $("modes").setAttribute("aria-label", `Eigenvalues of A: ${modesInWords()}`);
}

function modesInWords() {
  const [[a, im], [b]] = eigenvalues(process);
  if (im) return `${signed(a, 2)} ± ${im.toFixed(2)}i`;
  return Math.abs(a - b) < 1e-6 ? `${signed(a, 2)}, twice` : `${signed(a, 2)} and ${signed(b, 2)}`;
}

function drawMemory() {
  const { ctx, w, h } = surface("memory", 0.46);
  const box = { left: 30, top: 6, width: w - 40, height: h - 38 };
  const [X, Y] = axes(
    ctx, box,
    { from: 0, to: 1, ticks: ticks([0, 0.5, 1], 1), label: "time t" },
    { from: -1.05, to: 1.05, ticks: ticks([-1, 0, 1]), label: "" },
  );
  line(ctx, [[X(0), Y(0)], [X(1), Y(0)]], colours.line, 1);
  const kept = [], turned = [], noisy = [], unit = Math.sqrt(state.M);
  for (const { t, Phi, Sigma } of mean) {
    kept.push([X(t), Y(Phi[0])]);
    turned.push([X(t), Y(Phi[2] / unit)]);
    noisy.push([X(t), Y(Math.sqrt(Sigma[0]))]);
  }
  line(ctx, noisy, colours.third, 2, [6, 3]);
  line(ctx, turned, colours.noise, 2);
  line(ctx, kept, colours.data, 2);
  line(ctx, [[X(state.t), Y(-1.05)], [X(state.t), Y(1.05)]], colours.mark, 1.5);
  $("memory").setAttribute("aria-label", "Mean position, mean momentum and noise over time");
}

const TEXTS = {
  "underdamped": "particles circle before they settle, since the momentum carries them past 0",
  "critically damped": "the fastest way to 0 that does not swing past it and back",
  "overdamped": "nothing swings, and the slower of the two modes creeps to 0",
};

function showValues() {
  const { Gamma, nu, M, t } = state, now = logSNR(process, BETA * Math.max(t, 1e-4));
  $("t-out").textContent = t.toFixed(3);
  $("Gamma-out").textContent = Gamma.toFixed(2);
  $("nu-out").textContent = nu.toFixed(2);
  $("M-out").textContent = M.toFixed(3);
  Object.assign($("t"), { value: t });
  Object.assign($("Gamma"), { value: Gamma });
  Object.assign($("nu"), { value: nu });
  Object.assign($("M"), { value: Math.log10(M) });
  const kind = regime(process), end = logSNR(process, BETA);
  const capital = kind[0].toUpperCase() + kind.slice(1);
  const modes = `${capital} (eigenvalues ${modesInWords()}): ${TEXTS[kind]}.`;
  const snr = ` Log-SNR of the position: ${signed(now, 1)} at this t, ${signed(end, 1)} at t = 1.`;
  const rest = end > -5 ? " The end still contains some of the data, and a sampler starts without any." : "";
  if (!timer.running()) $("said").textContent = modes + snr + rest;
}

const forwards = () => (state.way === "forward" ? 1 : -1);
const timer = player($("play"), () => state.t, (t) => change({ t }));
$("play").addEventListener("click", () => {
  if (timer.running()) return timer.stop();
  const end = forwards() > 0 ? 1 : 0;
  if (Math.abs(state.t - end) < 1e-3) change({ t: 1 - end });
  timer.play(forwards());
});

const rounded = (v) => Math.round(v * 100) / 100;
$("t").addEventListener("input", (e) => {
  timer.stop();
  change({ t: +e.target.value });
});
for (const name of ["Gamma", "nu"])
  $(name).addEventListener("input", (e) => change({ [name]: rounded(+e.target.value) }));
$("M").addEventListener("input", (e) => {
  change({ M: Math.round(1000 * 10 ** +e.target.value) / 1000 });
});
$("way").addEventListener("change", (e) => {
  timer.stop();
  change({ way: e.target.value, t: e.target.value === "forward" ? START.t : 1 });
  if (e.target.value !== "forward") timer.play(-1);
});
each("[data-at]", (b) => b.addEventListener("click", () => {
  const [Gamma, nu, M] = b.dataset.at.split(",").map(Number);
  change({ Gamma, nu, M });
}));
$("again").addEventListener("click", () => renewNoise(state.seed + 1));
$("reset").addEventListener("click", () => {
  timer.stop();
  Object.assign(state, START);
  document.querySelector("[name=way][value=forward]").checked = true;
  renewNoise(START.seed);
});

function dragMap(e) {
  const canvas = $("map"), w = canvas.clientWidth, h = canvas.clientHeight;
  const limit = (v, low, high) => rounded(Math.min(high, Math.max(low, v)));
  const nu = ((e.offsetX - MAP.left) / (w - 38)) * 10;
  const Gamma = (1 - (e.offsetY - MAP.top) / (h - 42)) * 4;
  change({ nu: limit(nu, 0.2, 10), Gamma: limit(Gamma, 0, 4) });
}
$("map").addEventListener("pointerdown", (e) => {
  $("map").setPointerCapture(e.pointerId);
  dragMap(e);
});
$("map").addEventListener("pointermove", (e) => e.buttons && dragMap(e));

watch(redraw);
renewNoise(START.seed);
