"""Samplers of other libraries, and ours, behind one call: `solver(run, n)`.

A solver is given a `Run` and the number that its library calls the number of steps. It
returns samples as its library does: at noise 0, or wherever that library ends. A `Run`
denoises, gives the first states and the noise, and counts. Noise levels are σ/α
throughout; what is denoised is y = data + σ/α · noise.

Everything is float64 but what a library itself makes less of: DPMSolverMultistep of
diffusers casts its state to float32, the schedulers of diffusers and the grids of
k-diffusion hold noise levels in float32, and the released PSLD code hands states to the
network in float32. On data of variance 1 that is an error of 1e-6 or less.
"""

import math
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from problems import Problem
from torch import Tensor

from gud_nb.adams import ExponentialAdams, sa_solver, sde_dpm_solver, unipc
from gud_nb.denoiser import Gaussian, Independent, Score, gaussian
from gud_nb.diffusion import LinearDiffusion
from gud_nb.integrators import DEIS, DPMSolver, Splitting, ancestral
from gud_nb.sampler import (
    Sampler,
    ddim,
    edm,
    euler_maruyama,
    even_log_snr,
    exponential_heun,
    heun,
    marginal_covariance,
    quadratic,
    sample,
    sscs,
)


# -------------------------------------------------------------- what solvers are given
class Run:
    "A counting denoiser; subclasses give the first states and the noise."

    def __init__(
        self,
        problem: Problem,  # what is sampled
    ):
        self.problem, self.evaluations, self.draws = problem, 0, 0

    def start(
        self,
        sigma: float | Tensor,  # σ/α
    ) -> Tensor:  # (batch, *comp)
        "States with the law of noised data at a level; subclasses define it."
        raise NotImplementedError

    def state(
        self,
        t: float,  # in (0, 1]
    ) -> Tensor:  # (batch, k, *comp)
        "States with the law of the process at a time; subclasses define it."
        raise NotImplementedError

    def noise(
        self,
        like: Tensor,  # (batch, *comp) or (batch, k, *comp)
        **_,
    ) -> Tensor:  # like it
        "The next draw; subclasses define it."
        raise NotImplementedError

    def denoise(
        self,
        y: Tensor,  # (batch, *comp) data and noise
        sigma: float | Tensor,  # σ/α
    ) -> Tensor:  # (batch, *comp)
        "The posterior mean, counted."
        return self.denoiser(y, -2 * math.log(float(sigma)))

    def denoiser(
        self,
        y: Tensor,  # (batch, *comp) data and noise
        log_snr: float | Tensor,  # its level
    ) -> Tensor:  # (batch, *comp)
        "The same, called as our samplers call it."
        self.evaluations += 1
        return self.problem.denoiser(y, log_snr)


class RandomRun(Run):
    "Samples, with everything drawn by one generator."

    def __init__(
        self,
        problem: Problem,  # what is sampled
        n: int,  # number of samples
        generator: torch.Generator,  # of everything that is drawn
    ):
        super().__init__(problem)
        self.n, self.generator = n, generator

    def _normal(self, *shape, dtype=None):
        how = dict(generator=self.generator, dtype=dtype or self.problem.dtype)
        return torch.randn(shape, **how)

    def _data(self, log_snr: float) -> Tensor:
        first = self._normal(self.n, *self.problem.shape)
        return self.problem.law.sample(first, log_snr, generator=self.generator)

    def start(self, sigma):
        return self._data(-2 * math.log(float(sigma)))

    def state(self, t):
        d = self.problem.diffusion
        if d.k == 1:
            sigma = self.problem.sigma(t)
            return (self.start(sigma) / math.sqrt(1 + sigma**2))[:, None]
        noise = self._normal(self.n, d.k, *self.problem.shape)
        return d.perturb(self._data(math.inf), t, noise).z

    def noise(self, like, **_):
        self.draws += 1
        return self._normal(*like.shape, dtype=like.dtype)


