"use strict";
// The process of two phases, as in gud_nb.recipe, gud_nb.transition, gud_nb.sampler.
// A 2×2 matrix [[a, b], [c, d]] is [a, b, c, d], a symmetric one [xx, xm, mm].

const TERMS = 24; // of the series of the covariance

function recipe(Gamma, nu, M, q = 1) {
  const r = { Gamma, nu, M, q, A: [-Gamma, q / M, -q, -nu], D: [Gamma, 0, M * nu] };
  r.S = [1, 0, M];
  r.discriminant = ((nu - Gamma) / 2) ** 2 - (q * q) / M;
  const c = q / Math.sqrt(M); // the drift in units in which S is 1
  r.reach = 1 / norm([-Gamma, c, -c, -nu]);
  r.terms = [r.D];
  for (let n = 2; n <= TERMS; n++) {
    const [a, b, c1, d] = r.A, [xx, xm, mm] = r.terms[n - 2];
    const xm2 = a * xm + b * mm + c1 * xx + d * xm;
    const next = [2 * (a * xx + b * xm), xm2, 2 * (c1 * xm + d * mm)];
    r.terms.push(next.map((v) => v / (2 * n)));
  }
  for (r.doublings = 0; r.doublings < 16; r.doublings++) {
    const [a, b, c2, d] = phi(r, r.reach * 2 ** r.doublings), u = Math.sqrt(M);
    if (norm([a, b * u, c2 / u, d]) ** 2 < 1 - 1e-3) break;
  }
  return r;
}

// The largest singular value.
function norm([a, b, c, d]) {
  return (Math.hypot(a + d, c - b) + Math.hypot(a - d, b + c)) / 2;
}

// The eigenvalues -(Γ + ν)/2 ± √((Γ - ν)²/4 - 1/M) of A, as [re, im] pairs.
function eigenvalues(r) {
  const mean = -(r.Gamma + r.nu) / 2, root = Math.sqrt(Math.abs(r.discriminant));
  return r.discriminant >= 0
    ? [[mean + root, 0], [mean - root, 0]]
    : [[mean, root], [mean, -root]];
}

function regime(r) {
  const near = Math.abs(r.discriminant) < 1e-3 / r.M;
  if (near) return "critically damped";
  return r.discriminant > 0 ? "overdamped" : "underdamped";
}

// Φ(B) = exp(½AB) in all damping regimes.
function phi(r, B) {
  const h = B / 2, [a, b, c, d] = r.A.map((v) => v * h), q = r.discriminant * h * h;
  let even, odd, shift = 0;
  if (Math.abs(q) < 0.01) {
    even = odd = 1;
    for (let n = 10; n > 0; n -= 2) {
      even = 1 + (even * q) / (n * (n - 1));
      odd = 1 + (odd * q) / (n * (n + 1));
    }
  } else if (q > 0) {
    shift = Math.sqrt(q);
    const fall = Math.expm1(-2 * shift);
    even = 1 + fall / 2;
    odd = -fall / 2 / shift;
  } else {
    const root = Math.sqrt(-q);
    even = Math.cos(root);
    odd = Math.sin(root) / root;
  }
  const mean = (a + d) / 2, y = (a - d) / 2;
  const creeps = mean < 0 && shift > 0; // mean + shift would cancel
  const top = creeps ? (a * d - b * c) / (mean - shift) : mean + shift;
  const grow = Math.exp(top);
  even *= grow;
  odd *= grow;
  return [even + odd * y, odd * b, odd * c, even - odd * y];
}

// FCFᵀ for symmetric C.
function turn([a, b, c, d], [xx, xm, mm]) {
  const ax = a * xx + b * xm, am = a * xm + b * mm;
  const cx = c * xx + d * xm, cm = c * xm + d * mm;
  return [ax * a + am * b, cx * a + cm * b, cx * c + cm * d];
}

// P(B), the covariance of the noise since the start, without cancellation.
function noise(r, B) {
  if (B > r.reach * 2 ** r.doublings) {
    const Y = turn(phi(r, B), r.S);
    return r.S.map((s, i) => s - Y[i]);
  }
  const wanted = B > 0 ? Math.ceil(Math.log2(B / r.reach)) : 0;
  const halvings = Math.min(Math.max(wanted, 0), r.doublings);
  let b = B * 2 ** -halvings, P = r.terms[TERMS - 1];
  for (let n = TERMS - 2; n >= 0; n--) P = P.map((v, i) => v * b + r.terms[n][i]);
  P = P.map((v) => v * b);
  for (let i = 0; i < halvings; i++) {
    const Y = turn(phi(r, b), P);
    P = P.map((v, j) => v + Y[j]);
    b *= 2;
  }
  return P;
}

