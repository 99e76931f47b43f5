"""The interactive figures: self-contained, in sync, and right to the last digit.

Their numbers are computed by the pages themselves, in a headless Chromium where there
is one and in Node otherwise, and compared with the package. In Chromium the pages are
also used: sliders are moved, buttons pressed, and what is drawn is looked at.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import figures
import pytest
import torch
from torch.testing import assert_close

from gud_nb.basis import (
    Scaled,
    column_order,
    level_order,
    radius_order,
    spectrum_order,
)
from gud_nb.denoiser import Independent, Mixture, Score
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.recipe import phase_space, vp
from gud_nb.sampler import sample, sscs
from gud_nb.schedule import LinearBeta, sequential, soft_conditioning
from gud_nb.transition import transition

NAMES = ("phase_space", "components")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
NODE = shutil.which("node")


def page(name: str) -> str:
    return (figures.FOLDER / f"{name}.html").read_text(encoding="utf-8")


def f64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Files


pytestmark = pytest.mark.filterwarnings("ignore:.*variances are below")


def test_made_of_their_parts():
    assert figures.stale() == [], "run python tools/figures.py"


def test_a_changed_part_is_noticed(monkeypatch):
    part = figures.part
    changed = {"components.css": part("components.css") + "p {}"}
    monkeypatch.setattr(figures, "part", lambda name: changed.get(name) or part(name))
    assert figures.stale() == ["components.html"]


@pytest.mark.parametrize("name", NAMES)
def test_self_contained_and_small(name):
    text = page(name)
    assert len(text.encode()) <= 150 * 1024
    outside = (
        r"https?:|\bsrc=|\bhref=|url\(|@import|\bfetch\(|XMLHttp|WebSocket|import\("
    )
    assert re.findall(outside, text) == []
    still = text.split('<div class="still">')[1].split('<main class="live">')[0]
    assert "<svg" in still and "aria-label" in still  # where scripts do not run


# The pages in a browser, or their mathematics in Node


def in_browser(name: str, script: str, folder: Path) -> dict:
    "What `script`, run in the page after half a second, puts into `out`."
    first = "<script>const errors = []; onerror = (e) => { errors.push(e); };</script>"
    last = f"""<pre id="out"></pre><script>setTimeout(() => {{
    const out = {{ errors }};
    {script}
    setTimeout(() => {{ document.getElementById("out").textContent =
        "<<" + JSON.stringify(out) + ">>"; }}, 300);
    }}, 300);</script>"""
    text = page(name).replace("<head>", "<head>" + first)
    file = folder / f"{name}.html"
    file.write_text(text.replace("</body>", last + "</body>"), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --virtual-time-budget=5000".split()
    own = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *flags, own, "--dump-dom", file.as_uri()]
    run = subprocess.run(command, capture_output=True, timeout=120)
    found = re.search(r"&lt;&lt;(.*)&gt;&gt;", run.stdout.decode(), re.S)
    assert found, run.stderr.decode()[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&amp;", "&"))


def in_node(name: str, script: str) -> dict:
    "The same without a page: the mathematics alone."
    maths = figures.part(f"{name}.maths.js")
    data = re.search(r'(?<=id="data">)[^<]*', page(name))
    given = f"const DATA = {data[0]};" if data else ""
    told = "const out = {};\n" + script + "\nconsole.log(JSON.stringify(out));"
    run = subprocess.run(
        [NODE, "-"],
        input="\n".join([maths, given, told]).encode(),
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    return json.loads(run.stdout)


USE = """
out.said = [];
const note = () => out.said.push(document.getElementById("said").textContent);
const press = (node) => { node.click(); };
document.querySelectorAll("input[type=range]").forEach((slider) => {
  for (const share of [0.1, 0.9, 0.4]) {
    slider.value = +slider.min + share * (slider.max - slider.min);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }
});
document.querySelectorAll("input[type=radio], #presets button").forEach(press);
setTimeout(() => {
  note();
  const shades = (canvas) => {
    const ctx = canvas.getContext("2d");
    const all = ctx.getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(new Uint32Array(all.buffer)).size;
  };
  const all = [...document.querySelectorAll("canvas")];
  out.shades = Object.fromEntries(all.map((c) => [c.id, shades(c)]));
  out.wide = document.documentElement.scrollWidth > innerWidth;
  out.unnamed = all.filter((c) => !c.getAttribute("aria-label")).map((c) => c.id);
}, 150);
"""


def numbers(name: str, script: str, folder: Path) -> dict:
    "From the browser, with a little use of the page; from Node, without."
    if BROWSER:
        return in_browser(name, script + USE, folder)
    if NODE:
        return in_node(name, script)
    pytest.skip("neither Chromium nor Node is here")


def looks_right(out: dict):
    "Nothing failed, every canvas is drawn on, nothing sticks out to the right."
    if "said" not in out:
        pytest.skip("Chromium is not here")
    assert out["errors"] == []
    assert min(out["shades"].values()) > 1, out["shades"]
    assert out["unnamed"] == [] and not out["wide"]
    assert all(len(text) > 40 for text in out["said"])


# Phase space

RECIPES = [  # Γ, ν, M in all damping regimes
    (0.01, 4.01, 0.25),
    (0.0, 0.6, 0.25),
    (0.0, 10.0, 0.25),
    (2.0, 6.0, 0.25),
    (3.0, 0.3, 0.05),
    (0.5, 0.9, 2.0),
]
TIMES = [1e-6, 1e-3, 0.02, 0.3, 1.0]
STATES = [[0.2, -0.3], [-1.5, 0.1], [2.5, 0.9]]
PHASES = f"""
const cases = {json.dumps(RECIPES)}, at = {json.dumps(TIMES)};
const states = {json.dumps(STATES)};
out.kernels = cases.map((c) => at.map((t) => {{
  const r = recipe(...c);
  const starts = [hsm(r), [0, 0, 0], [0.3, 0.05, 0.1]];
  return starts.map((start) => transition(r, BETA * t, start));
}}));
out.snr = cases.map((c) => at.map((t) => logSNR(recipe(...c), BETA * t)));
out.modes = cases.map((c) => eigenvalues(recipe(...c)));
out.scores = cases.map((c) => at.map((t) =>
  states.map(([x, m]) => score(lawAt(recipe(...c), t), x, m))));