class UnitRun(Run):
    """Unit states: what the first state and every draw of noise become, exactly.

    On normal data with independent components a solver is an affine map, the same for
    all states. Here the first k rows are the columns of a root of the first state's
    covariance, and every draw of noise has k rows of its own. So the squares of the
    last states, added over the rows, are the variances of the samples.
    """

    def __init__(
        self,
        problem: Problem,  # of normal data with independent components
        draws: int,  # of noise that the solver takes; more are left out
    ):
        super().__init__(problem)
        self.rows = problem.diffusion.k * (1 + draws)

    def start(self, sigma):
        out = self.problem.like.new_zeros(self.rows, *self.problem.shape)
        out[0] = (self.problem.law.variances + float(sigma) ** 2).sqrt()
        return out

    def state(self, t):
        d = self.problem.diffusion
        root = torch.linalg.cholesky(marginal_covariance(d, self.problem.law, t))
        columns = root.movedim((-1, -2), (0, 1))
        rest = columns.new_zeros(self.rows - d.k, *columns.shape[1:])
        return torch.cat([columns, rest])

    def noise(self, like, **_):
        self.draws += 1
        return self.unit(like, self.draws - 1)

    def unit(
        self,
        like: Tensor,  # (rows, *comp) or (rows, k, *comp)
        i: int,  # number of the draw
    ) -> Tensor:  # like it
        "A draw of noise: 1 in the rows that are its own."
        out, k = torch.zeros_like(like), self.problem.diffusion.k
        phases = out if out.ndim > 1 + len(self.problem.shape) else out[:, None]
        for j in range(k):
            row = k * (1 + i) + j
            if row < len(out):
                phases[row, j] = 1
        return out


class _Units(list):
    "The noise of our samplers, a list with one entry for each step, made when needed."

    def __init__(self, run: UnitRun, like: Tensor, count: int, steps: int):
        super().__init__(range(steps))
        self.run, self.like, self.count = run, like, count
        run.draws = count * steps

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> Tensor:
        first = super().__getitem__(i) * self.count
        each = [self.run.unit(self.like, first + j) for j in range(self.count)]
        return each[0] if self.count == 1 else torch.stack(each)


@dataclass(frozen=True)
class Solver:
    "One solver on one grid."

    library: str  # whose
    name: str  # as the library calls it
    grid: str  # its times or noise levels
    function: Callable  # (run, n) -> samples (batch, *comp)
    processes: tuple = ("VP",)  # that it is for

    def __call__(
        self,
        run: Run,  # what it is given
        n: int,  # steps, as its library counts them
    ) -> Tensor:  # (batch, *comp)
        "Samples."
        with torch.no_grad():
            return self.function(run, n)


def counted(
    solver: Solver,  # whose evaluations are wanted
    problem: Problem,  # whose process it runs on
    n: int,  # steps
) -> tuple[int, int]:  # evaluations, draws of noise
    "What a run takes, by running on one normal number."
    one = torch.ones(1, dtype=torch.float64)
    law = Independent(0 * one, one)
    run = UnitRun(replace(problem, law=law, denoiser=law, dtype=one.dtype), 0)
    solver(run, n)
    return run.evaluations, run.draws


def steps_for(
    solver: Solver,  # whose steps are counted
    problem: Problem,  # whose process it runs on
    budget: int,  # evaluations
) -> tuple[int, int, int]:  # steps, evaluations, draws; 0 steps where none will do
    "The most steps that a budget is enough for; says why where none will do."
    why = "a step takes more"
    for n in range(budget, 0, -1):
        try:
            spent, draws = counted(solver, problem, n)
        except Exception as error:  # perhaps too few or too many for this solver
            why = f"{type(error).__name__}: {error}"
            continue
        if spent <= budget:
            return n, spent, draws
    print(f"{solver.name}, {solver.grid}, none of {budget} steps and less: {why}")
    return 0, 0, 0


@contextmanager
def _in_place_of(module, name: str, value):
    "Another value for a name of a module that has it."
    if not hasattr(module, name):
        yield
        return
    old = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, old)


def _bare(name: str, folder: Path):
    "Make a package importable without what its __init__ would import."
    if name not in sys.modules:
        sys.modules[name] = package = _empty(name)
        package.__path__ = [str(folder)]


def _empty(name: str) -> ModuleType:
    "An empty module; `find_spec` wants a spec of every module that there is."
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module


def _stand_ins():
    "Empty modules for what is imported and not used here, where it is not installed."
    vision = ("torchvision", "torchvision.transforms")
    for name in (*vision, f"{vision[1]}.functional", "PIL", "PIL.Image"):
        try:
            import_module(name)
        except ImportError:
            sys.modules[name] = _empty(name)


