"""The order of every sampler for every recipe, and regressions of the integrators.

In pixels with one schedule and in a Haar basis with a schedule per level, no samples.
"""

import pytest
import torch
from fields import U, by_level, cov, haar, side
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torchdiffeq import odeint

from gud_nb.adams import sa_solver, unipc
from gud_nb.basis import Pixel
from gud_nb.core import act
from gud_nb.denoiser import Independent, Mixture, Score, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import (
    DEIS,
    Conjugate,
    ConjugateSplitting,
    DPMSolver,
    Splitting,
    _lagrange,
    _lagrange_slope,
    _Nodes,
    adaptive,
    ancestral,
    dopri_step,
    dormand_prince,
    gaussian_distance,
    predictor_corrector,
    rms,
    tune_lambda,
)
from gud_nb.recipe import Recipe, cld, psld, third_order, vp
from gud_nb.sampler import (
    DDIM,
    Grid,
    Sampler,
    ddim,
    edm,
    euler_maruyama,
    even_log_snr,
    exponential_heun,
    fastest,
    flow_euler,
    heun,
    marginal_covariance,
    measure_order,
    prepare,
    propagate,
    quadratic,
    sample,
    sscs,
    uniform,
)
from gud_nb.schedule import (
    Cosine,
    LinearBeta,
    LinearGamma,
    Schedule,
    continued,
    sequential,
)
from gud_nb.transition import phi, scale_tril

recipes = {"VP": vp(), "CLD": cld(), "PSLD": psld(), "third order": third_order()}
plain = (euler_maruyama, sscs, flow_euler, heun, ddim, exponential_heun, ancestral)
multistep = [kind(q) for kind in (DPMSolver, DEIS) for q in (1, 2, 3)]
samplers = {type(s).__name__: s for s in plain}
samplers |= {f"{type(s).__name__}({s.order})": s for s in multistep}
samplers |= {
    "Euler-Maruyama, corrected": predictor_corrector(euler_maruyama),
    "DDIM, corrected": predictor_corrector(ddim),
    "Conjugate(0)": Conjugate(0.0),
    "Conjugate(.1)": Conjugate(0.1),
    "Conjugate, II": Conjugate(0.1 * torch.ones(1, 1)),
    "ConjugateSplitting": ConjugateSplitting(),
}
for word in ("BA", "BAB", "OBA", "BAO", "OBAB"):
    samplers[word] = Splitting(word)
    samplers[f"{word}, naive"] = Splitting(word, reduced=False)

settings = {
    "pixels, one schedule": (Pixel((1, side, side)), LinearBeta(1.0, 9.0), cov),
    "Haar, schedules by level": (haar, by_level, U @ cov @ U.T),
}


def normal(*shape, seed=0):
    "Standard normal numbers in double precision."
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def step(sampler, d, score, z, t, s, noise=None):
    "One step."
    noise = None if noise is None else noise[None]
    return sample(sampler, d, score, z, [t, s], noise=noise, final=False)


def one_component(variance=1.0):
    "A Gaussian law of one component."
    return Independent(torch.zeros(1), torch.tensor([variance]))


@pytest.mark.parametrize("setting", settings)
@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("name", samplers)
def test_order(name, recipe, setting):
    sampler, r, (basis, schedule, C) = (
        samplers[name],
        recipes[recipe],
        settings[setting],
    )
    if isinstance(sampler, (Splitting, ConjugateSplitting)) and r.k == 1:
        pytest.skip("a splitting needs a momentum")
    d = LinearDiffusion(r, schedule, Sigma0=hsm(r))
    ns = (160, 320) if name == "DEIS(3)" else (40, 80)  # its third order shows late
    law = gaussian(torch.zeros(basis.shape), C)
    errors, found = measure_order(sampler, d, law, ns, eps=0.1)
    print(
        f"{name:26} {recipe:12} {setting:25} order {found:.2f}, error {errors[1]:.1e}"
    )
    assert sampler.order - 0.35 < found < sampler.order + 0.9


# Coefficients are functions of the values of B