// Φ, Σ = P + ΦΣ0Φᵀ and its Cholesky factor L = [[a, 0], [c, d]] as [a, c, d].
function transition(r, B, Sigma0 = [0, 0, 0]) {
  const Phi = phi(r, B), P = noise(r, B), Y = turn(Phi, Sigma0);
  const Sigma = P.map((v, i) => v + Y[i]);
  const detY = Math.exp(-B * (r.Gamma + r.nu)) * det(Sigma0);
  const mixed = P[0] * Y[2] + P[2] * Y[0] - 2 * P[1] * Y[1];
  const a = Math.sqrt(Sigma[0]), inv = a > 0 ? 1 / a : 0;
  const d = Math.sqrt(Math.max(0, det(P) + detY + mixed)) * inv;
  return { Phi, Sigma, L: [a, Sigma[1] * inv, d] };
}

function det([xx, xm, mm]) {
  return xx * mm - xm * xm;
}

// The start of hybrid score matching: the momentum has the variance κM.
const KAPPA = 0.04;
const BETA = 8; // constant, as in the paper: B(t) = 8t
const hsm = (r) => [0, 0, KAPPA * r.M];

// The log-SNR of all that a state at B says about the position at the start.
function logSNR(r, B) {
  const { Phi, L } = transition(r, B, hsm(r));
  const w0 = Phi[0] / L[0], w1 = (Phi[2] - L[1] * w0) / L[2];
  return Math.log(w0 * w0 + w1 * w1);
}

// Three heaps of data: weight, mean and standard deviation of each.
const DATA = [[0.3, -1.5, 0.12], [0.45, 0.1, 0.15], [0.25, 1.5, 0.12]];

// The law of (x, m) at time t, a mixture: weight, mean and covariance of each member.
function lawAt(r, t) {
  const { Phi, Sigma } = transition(r, BETA * t, hsm(r));
  return DATA.map(([p, mu, s]) => {
    const x = Phi[0], m = Phi[2], v = s * s;
    const C = [Sigma[0] + x * x * v, Sigma[1] + x * m * v, Sigma[2] + m * m * v];
    const D = det(C), own = [C[2] / D, -C[1] / D, C[0] / D];
    const weight = p / (2 * Math.PI * Math.sqrt(D));
    return { p, x: x * mu, m: m * mu, C, own, weight };
  });
}

// The score ∇ log p at (x, m), written into `out`.
function scoreInto(out, law, x, m) {
  let total = 0, sx = 0, sm = 0, low = Infinity;
  for (const g of law) {
    const dx = x - g.x, dm = m - g.m;
    g.fx = g.own[0] * dx + g.own[1] * dm;
    g.fm = g.own[1] * dx + g.own[2] * dm;
    g.energy = (g.fx * dx + g.fm * dm) / 2;
    low = Math.min(low, g.energy);
  }
  for (const g of law) {
    const p = g.weight * Math.exp(low - g.energy);
    total += p;
    sx -= p * g.fx;
    sm -= p * g.fm;
  }
  out[0] = sx / total;
  out[1] = sm / total;
  return out;
}

const score = (law, x, m) => scoreInto([0, 0], law, x, m);

// Drift of the flow dz/dt = ½β(Az - Ds), and with `share` 2 that of the reverse SDE.
function driftInto(out, r, law, x, m, share) {
  scoreInto(out, law, x, m);
  const sx = r.D[0] * out[0], sm = r.D[2] * out[1];
  out[0] = (BETA / 2) * (r.A[0] * x + r.A[1] * m - share * sx);
  out[1] = (BETA / 2) * (r.A[2] * x + r.A[3] * m - share * sm);
  return out;
}

// Times 0 = t_0 < … < t_n = 1, finer near the data.
const times = (n) => Float64Array.from({ length: n + 1 }, (_, i) => (i / n) ** 2);