# ------------------------------------------------------------------------- k-diffusion
def _sampling():
    "The module `k_diffusion.sampling`."
    if "k_diffusion" not in sys.modules:
        found = find_spec("k_diffusion")
        if found is None:
            raise ImportError("k-diffusion is not installed: see requirements.txt")
        _bare("k_diffusion", Path(found.submodule_search_locations[0]))
        _stand_ins()
    return import_module("k_diffusion.sampling")


class Brownian:
    "Increments of one Brownian motion in σ, as k-diffusion takes them from its tree."

    def __init__(
        self,
        run: Run,  # that draws
        like: Tensor,  # (batch, *comp)
    ):
        self.run, self.like = run, like
        self.first, self.last, self.total = math.nan, math.nan, None

    def __call__(
        self,
        first: float | Tensor,  # σ where it begins
        last: float | Tensor,  # σ where it ends, smaller
    ) -> Tensor:  # (batch, *comp) of variance 1
        "An increment; one that begins where the last did goes on from that."
        first, last = float(first), float(last)
        if first == self.first and last < self.last:
            more = self.run.noise(self.like) * math.sqrt(self.last - last)
            self.total = self.total + more
        else:
            self.total = self.run.noise(self.like) * math.sqrt(first - last)
        self.first, self.last = first, last
        return self.total / math.sqrt(first - last)


def k_diffusion(
    run: Run,  # what it is given
    n: int,  # noise levels above 0
    *,
    solver: str,  # behind `sample_`
    levels: Callable,  # (problem, n) -> σ/α, 0 at the end
) -> Tensor:  # (batch, *comp)
    "A function `sample_...` of k-diffusion."
    sampling = _sampling()
    sigmas = levels(run.problem, n).double()
    x = run.start(sigmas[0])
    function = getattr(sampling, f"sample_{solver}")
    takes = "noise_sampler" in signature(function).parameters
    how = {"noise_sampler": Brownian(run, x)} if takes else {}

    def model(x, sigma):
        return run.denoise(x, sigma[0])

    return function(model, x, sigmas, disable=True, **how)


def _karras(problem: Problem, n: int, low: float, high: float | None) -> Tensor:
    return _sampling().get_sigmas_karras(n, low, high or problem.sigma(1.0))


def _even(problem: Problem, n: int, low: float, high: float | None) -> Tensor:
    return _sampling().get_sigmas_exponential(n, low, high or problem.sigma(1.0))


def _vp(problem: Problem, n: int) -> Tensor:
    return _sampling().get_sigmas_vp(n)


AT_1E3 = 0.0104859928  # σ/α of VP at t = 1e-3
K_LEVELS = {
    f"{name} {low:.3g} to {high or 'σ(1)'}": partial(f, low=low, high=high)
    for name, f in (("karras", _karras), ("exponential", _even))
    for low in (0.002, AT_1E3, 0.02)
    for high in (None, 80.0)
} | {"vp": _vp}
K_SOLVERS = (
    "euler heun dpm_2 lms dpmpp_2m euler_ancestral dpm_2_ancestral dpmpp_2s_ancestral "
    "dpmpp_sde dpmpp_2m_sde dpmpp_3m_sde"
).split()


# --------------------------------------------------------------------------- diffusers
def diffusers(
    run: Run,  # what it is given
    n: int,  # steps of inference
    *,
    scheduler: str,  # the class
    **how,  # its settings
) -> Tensor:  # (batch, *comp)
    "A scheduler of diffusers, given the posterior mean at the noise of its state."
    import diffusers as library

    s = getattr(library, scheduler)(prediction_type="sample", **how)
    s.set_timesteps(n)
    if hasattr(s, "set_begin_index"):
        s.set_begin_index(0)  # timesteps are rounded: two can be equal
    levels, kind = _levels(s), run.problem.dtype
    x = run.start(levels[0]) / math.sqrt(1 + levels[0] ** 2)

    def randn_tensor(shape, generator=None, device=None, dtype=None, layout=None):
        return run.noise(x.to(dtype or kind))

    with _in_place_of(import_module(type(s).__module__), "randn_tensor", randn_tensor):
        for t, sigma in zip(s.timesteps, levels):
            chi = run.denoise((x * math.sqrt(1 + sigma**2)).to(kind), sigma)
            x = s.step(chi, t, x, return_dict=False)[0]
    return x.to(kind)


