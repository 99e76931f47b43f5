"use strict";
// Bases, schedules and noise, as in gud_nb.basis, gud_nb.schedule, gud_nb.diffusion.
// Images and components are Float64Arrays of side × side numbers, row by row.

// Cosines: rows are frequencies.
function dctMatrix(n) {
  const C = new Float64Array(n * n);
  for (let f = 0; f < n; f++)
    for (let j = 0; j < n; j++) {
      const size = Math.sqrt((f ? 2 : 1) / n);
      C[f * n + j] = size * Math.cos((Math.PI * f * (2 * j + 1)) / (2 * n));
    }
  return C;
}

// A B, or with `turned` A Bᵀ, of n × n matrices.
function product(A, B, n, turned) {
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < n; k++) {
      if (turned) {
        let sum = 0;
        for (let j = 0; j < n; j++) sum += A[i * n + j] * B[k * n + j];
        out[i * n + k] = sum;
      } else {
        const a = A[i * n + k];
        for (let j = 0; j < n; j++) out[i * n + j] += a * B[k * n + j];
      }
    }
  }
  return out;
}

function transposed(A, n) {
  return Float64Array.from(A, (_, i) => A[(i % n) * n + Math.floor(i / n)]);
}

// One level of Haar on the corner of m × m numbers, or back from it.
function haarLevel(x, n, m, back) {
  const half = m / 2, row = new Float64Array(m);
  const along = (start, step) => {
    for (let i = 0; i < half; i++) {
      const [p, q] = back ? [i, half + i] : [2 * i, 2 * i + 1];
      const a = x[start + p * step], b = x[start + q * step];
      const [to, next] = back ? [2 * i, 2 * i + 1] : [i, half + i];
      row[to] = (a + b) * Math.SQRT1_2;
      row[next] = (a - b) * Math.SQRT1_2;
    }
    for (let i = 0; i < m; i++) x[start + i * step] = row[i];
  };
  for (let i = 0; i < m; i++) along(i, n);
  for (let i = 0; i < m; i++) along(i * n, 1);
}

const DCT = {};
function makeBasis(name, n) {
  const levels = Math.log2(n);
  if (name === "pixels") return { forward: (x) => x, inverse: (c) => c };
  if (name === "haar")
    return {
      forward(x) {
        const c = x.slice();
        for (let m = n; m > 1; m /= 2) haarLevel(c, n, m, false);
        return c;
      },
      inverse(c) {
        const x = c.slice();
        for (let j = levels - 1; j >= 0; j--) haarLevel(x, n, n >> j, true);
        return x;
      },
    };
  DCT[n] ??= [dctMatrix(n), transposed(dctMatrix(n), n)];
  const [C, Ct] = DCT[n];
  return {
    forward: (x) => product(product(C, x, n), C, n, true),
    inverse: (c) => product(product(Ct, c, n), C, n),
  };
}

// Orders: a component with a larger number is noised earlier.
const levelAt = (i, n) => (i ? Math.floor(Math.log2(i)) + 1 : 0);
const ORDERS = {
  spectrum: (i, j, n, logVariance) => -logVariance,
  column: (i, j, n, logVariance, basis) => {
    if (basis === "pixels") return j;
    const level = Math.max(levelAt(i, n), levelAt(j, n), 1);
    const spacing = 2 ** (Math.log2(n) + 1 - level);
    return ((j % (n / spacing)) + 0.5) * spacing - 0.5;
  },
  level: (i, j, n) => Math.max(levelAt(i, n), levelAt(j, n)),
  radius: (i, j, n) => Math.hypot(i, j) / (2 * n),
};

function makeOrder(name, basis, n, logVariances) {
  const one = ORDERS[name];
  return Float64Array.from(logVariances, (v, k) =>
    one(Math.floor(k / n), k % n, n, v, basis));
}

const least = (v) => v.reduce((a, b) => Math.min(a, b), Infinity);
const most = (v) => v.reduce((a, b) => Math.max(a, b), -Infinity);

// γ of each component as a line in time, { low, slope }, perhaps kept within bounds.
function softConditioning(logVariances, a, order, whitened, start = -7, end = 3) {
  const high = most(order), rise = end - start + a * (high - least(order));
  const low = order.map((l, i) =>
    start + (whitened ? 0 : logVariances[i]) + a * (l - high));
  return { low, slope: order.map(() => rise) };
}

function sequential(order, b, start = -7, end = 3) {
  const high = most(order), range = Math.max(high - least(order), 1e-300);
  const rise = (end - start) / (1 - b);
  const low = order.map((o) => start - ((b * (high - o)) / range) * rise);
  return { low, slope: order.map(() => rise), bounds: [start, end] };
}

// Into `out`, the negative log-SNR γ of each component at t.
function gammaInto(out, schedule, t) {
  const { low, slope, bounds } = schedule;
  for (let i = 0; i < low.length; i++) {
    const line = low[i] + t * slope[i];
    out[i] = bounds ? Math.min(bounds[1], Math.max(bounds[0], line)) : line;
  }
  return out;
}

// Into `out`, the image of αc + σε in a basis; ε is scaled where noise is like the data.
function noisedInto(z, c, eps, gamma, scale) {
  for (let i = 0; i < z.length; i++) {
    const alpha = Math.sqrt(1 / (1 + Math.exp(gamma[i])));
    const sigma = Math.sqrt(1 / (1 + Math.exp(-gamma[i])));
    z[i] = alpha * c[i] + sigma * eps[i] * (scale ? scale[i] : 1);
  }
  return z;
}

// Into `out`, the posterior mean under the normal law of independent components.
function guessInto(out, z, gamma, mean, variances, scale) {
  for (let i = 0; i < z.length; i++) {
    const y = z[i] * Math.sqrt(1 + Math.exp(gamma[i]));
    const R = Math.exp(gamma[i]) * (scale ? scale[i] * scale[i] : 1);
    out[i] = mean[i] + (variances[i] / (variances[i] + R)) * (y - mean[i]);
  }
  return out;
}

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// Numbers that tools/figures.py packed.
function unpack({ low, high, data }) {
  const raw = bytes(data), view = new DataView(raw.buffer);
  return Float64Array.from({ length: raw.length / 2 }, (_, i) =>
    low + (view.getUint16(2 * i, true) / 65535) * (high - low));
}

// Standard normal numbers from a seed.
function normals(count, seed) {
  const out = new Float64Array(count + 1);
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