// Standard normal numbers from a seed.
function normals(count, seed) {
  const out = new Float32Array(count + 1);
  let s = seed >>> 0;
  const uniform = () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let v = Math.imul(s ^ (s >>> 15), 1 | s);
    v = (v + Math.imul(v ^ (v >>> 7), 61 | v)) ^ v;
    return ((v ^ (v >>> 14)) >>> 0) / 4294967296;
  };
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform())), turn = 2 * Math.PI * uniform();
    out[i] = radius * Math.cos(turn);
    out[i + 1] = radius * Math.sin(turn);
  }
  return out.subarray(0, count);
}

// Paths of n particles at the given times, laid out (time, particle, phase); row i is
// time i whichever way they run. `xi` holds normal numbers (times, n, 4).
function paths(r, t, n, xi, way) {
  const steps = t.length - 1, out = new Float64Array((steps + 1) * n * 2);
  if (way === "forward") forward(r, t, n, xi, out);
  else backward(r, t, n, xi, out, way === "flow" ? flowStep : sscsStep);
  return out;
}

function forward(r, t, n, xi, out) {
  for (let j = 0, k = 0; j < n; j++) {
    // shares of the heaps in proportion to their weights
    const place = (j * 0.6180339887) % 1;
    for (k = 0; k < 2 && place > DATA[0][0] + (k ? DATA[1][0] : 0); ) k++;
    out[2 * j] = DATA[k][1] + DATA[k][2] * xi[4 * j];
    out[2 * j + 1] = Math.sqrt(KAPPA * r.M) * xi[4 * j + 1];
  }
  for (let i = 0; i + 1 < t.length; i++) {
    const { Phi, L } = transition(r, BETA * (t[i + 1] - t[i]));
    for (let j = 0; j < n; j++) {
      const from = 2 * (i * n + j), to = from + 2 * n, e = 4 * ((i + 1) * n + j);
      const x = out[from], m = out[from + 1];
      out[to] = Phi[0] * x + Phi[1] * m + L[0] * xi[e];
      out[to + 1] = Phi[2] * x + Phi[3] * m + L[1] * xi[e] + L[2] * xi[e + 1];
    }
  }
}

// From the prior N(0, P(B(1))) that samplers start from, back to the data.
function backward(r, t, n, xi, out, makeStep) {
  const last = t.length - 1, { L } = transition(r, BETA, hsm(r)), z = [0, 0];
  for (let j = 0; j < n; j++) {
    const at = 2 * (last * n + j);
    out[at] = L[0] * xi[4 * j];
    out[at + 1] = L[1] * xi[4 * j] + L[2] * xi[4 * j + 1];
  }
  for (let i = last; i > 0; i--) {
    const step = makeStep(r, t[i], t[i - 1]);
    for (let j = 0; j < n; j++) {
      const from = 2 * (i * n + j), to = from - 2 * n, e = 4 * (i * n + j);
      z[0] = out[from];
      z[1] = out[from + 1];
      step(z, xi, e);
      out[to] = z[0];
      out[to + 1] = z[1];
    }
  }
}

// The reverse SDE: half a step of the recipe with Q → -Q, the score, half a step.
function sscsStep(r, t, s) {
  const back = recipe(r.Gamma, r.nu, r.M, -r.q), law = lawAt(r, t), grad = [0, 0];
  const dB = BETA * (t - s), { Phi, L } = transition(back, dB / 2);
  const px = dB * r.D[0], pm = dB * r.D[2];
  return (z, xi, e) => {
    let x = Phi[0] * z[0] + Phi[1] * z[1] + L[0] * xi[e];
    let m = Phi[2] * z[0] + Phi[3] * z[1] + L[1] * xi[e] + L[2] * xi[e + 1];
    scoreInto(grad, law, x, m);
    x += px * (grad[0] + x);
    m += pm * (grad[1] + m / r.M);
    z[0] = Phi[0] * x + Phi[1] * m + L[0] * xi[e + 2];
    z[1] = Phi[2] * x + Phi[3] * m + L[1] * xi[e + 2] + L[2] * xi[e + 3];
  };
}

// The flow: a step of the midpoint rule in u = √t, in which the paths are smooth.
function flowStep(r, t, s) {
  const u = Math.sqrt(t), du = Math.sqrt(s) - u, v = u + du / 2, k = [0, 0];
  const here = lawAt(r, t), middle = lawAt(r, v * v);
  return (z) => {
    driftInto(k, r, here, z[0], z[1], 1);
    driftInto(k, r, middle, z[0] + k[0] * u * du, z[1] + k[1] * u * du, 1);
    z[0] += k[0] * 2 * v * du;
    z[1] += k[1] * 2 * v * du;
  };
}