def _levels(scheduler) -> list[float]:
    "σ/α of the states that a scheduler steps from."
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas[: len(scheduler.timesteps)].tolist()
    alpha2 = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    return (1 / alpha2 - 1).sqrt().tolist()


_SPACED = {
    "its own": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}
_LU = _SPACED | {"lu": {"use_lu_lambdas": True}}
_LATER = {
    "its own": {},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
}
_SDE = {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}
_THREE = {"predictor_order": 3, "corrector_order": 3}
# name -> class, settings, grids by name
SCHEDULERS = {
    "DDIM": ("DDIM", {"clip_sample": False}, _LATER),
    "DDPM": ("DDPM", {"clip_sample": False}, _LATER),
    "DPMSolverMultistep 2": ("DPMSolverMultistep", {"solver_order": 2}, _LU),
    "DPMSolverMultistep 3": ("DPMSolverMultistep", {"solver_order": 3}, _LU),
    "DPMSolverMultistep sde 2": ("DPMSolverMultistep", _SDE, _LU),
    "DPMSolverSinglestep 2": ("DPMSolverSinglestep", {"solver_order": 2}, _SPACED),
    "DPMSolverSinglestep 3": ("DPMSolverSinglestep", {"solver_order": 3}, _SPACED),
    "UniPC 2": ("UniPCMultistep", {"solver_order": 2}, _SPACED),
    "UniPC 3": ("UniPCMultistep", {"solver_order": 3}, _SPACED),
    "DEIS 2": ("DEISMultistep", {"solver_order": 2}, _SPACED),
    "DEIS 3": ("DEISMultistep", {"solver_order": 3}, _SPACED),
    "SASolver": ("SASolver", {}, _SPACED),
    "SASolver 3": ("SASolver", _THREE, _SPACED),
}


# ------------------------------------------------------------------------------- azula
class _Denoiser:
    "What a sampler of azula asks of a denoiser."

    def __init__(self, run: Run, schedule: Callable):
        self.run, self.schedule = run, schedule

    def __call__(self, x, t):
        from azula.denoise import DiracPosterior

        alpha, sigma = self.schedule(t)
        return DiracPosterior(mean=self.run.denoise(x / alpha, sigma / alpha))


def azula(
    run: Run,  # what it is given
    n: int,  # steps
    *,
    sampler: str,  # the class
    grid: str,  # one of AZULA_GRIDS
    **how,  # its settings
) -> Tensor:  # (batch, *comp)
    "A sampler of azula on a schedule and times."
    from azula import sample as library

    schedule, times = _azula_times(run.problem, n, grid)
    kind = getattr(library, f"{sampler}Sampler")
    if times is not None:  # azula itself has none but equal steps
        kind = type(kind.__name__, (kind,), {"timesteps": property(lambda _: times)})
    how |= dict(steps=n, silent=True, dtype=torch.float64)
    s = kind(_Denoiser(run, schedule), **how)
    alpha, sigma = schedule(s.timesteps[0])
    x = (alpha * run.start(sigma / alpha)).to(run.problem.dtype)
    with _in_place_of(torch, "randn_like", run.noise):
        return s(x)


def _by_level(u: Tensor) -> tuple[Tensor, Tensor]:
    "α and σ of VP where log σ/α is the time."
    return torch.sigmoid(-2 * u).sqrt(), torch.sigmoid(2 * u).sqrt()


def _azula_times(problem: Problem, n: int, grid: str) -> tuple:
    "A schedule, and times (n+1,) or None for azula's own."
    if grid == "its own":
        from azula.noise import VPSchedule

        return VPSchedule(), None
    kind, low = grid.rsplit(" to ", 1)
    i, high = torch.arange(n + 1, dtype=torch.float64) / n, problem.sigma(1.0)
    low = problem.sigma(1e-3) if low == f"{AT_1E3:.3g}" else float(low)
    if kind == "even log-SNR":
        return _by_level, math.log(high) + i * math.log(low / high)
    ends = high ** (1 / 7), low ** (1 / 7)
    return _by_level, 7 * (ends[0] + i * (ends[1] - ends[0])).log()


AZULA_GRIDS = ["its own"] + [
    f"{kind} to {low:.3g}"
    for kind in ("karras", "even log-SNR")
    for low in (0.002, AT_1E3, 0.02)
]
AZULA = {name: {} for name in "DDPM DDIM Euler Heun Ito PC".split()} | {
    f"{kind} {order}": {"order": order}
    for kind in ("zAB", "vAB", "zEAB", "xEAB", "REAB")
    for order in (2, 3, 4)
}