@pytest.mark.parametrize("schedule", (LinearBeta(), Cosine(), LinearGamma(-8.0, 4.0)))
@pytest.mark.parametrize("n", (3, 25, 100))
def test_first_orders_are_ddim_for_one_phase(schedule, n):
    d = LinearDiffusion(vp(), schedule)
    z, score = normal(3, 1, 2), Score(d, Independent(torch.zeros(2), torch.ones(2)))
    for times in (quadratic(n), edm(d.schedule, n), even_log_snr(d.schedule, n)):
        right = sample(ddim, d, score, z, times)
        for sampler in (DEIS(1), DPMSolver(1), Conjugate()):
            assert_close(
                sample(sampler, d, score, z, times), right, rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize("sampler", multistep, ids=repr)
def test_cosine_schedule_keeps_a_unit_gaussian(sampler):
    d = LinearDiffusion(vp(), Cosine())
    score = Score(d, one_component())
    for n, most in ((25, 0.07), (100, 0.02)):
        found = propagate(sampler, d, score, quadratic(n))[0, 0].sqrt()
        assert abs(found - 1) < most


@pytest.mark.parametrize("recipe", ("PSLD", "third order"))
@pytest.mark.parametrize("q", (1, 2, 3))
def test_deis_through_much_noise(q, recipe):
    "From B = 20 to 4 in a step: no large terms that cancel, and no wild correction."
    r = recipes[recipe]
    d = LinearDiffusion(r, Cosine(), Sigma0=hsm(r))
    score = Score(d, Independent(torch.zeros(2), torch.ones(2)))
    z = d.prior(normal(2000, r.k, 2), 1.0)
    right = sample(DEIS(q), d, score, z, quadratic(25))
    found = sample(DEIS(q), d, score, z.float(), quadratic(25))
    assert_close(found.double(), right, rtol=1e-4, atol=1e-3)
    assert 0.6 < right[:, 0].std() < 1.3
    alone = sample(DEIS(q), d, score.__call__, z, quadratic(25))  # no denoiser to see
    assert_close(alone, right, rtol=1e-6, atol=1e-6)
    alone = sample(DEIS(q), d, score.__call__, z.float(), quadratic(25))
    assert 0.6 < alone[:, 0].std() < 1.3  # at SNR e^-33 its digits do not hold the data


@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("n", (3, 5, 10, 25, 50))
def test_correction_of_a_huge_first_step(n, recipe):
    r = recipes[recipe]
    for schedule in (Cosine(), LinearBeta()):
        d = LinearDiffusion(r, schedule, Sigma0=hsm(r))
        C = propagate(DEIS(3), d, Score(d, one_component()), quadratic(n))
        assert C[0, 0].sqrt() < 1.3


def test_deis_moves_a_point_of_data_exactly_without_a_denoiser():
    d = LinearDiffusion(psld(), LinearBeta(), Sigma0=hsm(psld()))
    point = Score(d, Independent(torch.tensor([0.3]), torch.tensor([0.0])))
    z = d.perturb(torch.full((4, 1), 0.3).double(), 0.9, normal(4, 2, 1)).z
    calls = []

    def score(z, t):
        calls.append(t)
        return point(z, t)

    x = step(DEIS(1), d, score, z, 0.9, 0.4)
    assert len(calls) == 1
    assert_close(point.data(x, 0.4), torch.full((4, 1), 0.3).double())
    assert_close(x, step(DEIS(1), d, point, z, 0.9, 0.4))


class Jerky(Schedule):
    "Through the values of another schedule at some times, with jumps between them."

    def __init__(self, inner: Schedule, times: torch.Tensor):
        self.inner, self.times = inner, times.flip(0).contiguous()

    def B(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        i = torch.searchsorted(self.times, t.contiguous()).clamp(
            max=len(self.times) - 1
        )
        return self.inner.B(self.times[i])


@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("name", [*list(samplers)[4:]])
def test_only_values_of_B_count(name, recipe):
    sampler, r, times = samplers[name], recipes[recipe], quadratic(6)
    if isinstance(sampler, Splitting) and r.k == 1:
        pytest.skip("a splitting needs a momentum")
    if name == "Euler-Maruyama, corrected":
        pytest.skip("Euler's step needs the speed")
    smooth = LinearDiffusion(r, LinearBeta(), Sigma0=hsm(r))
    jerky = LinearDiffusion(r, Jerky(LinearBeta(), times), Sigma0=hsm(r))
    like = torch.zeros(1, r.k, 1)
    pairs = zip(*(sampler.coefficients(Grid(d, times, like)) for d in (smooth, jerky)))
    for a, b in pairs:
        assert torch.equal(a, b)


@pytest.mark.parametrize("recipe", recipes)
def test_what_stands_still_stays(recipe):
    r = recipes[recipe]
    d = LinearDiffusion(r, continued(torch.arange(5), 2), Sigma0=hsm(r))
    z, score = normal(3, r.k, 5), Score(d, Independent(torch.zeros(5), torch.ones(5)))
    for name, sampler in samplers.items():
        if r.k == 1 and isinstance(sampler, Splitting):
            continue
        shape = (sampler.noises, *z.shape)[sampler.noises == 1 :]
        noise = normal(6, *shape) if sampler.noises else None
        y = sample(sampler, d, score, z, uniform(6), noise=noise, final=False)
        assert_close(y[..., :2], z[..., :2], rtol=1e-8, atol=1e-8, msg=name)
        assert y.isfinite().all(), name


@pytest.mark.parametrize("sampler", multistep, ids=repr)
def test_components_alone_or_together(sampler):
    "Schedules that stand still, go and stand still: a past that is gone is no past."
    d = LinearDiffusion(vp(), sequential(torch.arange(3), 0.6))
    v, times = torch.tensor([0.25, 1.0, 4.0]), even_log_snr(d.schedule, 60)
    first, right = (
        marginal_covariance(d, Independent(0 * v, v), t) for t in (1.0, 1e-3)
    )
    found = propagate(
        sampler, d, Score(d, Independent(0 * v, v)), times, first, shape=(3,)
    )
    assert (found / right - 1).abs().max() < 0.25 / 3.0 ** (sampler.order - 1)
    for i, lone in enumerate(torch.split(v, 1)):
        low, high = d.schedule.gamma_min[i].item(), d.schedule.gamma_max[i].item()
        own = LinearGamma(low, high, clip=d.schedule.clip)
        one = LinearDiffusion(vp(), own)
        score = Score(one, Independent(0 * lone, lone))
        alone = propagate(sampler, one, score, times, first[i])
        assert_close(alone, found[i])


@pytest.mark.parametrize("recipe", recipes)
@pytest.mark.parametrize("kind", (DPMSolver, DEIS))
def test_many_components_in_parts(kind, recipe):
    "Steps are computed few at a time where there are many components, to no effect."
    r, times = recipes[recipe], uniform(7, 0.05)
    many = LinearGamma(torch.linspace(-6, -3, 9000 // r.k**2), 3.0)
    few = LinearGamma(torch.tensor([-6.0, -3.0]), 3.0)
    tables = []
    for schedule in (many, few):
        d = LinearDiffusion(r, schedule, Sigma0=hsm(r))
        like = torch.zeros(1, r.k, *schedule.shape)
        tables.append(kind(2).coefficients(Grid(d, times, like)))
    for a, b in zip(*tables):
        assert_close(a[..., [0, -1]], b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recipe", ["VP", "PSLD"])
@pytest.mark.parametrize("name", [*samplers, "unipc", "sa_solver", "with a law"])
def test_a_step_is_prepared_alone_or_with_others(name, recipe):
    "Up to rounding: some integrals take as many points as the steps together need."
    r, law = recipes[recipe], Independent(torch.zeros(5), torch.linspace(0.1, 3, 5))
    of_laws = {"unipc": unipc(), "sa_solver": sa_solver(), "with a law": unipc(2, law)}
    sampler = (samplers | of_laws)[name]
    if isinstance(sampler, Splitting) and r.k == 1:
        pytest.skip("a splitting needs a momentum")
    d = LinearDiffusion(r, continued(torch.arange(5), 2), Sigma0=hsm(r))
    grid = Grid(d, quadratic(7), torch.zeros(1, r.k, 5, dtype=torch.float64))
    whole, score = list(prepare(sampler, grid, Score(d, law))), Score(d, law)
    for few in (1, 3):
        parts = prepare(sampler, grid, score, few)
        for (c, here, there), (own, first, last) in zip(whole, parts, strict=True):
            assert (first.t, last.t) == (here.t, there.t)
            assert_close(first.kernel.row, here.kernel.row)
            for a, b in zip(c, own, strict=True):
                assert_close(a, b, rtol=1e-9, atol=1e-12)


class Largest(TorchFunctionMode):
    "The largest tensor that a function returns."

    size = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.size = max(self.size, out.numel() if isinstance(out, Tensor) else 0)
        return out


@pytest.mark.parametrize("law", [None, "with a law"])
def test_memory_is_that_of_a_few_steps(law):
    "Components of their own, of a schedule or of a law: no tensor grows with steps."
    n = 2**16
    own = Independent(torch.zeros(n), torch.linspace(0.1, 3, n))
    schedule = LinearBeta() if law else LinearGamma(torch.linspace(-6, -3, n), 3.0)
    d, z = LinearDiffusion(vp(), schedule), torch.zeros(1, 1, n)
    sampler = unipc(2, own) if law else DPMSolver(2)
    sizes = []
    for steps in (6, 12):
        with Largest() as mode:
            sample(sampler, d, Score(d, own), z, uniform(steps, 0.5), final=False)
        sizes.append(mode.size)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("sampler", [DPMSolver(2), unipc(2)], ids=repr)
def test_one_schedule_is_prepared_at_once(sampler):
    calls = []

    class Counted(type(sampler)):
        "Counts how often coefficients are computed."

        def coefficients(self, grid):
            calls.append(len(grid.t))
            return super().coefficients(grid)

    d = LinearDiffusion(vp(), LinearBeta())
    grid = Grid(d, uniform(9), torch.zeros(1, 1, 2**15))
    score = Score(d, Independent(torch.zeros(2**15), torch.ones(2**15)))
    assert len(list(prepare(Counted(2), grid, score))) == 9 and calls == [9]


# What is declared, and nothing is remembered


def test_declared():
    facts = {
        "DPMSolver(3)": (0, 1, 1, 2, 3),
        "DEIS(2)": (0, 1, 0, 1, 2),
        "Ancestral": (1, 1, 0, 0, 1),
        "DDIM, corrected": (1, 2, 0, 0, 1),
        "OBAB": (1, 2, 0, 0, 1),
        "OBAB, naive": (1, 3, 0, 0, 1),
        "BAB": (0, 2, 0, 0, 1),
        "ConjugateSplitting": (0, 2, 0, 0, 1),
    }
    for name, want in facts.items():
        s = samplers[name]
        assert (s.noises, s.evaluations, s.extra, s.memory, s.order) == want, name


@pytest.mark.parametrize("name", samplers)
def test_evaluations_are_counted_right(name):
    sampler, d, calls = samplers[name], LinearDiffusion(psld(), LinearBeta()), []

    def score(z, t):
        calls.append(t)
        return -z

    sample(sampler, d, score, normal(2, 2, 3), uniform(4), final=False)
    assert len(calls) == 4 * sampler.evaluations + sampler.extra


@pytest.mark.parametrize(
    ("word", "times"),
    (("OBAB", [0.7, 0.6]), ("OBAB, naive", [0.7] * 3), ("BAB", [0.7, 0.6])),
)
def test_where_a_splitting_evaluates(word, times):
    d, calls = LinearDiffusion(psld(), LinearBeta()), []

    def score(z, t):
        calls.append(t)
        return -z

    sampler = samplers[word]
    noise = normal(2, 2, 3) if sampler.noises else None
    step(sampler, d, score, normal(2, 2, 3), 0.7, 0.6, noise)
    assert calls == times


@pytest.mark.parametrize("name", samplers)
def test_second_run_equals_first(name):
    sampler, d = samplers[name], LinearDiffusion(psld(), LinearBeta())
    z, score = normal(2, 2, 3), Score(d, Independent(torch.zeros(3), torch.ones(3)))
    runs = []
    for _ in range(2):
        g = torch.Generator().manual_seed(0)
        runs.append(sample(sampler, d, score, z, quadratic(5), generator=g))
    assert torch.equal(*runs)


def test_lambda_of_another_step_is_not_used():
    ones = torch.ones(2, 2)
    z, law = normal(3, 2, 2), Independent(torch.zeros(2), torch.tensor([0.25, 4.0]))

    def fresh():
        return LinearDiffusion(psld(), LinearBeta(1.0, 9.0), Sigma0=hsm(psld()))

    alone = fresh()
    right = step(Conjugate(0.1 * ones), alone, Score(alone, law), z, 0.7, 0.4)
    d = fresh()
    first = step(Conjugate(0.1), d, Score(d, law), z, 0.7, 0.4)
    second = step(Conjugate(0.1 * ones), d, Score(d, law), z, 0.7, 0.4)
    assert torch.equal(second, right)
    assert (first - second).abs().max() > 1e-3


def test_tuned_lambda_is_that_of_its_shape():
    d = LinearDiffusion(psld(), LinearBeta(1.0, 9.0), Sigma0=hsm(psld()))
    times, law = uniform(10, 0.1), one_component(0.5)
    tune_lambda(d, times)
    again = LinearDiffusion(psld(), LinearBeta(1.0, 9.0), Sigma0=hsm(psld()))
    ones = torch.ones(2, 2)
    lam = tune_lambda(d, times, shape=ones)
    assert lam == tune_lambda(again, times, shape=ones)
    right = marginal_covariance(d, law, 0.1)
    found = propagate(Conjugate(lam * ones), d, Score(d, law), times)
    assert abs((found / right)[0, 0, 0].sqrt() - 1) < 0.3


# A sampler of your own


class TwoStep(DDIM):
    "DDIM with the posterior mean extrapolated to the middle of the step."

    memory, order = 1, 2

    def coefficients(self, grid):
        h = grid.frames.log_snr.diff(dim=0)
        return *super().coefficients(grid), h / torch.cat([h[:1], h[:-1]]) / 2

    def update(self, c, here, there, z, noise, past):
        A, move, share = c
        chi = here.data(z)
        ahead = chi + share * (chi - past.pop()) if past else chi
        past.append(chi)
        return act(A, z, move * ahead[:, None])


@pytest.mark.parametrize("recipe", recipes)
def test_own_sampler(recipe):
    d = LinearDiffusion(
        recipes[recipe], LinearBeta(1.0, 9.0), Sigma0=hsm(recipes[recipe])
    )
    law = Independent(torch.zeros(2), torch.tensor([0.25, 4.0]))
    assert abs(measure_order(TwoStep(), d, law, (48, 96))[1] - 2) < 0.4


def test_two_parameters_of_one_own_sampler():
    "The same function for both, and different results: nothing is kept by its name."

    def with_factor(factor):
        class Short(DDIM):
            def coefficients(self, grid):
                A, move = super().coefficients(grid)
                return A, factor * move

        return Short()

    d = LinearDiffusion(psld(), LinearBeta())
    z, score = normal(2, 2, 3), Score(d, Independent(torch.zeros(3), torch.ones(3)))
    one, two = (step(with_factor(f), d, score, z, 0.5, 0.4) for f in (1.0, 0.9))
    assert_close(one, step(ddim, d, score, z, 0.5, 0.4))
    assert (one - two).abs().max() > 1e-3


# Splitting, corrections, refusals


def test_word_with_two_noises_in_a_row_is_the_one_noise():
    "OOBA, with both halves of O, has the law of OBA."
    d, law = LinearDiffusion(psld(), LinearBeta(1.0, 9.0)), one_component(0.5)
    first = marginal_covariance(d, law, 0.9)
    one, two = (
        propagate(Splitting(w), d, Score(d, law), [0.9, 0.8], first)
        for w in ("OBA", "OOBA")
    )
    assert_close(one, two)


def test_position_noise_factor_has_another_limit():
    friction = psld(1.0, 5.0)
    d = LinearDiffusion(friction, LinearBeta(1.0, 9.0), Sigma0=hsm(friction))
    law = Independent(torch.zeros(2), torch.tensor([0.25, 4.0]))
    sampler = Splitting("OBA", lambda_s=1.2)
    assert sampler.order == 0
    assert measure_order(sampler, d, law, (64, 128))[1] < 0.3


@pytest.mark.parametrize(
    ("make", "words"),
    (
        (lambda: DPMSolver(4), "1, 2 or 3"),
        (lambda: DEIS(0), "1, 2 or 3"),
        (lambda: Splitting("OAX"), "'OAX'"),
        (lambda: Splitting("OA"), "both A and B"),
        (lambda: predictor_corrector(ddim, size=0.0), "size > 0"),
        (lambda: predictor_corrector(DPMSolver(2)), "without a memory"),
    ),
)
def test_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_splitting_of_one_phase_is_refused():
    d = LinearDiffusion(vp(), Cosine())
    with pytest.raises(ValueError, match="one phase"):
        step(Splitting("BA"), d, lambda z, t: z, normal(2, 1, 3), 0.5, 0.4)


def test_distance_wants_independent_components():
    d = LinearDiffusion(vp(), LinearBeta())
    pair = gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    with pytest.raises(ValueError, match="want an Independent law"):
        gaussian_distance(ddim, d, pair, uniform(4))


def test_grids_of_many_components_are_made_in_parts():
    few = LinearGamma(torch.linspace(-9.0, -5.0, 7).double(), 3.0, clip=(-7.0, 2.0))
    many = LinearGamma(few.gamma_min.repeat(3_000), 3.0, clip=(-7.0, 2.0))
    for grid in (fastest, even_log_snr, edm):
        assert_close(grid(many, 9), grid(few, 9), rtol=0, atol=1e-9)


def test_a_sampler_without_coefficients_takes_its_steps():
    class Still(Sampler):
        noises, evaluations, extra, memory, order = 0, 0, 0, 0, 0

        def coefficients(self, grid):
            return ()

        def update(self, c, here, there, z, noise, past):
            return z + 1

    d, z = LinearDiffusion(vp(), LinearBeta()), torch.zeros(1, 1, 1)
    law = Independent(torch.zeros(1), torch.ones(1))
    z = sample(Still(), d, Score(d, law), z, uniform(5), final=False)
    assert z.item() == 5


# Notebook 08b in detail


law = Independent(torch.zeros(2), torch.tensor([0.25, 4.0]))
trial = {
    name: LinearDiffusion(r, LinearBeta(1.0, 9.0), Sigma0=hsm(r))
    for name, r in recipes.items()
}


def orders(sampler, names=tuple(recipes)):
    "Measured orders for some recipes."
    return [measure_order(sampler, trial[n], law, (48, 96))[1] for n in names]


def test_integrals_over_a_step():
    first = torch.tensor([20.0, 3.0]).double()
    last = torch.tensor([1e-8, 2.5]).double()
    for few in (slice(0, 1), slice(1, 2)):  # one step over all, and a short one
        a, b = first[few], last[few]
        nodes = _Nodes(a, b)
        found = nodes.total(nodes.dB / nodes.B)
        assert_close(found, (b / a).log(), rtol=1e-10, atol=0)
        assert_close(nodes.so_far(nodes.dB / nodes.B), (nodes.B / a).log())
        fall = torch.exp(-nodes.B)
        assert_close(nodes.total(fall * nodes.dB), torch.exp(-a) - torch.exp(-b))


def test_basis_polynomials():
    x, points = torch.linspace(0, 1, 4), [torch.tensor(v) for v in (0.2, 0.5, 1.3)]
    off = [torch.tensor(v) for v in (False, True, False)]
    for f in (_lagrange, _lagrange_slope):  # a point that is gone is not there
        assert_close(f(x, points, off)[::2], f(x, points[::2], off[::2]))
        assert not f(x, points, off)[1].any()
    on, values = [torch.tensor(False)] * 3, [p**2 for p in points]
    assert_close(sum(v * e for v, e in zip(values, _lagrange(x, points, on))), x**2)
    slopes = _lagrange_slope(x, points, on)
    assert_close(sum(v * e for v, e in zip(values, slopes)), 2 * x)


@pytest.mark.parametrize("q", (1, 2, 3))
def test_constant_posterior_mean_is_extrapolated_exactly(q):
    d, z = trial["PSLD"], normal(3, 2, 2)
    constant = Score(d, lambda y, log_snr: torch.full_like(y, 0.3))
    right = step(ddim, d, constant, z, 0.9, 0.1)
    x = sample(DPMSolver(q), d, constant, z, [0.9, 0.5, 0.3, 0.1], final=False)
    assert_close(x, right)


@pytest.mark.parametrize("q", (1, 2, 3))
def test_schedules_that_stand_still_go_and_stand_still(q):
    late = LinearDiffusion(vp(), sequential(torch.arange(3), 0.6))
    three = Independent(torch.zeros(3), torch.tensor([0.25, 1.0, 4.0]))
    C, began = (marginal_covariance(late, three, t) for t in (1e-3, 1.0))
    times, score = even_log_snr(late.schedule, 60), Score(late, three)
    found = propagate(DPMSolver(q), late, score, times, began, shape=(3,)) / C
    assert (found - 1).abs().max() < 0.2 / 4 ** (q - 1)


@pytest.mark.parametrize("recipe", recipes)
def test_first_step_of_deis_of_order_three(recipe):
    d, gaps = trial[recipe], []
    start = marginal_covariance(d, law, 0.5)
    for h in (0.04, 0.02):  # its error falls as h³
        found = propagate(DEIS(3), d, Score(d, law), [0.5, 0.5 - h], start, shape=(2,))
        gaps.append((found - marginal_covariance(d, law, 0.5 - h)).norm())
    assert gaps[0] > 6 * gaps[1]


def test_deis_of_order_three_for_third_order_with_many_steps():
    found = measure_order(DEIS(3), trial["third order"], law, (160, 320))[1]
    assert abs(found - 3) < 0.4


@pytest.mark.parametrize("recipe", recipes)
def test_deis_moves_a_point_of_data_exactly(recipe):
    r = recipes[recipe]
    d = LinearDiffusion(r, LinearBeta(8.0, 8.0), Sigma0=hsm(r))
    point = Score(d, Independent(torch.tensor([0.3]), torch.tensor([0.0])))
    p = d.perturb(torch.full((4, 1), 0.3).double(), 0.9, normal(4, r.k, 1, seed=1))
    x = step(DEIS(1), d, point, p.z, 0.9, 0.4)
    assert_close(point.data(x, 0.4), torch.full((4, 1), 0.3).double())


def test_ancestral_is_ddpm_as_printed():
    "Ho et al. 2020, equations 6 and 7."
    d = LinearDiffusion(vp(), LinearBeta())
    score, z, xi = Score(d, law), normal(5, 1, 2), normal(5, 1, 2, seed=1)
    a, b = (torch.exp(-d.schedule.B(u)) for u in (0.7, 0.4))
    chi = score.data(z, 0.7)[:, None]
    mean = b.sqrt() * (1 - a / b) / (1 - a) * chi
    mean = mean + (a / b).sqrt() * (1 - b) / (1 - a) * z
    printed = mean + ((1 - b) / (1 - a) * (1 - a / b)).sqrt() * xi
    assert_close(step(ancestral, d, score, z, 0.7, 0.4, xi), printed)


@pytest.mark.parametrize("recipe", (vp(), psld()), ids=("VP", "PSLD"))
@pytest.mark.parametrize("sampler", (ancestral, DPMSolver(3), DEIS(3)), ids=repr)
def test_steps_leave_components_that_stand_still(sampler, recipe):
    d = LinearDiffusion(recipe, continued(torch.arange(5), 2), Sigma0=hsm(recipe))
    z = normal(3, recipe.k, 5)
    score = Score(d, Independent(torch.zeros(5), torch.ones(5)))
    xi = normal(6, 3, recipe.k, 5)
    y = sample(sampler, d, score, z, uniform(6), noise=xi, final=False)
    assert_close(y[..., :2], z[..., :2], rtol=1e-9, atol=1e-9)
    assert (y[..., 2:] - z[..., 2:]).abs().min() > 1e-6 and y.isfinite().all()


class Stay(Sampler):
    "A step that leaves the state where it is."

    noises, evaluations, extra, memory, order = 0, 0, 0, 0, 0

    def coefficients(self, grid):
        return (grid.t,)

    def update(self, c, here, there, z, noise, past):
        return z


@pytest.mark.parametrize("recipe", recipes)
def test_a_correction_leaves_the_law_at_its_time(recipe):
    d, gaps = trial[recipe], []
    right = marginal_covariance(d, law, 0.4)
    for size in (0.1, 0.05):  # but for δ²
        sampler = predictor_corrector(Stay(), size)
        found = propagate(sampler, d, Score(d, law), [0.6, 0.4], right, shape=(2,))
        gaps.append((found - right).norm())
    assert gaps[0] > 3.5 * gaps[1] and gaps[0] < 0.05 * right.norm()


@pytest.mark.parametrize(
    "sampler",
    (
        ancestral,
        predictor_corrector(euler_maruyama),
        predictor_corrector(ddim, 0.3),
        predictor_corrector(sscs, 0.2, 2),
    ),
    ids=("ancestral", "EM", "DDIM", "SSCS"),
)
def test_orders_with_corrections(sampler):
    assert all(0.7 < o < 1.5 for o in orders(sampler))


def test_a_corrector_wants_a_size_and_a_predictor_without_a_memory():
    both = predictor_corrector(sscs, 0.2, 2)
    assert (both.evaluations, both.noises) == (3, 4)
    with pytest.raises(ValueError, match="size > 0"):
        predictor_corrector(ddim, size=0.0)
    with pytest.raises(ValueError, match="without a memory"):
        predictor_corrector(DPMSolver(2))


@pytest.mark.parametrize("word", ("BA", "BAB", "OBA", "BAO", "OBAB", "BAB naive"))
def test_orders_of_splittings(word):
    sampler = Splitting(word[:4].strip(), reduced="naive" not in word)
    two, three = orders(sampler, ("CLD", "PSLD")), orders(sampler, ("third order",))
    assert all(0.7 < o < 1.3 for o in two) and 0.8 < three[0] < 1.8


def test_factor_of_the_position_noise_leaves_an_error():
    rubbing = psld(1.0, 5.0)  # enough friction on the position to see its noise
    d = LinearDiffusion(rubbing, LinearBeta(1.0, 9.0), Sigma0=hsm(rubbing))
    fading = {
        factor: measure_order(Splitting("OBA", lambda_s=factor), d, law, (32, 64, 128))
        for factor in (1.0, 1.2)
    }
    assert fading[1.2][1] < 0.3 < 0.8 < fading[1.0][1]  # the error stops falling
    assert Splitting("OBA", lambda_s=1.2).order == 0


def test_splitting_letter_by_letter():
    d, z, xi = trial["PSLD"], normal(4, 2, 2), normal(4, 2, 2, seed=1)
    r, score = d.recipe, Score(d, law)
    B = (d.schedule.B(0.7) - d.schedule.B(0.6)).item()
    calm = Recipe(r.D, torch.zeros(2, 2), r.H)
    root = scale_tril(calm, B)
    y = torch.einsum("ij,bjc->bic", phi(calm, B), z)
    y = y + torch.einsum("ij,bjc->bic", root, xi)

    def velocity(y, s):
        V = (r.Q / 2 + r.D) @ r.H
        return torch.einsum("ij,bjc->bic", V, y) + torch.einsum("ij,bjc->bic", r.D, s)

    s = score(y, 0.7)
    y[:, 1] += B / 2 * velocity(y, s)[:, 1]
    y[:, 0] += B * velocity(y, s)[:, 0]
    y[:, 1] += B / 2 * velocity(y, score(y, 0.6))[:, 1]
    assert_close(step(Splitting("OBAB"), d, score, z, 0.7, 0.6, xi), y)


@pytest.mark.parametrize("L", (0.0, 0.1, 0.1 * torch.ones(1, 1)))
def test_orders_of_conjugate_steps(L):
    assert all(abs(o - 1) < 0.45 for o in orders(Conjugate(L)))


def test_conjugate_steps():
    only = torch.tensor([0.0])
    assert tune_lambda(trial["PSLD"], uniform(20, 0.1), values=only) == 0.0
    d, z = trial["VP"], normal(3, 1, 2)
    pair = (step(s, d, Score(d, law), z, 0.7, 0.4) for s in (Conjugate(), ddim))
    assert_close(*pair)
    d, z, ones = trial["PSLD"], normal(3, 2, 2), torch.ones(2, 2)
    score = Score(d, law)
    first = step(Conjugate(0.1), d, score, z, 0.7, 0.4)
    second = step(Conjugate(0.1 * ones), d, score, z, 0.7, 0.4)  # after another Λ
    assert (first - second).abs().max() > 1e-3
    again = step(Conjugate(0.1 * ones), trial["PSLD"], score, z, 0.7, 0.4)
    assert torch.equal(second, again)


def test_one_step_of_dormand_and_prince():
    y, s = torch.ones(3, 1).double(), torch.zeros(3).double()
    h = torch.tensor([0.1, 0.2, -0.1]).double()
    new, gap, slope = dopri_step(lambda y, s: y, y, s, h, y)  # y' = y, three at once
    assert_close(new[:, 0], h.exp(), rtol=0, atol=1e-7)
    assert_close(slope, new, rtol=1e-6, atol=0)
    assert (gap.abs() < 1e-6).all() and (gap.abs() > 0).all()
    found = rms(torch.tensor([[3.0, 4.0], [1.0, 1.0]]))
    assert_close(found, torch.tensor([12.5, 1.0]).double().sqrt())


def test_adaptive_stops_after_its_steps():
    y, few = torch.ones(2, 1).double(), dict(rtol=1e-8, atol=1e-8, max_steps=3)
    with pytest.raises(ValueError, match="3 steps"):
        adaptive(lambda y, s: y, y, 0.0, 1.0, **few)


def test_dormand_prince_against_torchdiffeq():
    d = trial["PSLD"]
    score, z = Score(d, law), d.prior(normal(6, 2, 2))
    fine = dict(eps=0.01, rtol=1e-6, atol=1e-6)
    x, spent = dormand_prince(d, score, z, **fine)
    alone = [dormand_prince(d, score, one, **fine) for one in z.split(1)]
    assert_close(x, torch.cat([a for a, _ in alone]), rtol=1e-9, atol=1e-9)
    assert spent.tolist() == [n.item() for _, n in alone]  # batch mates don't matter
    ends, tight = torch.tensor([1.0, 0.01]).double(), dict(rtol=1e-10, atol=1e-10)
    oracle = odeint(lambda t, y: d.flow(y, score(y, t), t), z[:1], ends, **tight)[-1]
    errors = []
    for tol in (1e-3, 1e-5, 1e-7):
        found, _ = dormand_prince(d, score, z[:1], eps=0.01, rtol=tol, atol=tol)
        errors.append((found - oracle).abs().max().item())
    assert errors[0] > 8 * errors[1] > 64 * errors[2] and errors[2] < 1e-5
    with pytest.raises(ValueError, match="t = 1"):
        dormand_prince(d, lambda z, t: score(z, t) * float("nan"), z)
    with pytest.raises(ValueError, match="eps"):
        dormand_prince(d, score, z, eps=0.0)


@pytest.mark.parametrize("recipe", ("VP", "PSLD"))
def test_eight_points_are_reached_with_few_evaluations(recipe):
    "Energy distances of 1000 samples from 1000 fresh draws, against two such sets."
    angle = torch.arange(8).double() * torch.pi / 4
    eight = Mixture(torch.stack([angle.cos(), angle.sin()], 1), 0.01)
    slow = LinearBeta() if recipe == "VP" else LinearBeta(8.0, 8.0)
    d = LinearDiffusion(recipes[recipe], slow, Sigma0=hsm(recipes[recipe]))

    def fresh(g):
        noise = torch.randn(1000, 2, generator=g, dtype=torch.float64)
        return eight.sample(noise, generator=g)

    def energy(a, b):
        within = torch.cdist(a, a).mean() + torch.cdist(b, b).mean()
        return (2 * torch.cdist(a, b).mean() - within).item()

    def distances(sampler, n):
        out = []
        for g in (torch.Generator().manual_seed(i) for i in range(3)):
            z = d.prior(torch.randn(1000, d.k, 2, generator=g, dtype=torch.float64))
            times, score = even_log_snr(d, n), Score(d, eight)
            x = sample(sampler, d, score, z, times, generator=g, final=False)[:, 0]
            out.append(energy(x, fresh(g)))
        return torch.tensor(out)

    seeds = [torch.Generator().manual_seed(i) for i in range(3)]
    floor = torch.tensor([energy(fresh(g), fresh(g)) for g in seeds])
    best, worst = distances(DPMSolver(3), 23), distances(ddim, 6)
    assert best.mean() < floor.mean() + 5 * floor.std() < worst.mean()
