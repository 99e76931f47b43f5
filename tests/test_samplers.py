"""The order of every sampler for every recipe, and regressions of the integrators.

In pixels with one schedule and in a Haar basis with a schedule per level, no samples.
"""

import pytest
import torch
from fields import U, by_level, cov, haar, side
from torch.testing import assert_close

from gud_nb.basis import Pixel
from gud_nb.core import act
from gud_nb.denoiser import Independent, Score, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.integrators import (
    DEIS,
    Conjugate,
    ConjugateSplitting,
    DPMSolver,
    Splitting,
    ancestral,
    gaussian_distance,
    predictor_corrector,
    tune_lambda,
)
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.sampler import (
    Sampler,
    DDIM,
    Grid,
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
    many = LinearGamma(torch.linspace(-6, -3, 9000), 3.0)
    few = LinearGamma(torch.linspace(-6, -3, 9000)[[0, -1]], 3.0)
    tables = []
    for schedule in (many, few):
        d = LinearDiffusion(r, schedule, Sigma0=hsm(r))
        like = torch.zeros(1, r.k, *schedule.shape)
        tables.append(kind(2).coefficients(Grid(d, times, like)))
    for a, b in zip(*tables):
        assert_close(a[..., [0, -1]], b, rtol=1e-9, atol=1e-9)


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