# ------------------------------------------------------------------- the released PSLD
def _released(path: Path) -> tuple:
    "The classes of the released code: the process, and its samplers by name."
    if str(path / "main") not in sys.path:
        sys.path.insert(0, str(path / "main"))
    for name in ("models", "samplers"):
        _bare(name, path / "main" / name)
    _stand_ins()
    process, samplers = import_module("models.sde.psld"), import_module("samplers.sde")
    kinds = {"EM": samplers.EulerMaruyamaSampler, "SSCS": samplers.SSCSSampler}
    return process.PSLD, kinds


def psld(
    run: Run,  # what it is given
    n: int,  # steps, the last one to 0 left out
    *,
    path: Path,  # of the clone
    sampler: str,  # EM or SSCS
    grid: str,  # uniform or quadratic
    last: bool,  # whether it ends with the denoising step
) -> Tensor:  # (batch, *comp)
    "A sampler of the released PSLD code."
    process, kinds = _released(path)
    d, kind = run.problem.diffusion, run.problem.dtype
    how = dict(n_timesteps=n, beta_min=8.0, beta_max=8.0, nu=4.01, gamma=0.01)
    how |= dict(kappa=0.04, numerical_eps=1e-9, decomp_mode="lower")
    sde = process(SimpleNamespace(model=SimpleNamespace(sde=SimpleNamespace(**how))))
    score = Score(d, run.denoiser)

    def eps(z, t):  # -Lᵀ score, with their L
        s, t = score(z.to(kind), t.double()), t.double()
        c = sde.get_coeff(sde._cov(0.0, sde.mm_0, t))
        a, _, b, e = (v.reshape(-1, *[1] * (z.ndim - 2)).to(s) for v in c)
        return -torch.stack([a * s[:, 0] + b * s[:, 1], e * s[:, 1]], 1)

    i = torch.arange(n + 1, dtype=torch.float64) / n
    times = (1 - 1e-3) * (i if grid == "uniform" else 1 - (1 - i) ** 2)
    with _in_place_of(torch, "randn_like", run.noise):
        z = kinds[sampler](None, sde, eps).sample(run.state(1.0), times, n, last)
    return z[:, 0].to(kind)


# -------------------------------------------------------------------------------- ours
def from_80(
    diffusion: LinearDiffusion,  # the process
    n: int,  # steps
    eps: float,  # last time
) -> Tensor:  # (n+1,)
    "The grid of Karras et al. from the noise level 80, or the highest there is."
    one = torch.zeros(1, diffusion.k, 1)
    top = math.exp(-diffusion.log_snr(1.0, one).item() / 2)
    return edm(diffusion, n, eps, sigma_max=80.0 if top > 80 else None)


# Name -> function (diffusion, n, eps) -> times.
OUR_GRIDS = {
    "quadratic": lambda diffusion, n, eps: quadratic(n, eps),
    "even_log_snr": even_log_snr,
    "edm": edm,
    "edm from 80": from_80,
}
ENDS = (3e-3, 1e-3, 1e-4, 1e-5)  # last times


@dataclass(frozen=True, eq=False)
class Own:
    "A sampler of this package, and where it is run."

    sampler: Sampler | Callable  # or a function of the problem that gives one
    processes: tuple = ("VP", "PSLD")  # that it is for
    grids: dict | None = None  # like OUR_GRIDS, instead of these


# Name -> sampler: one more line here is one more row of every table.
OURS = {
    "DDIM": Own(ddim),
    "exponential Heun": Own(exponential_heun),
    "Heun": Own(heun),
    "DPMSolver(2)": Own(DPMSolver(2)),
    "DPMSolver(3)": Own(DPMSolver(3)),
    "DEIS(2)": Own(DEIS(2)),
    "DEIS(3)": Own(DEIS(3)),
    "UniPC(2)": Own(unipc(2)),
    "UniPC(3)": Own(unipc(3)),
    "ancestral": Own(ancestral),
    "Euler-Maruyama": Own(euler_maruyama),
    "SSCS": Own(sscs),
    "OBAB": Own(Splitting("OBAB"), ("PSLD",)),
    "SDE-DPMSolver(2)": Own(sde_dpm_solver(2)),
    "SDE-DPMSolver(3)": Own(sde_dpm_solver(3)),
    "SASolver(2)": Own(sa_solver(2)),
    "SASolver(3)": Own(sa_solver(3)),
    "noise(2)": Own(ExponentialAdams(2, law=math.inf)),
    "noise(3)": Own(ExponentialAdams(3, law=math.inf)),
    "noise(4)": Own(ExponentialAdams(4, law=math.inf)),
    "UniPC(2) of noise": Own(unipc(2, math.inf)),
    "UniPC(3) of noise": Own(unipc(3, math.inf)),
    "UniPC(2), own law": Own(lambda problem: unipc(2, normal_law(problem))),
    "UniPC(2), wrong law": Own(lambda problem: unipc(2, wrong_law(problem))),
    "SDE-DPMSolver(2), own law": Own(
        lambda problem: sde_dpm_solver(2, normal_law(problem))
    ),
}


