// What both figures share: theme, height of the frame, sliders, axes.
const root = document.documentElement;
root.classList.add("js");
const $ = (id) => document.getElementById(id);
const each = (selector, f) => document.querySelectorAll(selector).forEach(f);

// The page around the frame may be dark although the system is light, or the reverse.
function isDark() {
  try {
    const view = window.parent;
    for (let node = window.frameElement; node; node = node.parentElement) {
      const colour = view.getComputedStyle(node).backgroundColor.match(/[\d.]+/g);
      const [r, g, b, opaque = 1] = colour.map(Number);
      if (opaque > 0.5) return 0.3 * r + 0.59 * g + 0.11 * b < 128;
    }
  } catch (e) { /* a frame of another origin */ }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

let colours = {};
const names = "bg ink soft line data noise third mark data-faint noise-faint".split(" ");
function readTheme() {
  root.dataset.theme = isDark() ? "dark" : "light";
  const style = getComputedStyle(root);
  colours = Object.fromEntries(names.map((n) => [n, style.getPropertyValue("--" + n)]));
}

function fitHeight() {
  try {
    window.frameElement.style.height = `${Math.ceil(document.body.offsetHeight)}px`;
  } catch (e) { /* no frame, or one of another origin */ }
}

// Calls `draw` once a frame at most, however many events arrive.
function eachFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

function watch(redraw) {
  const renew = () => {
    readTheme();
    redraw();
  };
  readTheme();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", renew);
  try {
    const page = window.parent.document;
    const later = new MutationObserver(() => {
      renew();
      setTimeout(renew, 400); // style sheets that are switched need a moment
    });
    if (page !== document) {
      for (const node of [page.documentElement, page.body])
        later.observe(node, { attributes: true });
    }
  } catch (e) { /* a frame of another origin */ }
  let width = 0;
  new ResizeObserver(() => {
    fitHeight();
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    redraw();
  }).observe(document.body);
}

// A canvas of full sharpness; its context in units of CSS pixels.
function surface(id, ratio) {
  const canvas = $(id), scale = window.devicePixelRatio || 1;
  const w = canvas.clientWidth || 300, h = Math.round(w * ratio);
  if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
    canvas.style.height = `${h}px`;
    canvas.width = Math.round(w * scale);
    canvas.height = Math.round(h * scale);
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  ctx.clearRect(0, 0, w, h);
  ctx.lineJoin = "round";
  return { ctx, w, h };
}

// Axes in a box; gives back the two maps from values to pixels.
function axes(ctx, box, x, y) {
  const { left, top, width, height } = box;
  const X = (v) => left + ((v - x.from) / (x.to - x.from)) * width;
  const Y = (v) => top + height - ((v - y.from) / (y.to - y.from)) * height;
  ctx.lineWidth = 1;
  ctx.strokeStyle = colours.line;
  ctx.fillStyle = colours.soft;
  ctx.font = "11px system-ui, sans-serif";
  ctx.strokeRect(left + 0.5, top + 0.5, width, height);
  ctx.textAlign = "center";
  ctx.textBaseline = "top";
  for (const [v, text] of x.ticks) ctx.fillText(text, X(v), top + height + 4);
  ctx.fillText(x.label, left + width / 2, top + height + 17);
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (const [v, text] of y.ticks) ctx.fillText(text, left - 4, Y(v));
  ctx.textAlign = "left";
  ctx.textBaseline = "bottom";
  ctx.fillText(y.label, left, top - 3);
  return [X, Y];
}

function line(ctx, points, colour, width, dash = []) {
  ctx.beginPath();
  for (const [x, y] of points) ctx.lineTo(x, y);
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.setLineDash(dash);
  ctx.stroke();
  ctx.setLineDash([]);
}

const ticks = (values, digits = 0) =>
  values.map((v) => [v, v.toFixed(digits).replace("-", "−")]);
const signed = (v, digits) => v.toFixed(digits).replace("-", "−");

// Time from 0 to 1 (or back) in four seconds, until it ends or is stopped.
function player(button, get, set) {
  let running = 0;
  const stop = () => {
    cancelAnimationFrame(running);
    running = 0;
    button.textContent = "▶ Play";
  };
  const play = (direction) => {
    let last = null;
    button.textContent = "❚❚ Pause";
    const step = (now) => {
      const passed = last === null ? 0 : (now - last) / 4000;
      last = now;
      const t = Math.min(1, Math.max(0, get() + direction * passed));
      set(t);
      running = t === (direction > 0 ? 1 : 0) ? stop() || 0 : requestAnimationFrame(step);
    };
    running = requestAnimationFrame(step);
  };
  return { stop, play, running: () => running !== 0 };
}