out.flow = cases.map((c) => at.map((t) => states.map(([x, m]) => {{
  const r = recipe(...c);
  return driftInto([0, 0], r, lawAt(r, t), x, m, 1);
}})));
out.steps = cases.map((c) => states.map((z) => {{
  const to = [...z];
  sscsStep(recipe(...c), 0.5, 0.4)(to, [0.3, -0.2, 0.7, 1.1], 0);
  return to;
}}));
out.heaps = ["forward", "sde", "flow"].map((way) => {{
  const n = 1500, t = times(100), r = recipe(0.01, 4.01, 0.25);
  const z = paths(r, t, n, normals(101 * n * 4, 3), way), x = [];
  for (let j = 0; j < n; j++) x.push(z[2 * j]);
  return DATA.map(([, mu]) => x.filter((v) => Math.abs(v - mu) < 0.6).length / n);
}});
const many = normals(100000, 5);
out.moments = [1, 2, 3, 4].map((k) => many.reduce((s, v) => s + v ** k, 0) / 1e5);
out.data = DATA;
"""


@pytest.fixture(scope="module")
def phases(tmp_path_factory) -> dict:
    return numbers("phase_space", PHASES, tmp_path_factory.mktemp("phases"))


def processes(data: list) -> list:
    "The processes of the page, with the exact scores of its data."
    weights, means, deviations = map(f64, zip(*data))
    law = Mixture(means[:, None], deviations**2, weights)
    made = []
    for Gamma, nu, M in RECIPES:
        recipe = phase_space(Gamma, nu, M)
        d = LinearDiffusion(recipe, LinearBeta(8.0, 8.0), Sigma0=hsm(recipe))
        made.append((d, Score(d, law)))
    return made


def test_transitions_of_the_page(phases):
    for (Gamma, nu, M), kernels in zip(RECIPES, phases["kernels"]):
        recipe = phase_space(Gamma, nu, M)
        B, full = 8 * f64(TIMES), f64([[0.3, 0.05], [0.05, 0.1]])
        for which, start in enumerate((hsm(recipe), None, full)):
            Phi, Sigma, L = transition(recipe, B, start)
            found = [k[which] for k in kernels]
            entries = dict(Phi=Phi.flatten(-2))
            entries["Sigma"] = Sigma[:, [0, 0, 1], [0, 1, 1]]
            entries["L"] = L[:, [0, 1, 1], [0, 0, 1]]
            for name, want in entries.items():
                got = f64([k[name] for k in found])
                assert_close(got, want, rtol=1e-10, atol=1e-300)


def test_eigenvalues_of_the_page(phases):
    for (Gamma, nu, M), modes in zip(RECIPES, phases["modes"]):
        A = phase_space(Gamma, nu, M).A
        got = torch.view_as_complex(f64(modes))
        assert_close(got.sum().real, A.trace())
        assert_close(got.prod().real, torch.linalg.det(A))


def test_scores_and_drifts_of_the_page(phases):
    z = f64(STATES)[..., None]
    for i, (d, score) in enumerate(processes(phases["data"])):
        # not the first time: there, for Γ = 0, the posterior mean that the package goes
        # by equals the observation up to rounding, and the score loses its digits
        for k, t in list(enumerate(TIMES))[1:]:
            s = score(z, t)
            assert_close(f64(phases["scores"][i][k]), s[..., 0], rtol=1e-8, atol=1e-8)
            flow = d.flow(z, s, t)[..., 0]
            assert_close(f64(phases["flow"][i][k]), flow, rtol=1e-8, atol=1e-8)
            snr = d.log_snr(t, z).flatten()[0]
            assert_close(f64(phases["snr"][i][k]), snr, rtol=1e-9, atol=1e-9)


def test_a_step_back_of_the_page(phases):
    z, xi = f64(STATES)[..., None], f64([[0.3, -0.2], [0.7, 1.1]])
    noise = xi[None, :, None, :, None].expand(1, 2, 3, 2, 1)
    for (d, score), steps in zip(processes(phases["data"]), phases["steps"]):
        times = f64([0.5, 0.4])
        want = sample(sscs, d, score, z, times, noise=noise, final=False)
        assert_close(f64(steps), want[..., 0], rtol=1e-9, atol=1e-9)


def test_paths_back_end_in_the_data(phases):
    weights = f64([p for p, *_ in phases["data"]])
    for found in phases["heaps"]:  # three deviations of 1500 draws, and the grid
        assert_close(f64(found), weights, rtol=0, atol=0.045)


def test_noise_of_the_pages_is_normal(phases):
    assert_close(f64(phases["moments"]), f64([0, 1, 0, 3]), rtol=0, atol=0.08)


def test_phase_space_can_be_used(phases):
    looks_right(phases)


# Components

SETS = ("digits", "photos")
BASES = ("pixels", "dct", "haar")
ORDERS = dict(pixels=["column"], dct=["radius"], haar=["level", "column"])
AT = [0.0, 0.3, 1.0]
COMPONENTS = f"""
const bases = {json.dumps(BASES)}, orders = {json.dumps(ORDERS)}, at = {json.dumps(AT)};
const list = (v) => Array.from(v, (x) => +x.toPrecision(10));
for (const name of ["digits", "photos"]) {{
  const set = DATA[name], n = set.side;
  const image = Float64Array.from(bytes(set.images[0]), (v) => v * set.step - 1);
  out[name] = {{ image: list(image), bases: {{}} }};
  for (const b of bases) {{
    const basis = makeBasis(b, n), logs = unpack(set.variances[b]);
    const c = basis.forward(image), there = basis.inverse(c);
    const own = {{ c: list(c), logs: list(logs), orders: {{}} }};
    own.back = Math.max(...there.map((v, i) => Math.abs(v - image[i])));
    for (const o of orders[b]) own.orders[o] = list(makeOrder(o, b, n, logs));
    if (name === "digits") {{
      const order = makeOrder("spectrum", b, n, logs), eps = normals(n * n, 1);
      const variances = logs.map(Math.exp), mean = basis.forward(unpack(set.mean));
      own.eps = list(eps);
      own.mean = list(mean);
      const kinds = [false, true];
      own.soft = [0, 0.7, 1, 2.5].map((a) => kinds.map((white) => at.map((t) => {{
        const scale = white ? variances.map(Math.sqrt) : null;
        const g = gammaInto([], softConditioning(logs, a, order, white), t);
        const z = noisedInto(new Float64Array(n * n), c, eps, g, scale);
        const guess = guessInto(z.slice(), z, g, mean, variances, scale);
        return [g, z, guess].map(list);
      }})));
      const first = makeOrder(orders[b][0], b, n, logs);
      own.windows = [0, 0.5, 0.9].map((w) => at.map((t) =>
        list(gammaInto([], sequential(first, w, -9, 4), t))));
    }}
    out[name].bases[b] = own;
  }}
}}
"""


@pytest.fixture(scope="module")
def components(tmp_path_factory) -> dict:
    return numbers("components", COMPONENTS, tmp_path_factory.mktemp("components"))


def order_of(name: str, basis) -> torch.Tensor:
    known = dict(column=column_order, level=level_order, radius=radius_order)
    return known[name](basis)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("name", SETS)
def test_bases_and_orders_of_the_page(components, name, kind):
    own, x = components[name]["bases"][kind], f64(components[name]["image"])
    side = round(len(x) ** 0.5)
    basis = figures.basis_of(kind, side)
    want = basis(x.reshape(1, 1, side, side)).flatten()
    assert_close(f64(own["c"]), want, rtol=1e-8, atol=1e-8)
    assert own["back"] < 1e-12
    for o, found in own["orders"].items():
        assert_close(f64(found), order_of(o, basis).flatten(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", BASES)
def test_schedules_and_noise_of_the_page(components, kind):
    own, shape = components["digits"]["bases"][kind], (1, 8, 8)
    basis, image = figures.basis_of(kind, 8), f64(components["digits"]["image"])
    variances, mean, eps = (f64(own[k]).reshape(shape) for k in ("logs", "mean", "eps"))
    variances, x = variances.exp(), image.reshape(1, *shape)
    order = spectrum_order(variances)
    for a, pair in zip((0.0, 0.7, 1.0, 2.5), own["soft"]):
        for white, at in zip((False, True), pair):
            scale = variances.sqrt() if white else torch.ones(shape).double()
            scaled = Scaled(basis, 0.0, scale)
            schedule = soft_conditioning(variances, a, order=order, whitened=white)
            d = LinearDiffusion(vp(), schedule)
            law = Independent(mean / scale, variances / scale**2)
            for t, (gamma, z, guess) in zip(AT, at):
                state = d.perturb(scaled(x), f64([t]), eps[None, None]).z
                chi = Score(d, law).data(state, t)
                want = schedule.gamma(t), state[0, 0] * scale, chi[0] * scale
                for found, right in zip((gamma, z, guess), want):
                    found = f64(found).reshape(shape)
                    assert_close(found, right, rtol=1e-7, atol=1e-7)
    outer = order_of(ORDERS[kind][0], basis)
    for b, at in zip((0.0, 0.5, 0.9), own["windows"]):
        want = sequential(outer, b, -9.0, 4.0).gamma(f64(AT)).flatten(1)
        assert_close(f64(at), want.expand(3, 64), rtol=1e-9, atol=1e-9)


def test_components_can_be_used(components):
    looks_right(components)