def normal_law(problem: Problem) -> Gaussian:
    "The normal law with the covariance of the data."
    law = problem.law
    if isinstance(law, Gaussian):
        return law
    means = law.means.double()
    spread = law.variances.double().max() * torch.eye(means.shape[1])  # members alike
    return gaussian(means.mean(0), spread + torch.cov(means.T, correction=0))


def wrong_law(problem: Problem) -> Gaussian:
    "The same with each variance multiplied by exp(n/2), n standard normal."
    law = normal_law(problem)
    variances = law.component_variances
    n = torch.randn(variances.shape, generator=torch.Generator().manual_seed(1))
    return Independent(law.mean, variances * torch.exp(n.double() / 2))


def ours(
    run: Run,  # what it is given
    n: int,  # steps, the final one left out
    *,
    sampler: Sampler | Callable,  # or a function of the problem that gives one
    grid: Callable,  # (diffusion, n, eps) -> times
    eps: float,  # last time
    final: bool,  # whether it ends with the denoising step
) -> Tensor:  # (batch, *comp)
    "A sampler of this package."
    d = run.problem.diffusion
    sampler = sampler if isinstance(sampler, Sampler) else sampler(run.problem)
    times = grid(d, n, eps)
    z, how = run.state(float(times[0])), dict(final=final)
    if isinstance(run, UnitRun):
        how["noise"] = _Units(run, z, sampler.noises, len(times) - 1)
    else:
        how["generator"] = run.generator
    return sample(sampler, d, Score(d, run.denoiser), z, times, **how)[:, 0]


# ------------------------------------------------------------------------ all together
def _ours() -> list[Solver]:
    found = []
    for name, own in OURS.items():
        for grid, times in (own.grids or OUR_GRIDS).items():
            for eps in ENDS:
                for final in (True, False):
                    how = dict(sampler=own.sampler, grid=times, eps=eps, final=final)
                    label = f"{grid} {eps:g}{', final' if final else ''}"
                    f = partial(ours, **how)
                    found.append(Solver("gud_nb", name, label, f, own.processes))
    return found


def _theirs() -> list[Solver]:
    found = []
    for solver in K_SOLVERS:
        for grid, levels in K_LEVELS.items():
            f = partial(k_diffusion, solver=solver, levels=levels)
            found.append(Solver("k-diffusion", solver, grid, f))
    for name, (kind, how, grids) in SCHEDULERS.items():
        for grid, more in grids.items():
            f = partial(diffusers, scheduler=f"{kind}Scheduler", **how, **more)
            found.append(Solver("diffusers", name, grid, f))
    for name, how in AZULA.items():
        for grid in AZULA_GRIDS:
            f = partial(azula, sampler=name.split()[0], grid=grid, **how)
            found.append(Solver("azula", name, grid, f))
    return found


def _psld(path: Path) -> list[Solver]:
    found = []
    for sampler in ("EM", "SSCS"):
        for grid in ("uniform", "quadratic"):
            for last in (True, False):
                how = dict(path=path, sampler=sampler, grid=grid, last=last)
                label = f"{grid} 1e-3{', final' if last else ''}"
                f = partial(psld, **how)
                found.append(Solver("PSLD", sampler, label, f, ("PSLD",)))
    return found


def solvers(
    released: Path | None = None,  # a clone of the released PSLD code, if there is one
) -> list[Solver]:
    "Every solver of every library on every grid that it is run on."
    return [*_theirs(), *([] if released is None else _psld(released)), *_ours()]
