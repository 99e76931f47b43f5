"""Every law, recipe, start and schedule against dense matrices; threads; derivatives"""

import copy
import math
import re
import threading

import pytest
import torch
from torch.testing import assert_close

from gud_nb.basis import PCA, Pixel, Scaled
from gud_nb.denoiser import (
    Dense,
    Gaussian,
    Independent,
    Law,
    LowRank,
    Mixture,
    Score,
    Spectral,
    clipped,
    data_from_eps,
    data_from_v,
    eps_from_data,
    fit_gaussian,
    fit_low_rank,
    gaussian,
    guided,
    labelled,
    v_from_data,
)
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.schedule import LinearBeta, LinearGamma

g = torch.Generator().manual_seed(0)
d = 4
mean = torch.randn(d, generator=g).double()
F = torch.randn(d, 2, generator=g).double()
psi = torch.tensor([0.3, 0.01, 1.0, 0.1]).double()
C = F @ F.T + torch.diag(psi)
values, vectors = torch.linalg.eigh(C)
laws = {
    "independent": Independent(mean, psi),
    "spectral": Spectral(mean, values, vectors),
    "low spectral": Spectral(mean, values[2:], vectors[:, 2:], 0.2),
    "dense": Dense(mean, C),
    "low rank": LowRank(mean, F, psi),
    "mixture": Mixture(torch.randn(3, d, generator=g), torch.rand(3, d, generator=g)),
}
own_friction = psld(torch.tensor([0.01, 0.1, 0.3, 1.0]), torch.tensor([4.01, 3, 5, 6]))
recipes = {
    "VP": vp(),
    "CLD": cld(),
    "PSLD": psld(),
    "third order": third_order(),
    "a recipe each": own_friction,
}


def process(recipe: str, own: bool, start: str) -> LinearDiffusion:
    "One schedule for all components, or one each."
    r = recipes[recipe]
    levels = LinearGamma(torch.linspace(-6.0, -3.0, d) + 2 * (r.k - 1), 3.0)
    how = {start: hsm(r)} if r.k > 1 else {}
    return LinearDiffusion(r, levels if own else LinearBeta(8.0, 8.0), **how)


def dense_state(law: Gaussian, process: LinearDiffusion, t: float):
    "Mean and covariance of the flattened state (k, d), from the definition."
    kernel = process.kernel(t, torch.zeros(1, process.k, d).double())
    phi = kernel.phi[0].expand(process.k, d)
    T = kernel.T[0].expand(process.k, process.k, d)
    signal = torch.zeros(process.k, d, d).double()
    noise = torch.zeros(process.k, d, process.k, d).double()
    for i in range(d):
        signal[:, i, i] = phi[:, i]
        noise[:, i, :, i] = T[..., i] @ T[..., i].T
    A, n = signal.reshape(-1, d), process.k * d
    return A @ law.mean, A @ law.covariance_matrix() @ A.T + noise.reshape(n, n)


cases = pytest.mark.parametrize("start", ["Sigma0", "aux_cov"])
every_recipe = pytest.mark.parametrize("recipe", recipes)
every_law = pytest.mark.parametrize("name", laws)
schedules = pytest.mark.parametrize("own", [False, True], ids=["one", "own"])
gaussians = [n for n in laws if n != "mixture"]


@cases
@schedules
@every_recipe
@pytest.mark.parametrize("name", gaussians)
def test_score_density_and_mean_from_the_definition(name, recipe, own, start):
    law, p = laws[name], process(recipe, own, start)
    score = Score(p, law)
    z = torch.randn(3, p.k, d, generator=g).double()
    for t in (0.1, 0.5, 1.0):
        m, S = dense_state(law, p, t)
        right = -torch.linalg.solve(S, (z.flatten(1) - m).T).T.reshape(z.shape)
        assert_close(score(z, t), right, rtol=1e-5, atol=1e-6)
        normal = torch.distributions.MultivariateNormal(m, S)
        density = normal.log_prob(z.flatten(1))
        assert_close(score.log_prob(z, t), density, rtol=1e-8, atol=1e-7)
        tweedie = p.kernel(t, z).data(z, score(z, t))
        assert_close(tweedie, score.data(z, t), rtol=1e-6, atol=1e-6)
        single = score(z.float(), t)
        assert (single - right).norm() < 2e-3 * right.norm()


@schedules
@every_recipe
def test_mixture_from_the_definition(recipe, own):
    law, p = laws["mixture"], process(recipe, own, "Sigma0")
    z = torch.randn(3, p.k, d, generator=g).double().requires_grad_()
    members = []
    for m, v in zip(law.means, law.variances):
        m, S = dense_state(Independent(m, v), p, 0.5)
        normal = torch.distributions.MultivariateNormal(m, S)
        members.append(normal.log_prob(z.flatten(1)))
    log_p = torch.logsumexp(torch.stack(members), 0) - torch.log(torch.tensor(3.0))
    right = torch.autograd.grad(log_p.sum(), z)[0]
    score = Score(p, law)
    assert_close(score.log_prob(z, 0.5), log_p, rtol=1e-7, atol=1e-7)
    assert_close(score(z, 0.5), right, rtol=1e-5, atol=1e-5)


@schedules
@every_law
def test_a_batch_of_times_is_one_time_after_the_other(name, own):
    p = process("PSLD", own, "Sigma0")
    score, times = Score(p, laws[name]), torch.tensor([0.1, 0.5, 0.9])
    z = torch.randn(3, 2, d, generator=g).double()
    for f in (score, score.data, score.log_prob):
        alone = [f(z[i : i + 1], times[i]) for i in range(3)]
        assert_close(f(z, times), torch.cat(alone), rtol=1e-8, atol=1e-8)


@schedules
@every_recipe
@every_law
def test_threads_see_the_same_scores(name, recipe, own):
    score = Score(process(recipe, own, "Sigma0"), laws[name])
    z = torch.randn(8, score.diffusion.k, d, generator=g)
    times = [0.1 + 0.05 * i for i in range(12)]
    right, found = [score(z, t) for t in times], [None] * 4

    def work(i):
        found[i] = [score(z, t) for t in times]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seen in found:
        assert all(torch.equal(a, b) for a, b in zip(seen, right))


@schedules
@every_recipe
@every_law
def test_inference_mode_and_times_that_change(name, recipe, own):
    p = process(recipe, own, "Sigma0")
    law = copy.deepcopy(laws[name])  # its first use is in inference mode
    score, z = Score(p, law), torch.randn(3, p.k, d, generator=g)
    t = torch.tensor([0.2, 0.4, 0.6]).double()
    with torch.inference_mode():
        first = score(z, t)
    assert_close(first, Score(p, laws[name])(z, t))
    z.requires_grad_()
    score(z, t).square().sum().backward()  # and then in training
    assert z.grad.isfinite().all()
    shared = t.numpy()
    shared += 0.1  # memory of a time is changed behind our back
    assert_close(score(z, t), score(z, t.clone()))
    assert not torch.equal(score(z, t), first)


@schedules
@every_recipe
@every_law
def test_second_derivatives_twice_at_one_time(name, recipe, own):
    p = process(recipe, own, "Sigma0")
    score, z = Score(p, laws[name]), torch.randn(1, p.k, d, generator=g).double()

    def total(z):
        return score(z, 0.4).square().sum()

    first = torch.func.hessian(total)(z)
    J = torch.func.jacrev(lambda z: score(z, 0.4))(z)
    again = torch.func.hessian(total)(z)
    assert_close(first, again)
    S = J.reshape(p.k * d, p.k * d)
    assert_close(S, S.T, rtol=1e-6, atol=1e-6)  # a score is a gradient
    assert_close(copy.deepcopy(score)(z, 0.4), score(z, 0.4))


def test_rank_is_used():
    x = torch.randn(500, 6, generator=g).double() * torch.arange(1, 7)
    for law in (fit_gaussian(x, rank=2), gaussian(x.mean(0), x.T.cov(), rank=2)):
        assert law.vectors.shape == (6, 2) and law.rest > 0


def test_a_new_law_in_a_few_lines():
    class Uniform(Mixture):
        "Data spread evenly over [-1, 1], as a fine comb of points."

        def __init__(self, n: int = 2001):
            super().__init__(torch.linspace(-1, 1, n).double()[:, None])

    law, y = Uniform(), torch.linspace(-3, 3, 7).double()[:, None]
    low, high = (y - 1) / 0.5, (y + 1) / 0.5  # truncated normal, in closed form
    normal = torch.distributions.Normal(0.0, 1.0)
    mass = normal.cdf(high) - normal.cdf(low)
    slope = normal.log_prob(high).exp() - normal.log_prob(low).exp()
    right = y + 0.5 * slope / mass
    assert_close(law(y, -2 * torch.log(torch.tensor(0.5))), right, rtol=1e-3, atol=1e-3)
    score = Score(LinearDiffusion(psld(), LinearBeta(8.0, 8.0)), law)
    assert score(torch.zeros(2, 2, 1).double(), 0.5).abs().max() < 1e-9


def test_memory_of_large_laws_is_linear():
    x = torch.randn(30, 3, 64, 64, generator=g)
    law = fit_gaussian(x, rank=8)  # 12288 components: a d×d matrix would take 1.2 GB
    assert law.vectors.shape == (12288, 8)
    assert fit_gaussian(x, independent=True).variances.shape == (3, 64, 64)
    y = torch.randn(2, 3, 64, 64, generator=g)
    assert law(y, 0.0).shape == y.shape
    with pytest.raises(ValueError, match="noise level for each"):
        law(y, torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("recipe", ["VP", "CLD", "PSLD", "third order"])
@pytest.mark.parametrize("t", [1e-3, 1e-2, 0.1])
def test_scores_of_single_precision_states(recipe, t):
    "With little noise, whitened state and signal are large and all but equal."
    p = LinearDiffusion(recipes[recipe], LinearBeta(8.0, 8.0), hsm(recipes[recipe]))
    law, chi = Independent(torch.zeros(50), torch.ones(50)), torch.randn(20, 50)
    z = p.perturb(chi, t, torch.randn(20, p.k, 50)).z
    exact, single = p.kernel(t, z.double()), p.kernel(t, z)
    y, y32 = exact.observe(z.double()), single.observe(z)
    right = exact.noise(z.double(), law(y, exact.log_snr))
    mean = law(y32, single.log_snr)
    assert (single.noise(z, mean) - right).square().mean().sqrt() < 1e-4
    s = single.score(z, mean).double()
    white = -torch.einsum("ij,bic->bjc", exact.T[0, :, :, 0], s)
    assert (white - right).square().mean().sqrt() < 1e-4


def test_density_where_nothing_is_left_of_the_data():
    p = LinearDiffusion(vp(), LinearBeta(100.0, 100.0))  # log-SNR -100
    z = torch.randn(3, 1, d, generator=g).double()
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    for name in gaussians:
        assert_close(
            Score(p, laws[name]).log_prob(z, 1.0), normal, rtol=1e-6, atol=1e-6
        )


# Gaussian laws in all their forms, and mixtures, from the definition

same_law = {n: laws[n] for n in ("spectral", "dense", "low rank")}
one_level, each_level = (
    torch.full((1, 1), 0.3).double(),
    torch.rand(1, d, generator=g).double(),
)


@pytest.mark.parametrize("R", [one_level, each_level], ids=["one level", "one each"])
@pytest.mark.parametrize("name", same_law)
def test_gain_root_and_determinant_from_the_definition(name, R):
    law, v = same_law[name], torch.randn(3, d, generator=g).double()
    noisy = C + torch.diag(R[0].expand(d))
    right = torch.linalg.solve(noisy, v.T).T
    posterior = C - C @ torch.linalg.solve(noisy, C)
    assert_close(law.solve(v, R), right)
    assert_close(law.gain(v, R), right @ C)
    half = law.root(torch.eye(d).double(), R)
    assert_close(half.T @ half, noisy)
    assert_close(law.log_det(R)[0], torch.logdet(noisy))
    common = law.factor(R)
    assert torch.equal(law.gain(v, R, common), law.gain(v, R))
    assert torch.equal(law.variance(R, common), law.variance(R))
    found = law.variance(R).expand(1, d)[0]
    assert_close(found.mean(), posterior.diagonal().mean())
    if found.std() > 0:  # a spectrum under one level gives the average
        assert_close(found, posterior.diagonal())
    assert_close(law.covariance_matrix(), C)
    assert_close(law.component_variances, C.diagonal())
    assert isinstance(law, Gaussian) and isinstance(law, Law)


@pytest.mark.parametrize("name", [n for n in laws if n != "mixture"])
def test_a_law_in_another_basis(name):
    "Its mean, its covariance and its density are those of turned data."
    law, y = laws[name], torch.randn(6, d, generator=g).double()
    Q = torch.linalg.qr(torch.randn(d, d, generator=g).double()).Q
    turned = PCA((d,), Q, torch.ones(d), torch.zeros(d))
    bases = turned, Scaled(turned, mean, torch.tensor([0.5, 1.0, 2.0, 3.0]))
    for basis in bases:
        found = law.in_basis(basis)
        M = basis(torch.eye(d).double()) - basis(torch.zeros(1, d).double())
        want = M.mT @ law.covariance_matrix() @ M
        assert_close(found.covariance_matrix(), want, rtol=1e-9, atol=1e-10)
        assert_close(found.mean, basis(law.mean[None])[0])
        density = law.log_prob(y) + basis.log_volume
        assert_close(found.log_prob(basis(y)), density, rtol=1e-6, atol=1e-6)
    level = torch.tensor(0.7)
    found = law.in_basis(turned)
    assert_close(found(turned(y), level), turned(law(y, level)), rtol=0, atol=1e-6)
    assert isinstance(found, Spectral) == isinstance(law, Spectral)
    with pytest.raises(ValueError, match="want equal"):
        law.in_basis(Pixel((5,)))


def test_the_repr_of_a_law_is_short():
    for law in laws.values():
        assert "\n" not in repr(law) and len(repr(law)) < 200


@pytest.mark.parametrize("rank", [2, 4])
def test_principal_axes_are_the_law(rank):
    v, low = torch.randn(3, d, generator=g).double(), torch.randn(d, 2).double()
    matrix, R = low @ low.T + 0.1 * torch.eye(d), torch.tensor([[0.5]]).double()
    whole, (size, U) = Dense(torch.zeros(d), matrix), torch.linalg.eigh(matrix)
    part = Spectral(torch.zeros(d), size[2:], U[:, 2:], rest=0.1)
    p = part if rank == 2 else whole.spectral
    share = p.axis_variances / (p.axis_variances + R)
    assert_close(p.from_axes(p.to_axes(v)), v)
    assert_close(p.from_axes(share * p.to_axes(v)), whole.gain(v, R))


@pytest.mark.parametrize("name", gaussians)
def test_levels_one_by_one_and_at_both_ends(name):
    law, levels = laws[name], torch.tensor([-2.0, 0.0, 3.0])
    rows = torch.randn(3, d, generator=g).double()
    assert law(rows, levels).dtype == torch.float64
    one_by_one = [law(rows[i : i + 1], levels[i]) for i in range(3)]
    assert_close(law(rows, levels), torch.cat(one_by_one))
    each = (levels[:, None] + torch.randn(3, d, generator=g)).double()
    one_by_one = [law(rows[i : i + 1], each[i : i + 1]) for i in range(3)]
    assert_close(law(rows, each), torch.cat(one_by_one))
    normal = torch.distributions.MultivariateNormal(mean, law.covariance_matrix())
    assert_close(law.log_prob(rows), normal.log_prob(rows))
    assert_close(law(rows, math.inf), rows)  # no noise: the data themselves
    assert_close(law(rows, -60.0), mean.expand(3, d), rtol=0, atol=1e-6)
    for f in (law, law.sample, law.log_prob):
        with pytest.raises(ValueError, match=re.escape("want (batch, 4)")):
            f(rows[:, :3], 0.0)


def test_independent_is_a_diagonal_matrix():
    apart, diagonal = laws["independent"], Dense(mean, torch.diag(psi))
    rows, R = torch.randn(2, 2, d, generator=g).double().abs()
    for name in ("variance", "log_det"):
        assert_close(getattr(apart, name)(R), getattr(diagonal, name)(R))
    for name in ("gain", "solve", "root"):
        assert_close(getattr(apart, name)(rows, R), getattr(diagonal, name)(rows, R))


@pytest.mark.parametrize("t", [0.05, 0.4])
def test_posterior_variance_by_simulation(t):
    n, law = 40_000, laws["dense"]
    p = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), hsm(psld()))
    chi = law.sample(torch.randn(n, d, generator=g).double())
    z = p.perturb(chi, t, torch.randn(n, 2, d, generator=g).double()).z
    left = (Score(p, law).data(z, t) - chi).square().mean(0)
    R = torch.exp(-p.log_snr(t, z))
    assert_close(left, law.variance(R)[0], rtol=0.03, atol=0)


@pytest.mark.parametrize("kind", ["shared", "a number each", "own"])
def test_mixture_by_tweedie(kind):
    "Variances that are shared, and levels that are, take paths of their own."
    means, weights = (
        1.5 * torch.randn(3, d, generator=g).double(),
        torch.tensor([1, 2, 5.0]),
    )
    y = torch.randn(5, d, generator=g).double().requires_grad_()
    level = torch.randn(5, d, generator=g).double()
    number, own = torch.rand(3, 1, generator=g), torch.rand(3, d, generator=g)
    shared = number[:1].expand(1, d)
    v = {"shared": shared, "a number each": number[:, 0], "own": own}[kind]
    full = (number if v.ndim == 1 else v).double().expand(3, d)
    scales = (full + torch.exp(-level)[:, None]).sqrt()
    members = torch.distributions.Normal(means, scales).log_prob(y[:, None]).sum(-1)
    log_p = torch.logsumexp(members + (weights / weights.sum()).log(), 1)
    law = Mixture(means, v, weights)
    assert_close(law.log_prob(y, level), log_p)
    tweedie = y + torch.exp(-level) * torch.autograd.grad(log_p.sum(), y)[0]
    assert_close(law(y, level), tweedie)
    assert_close(law(y, 0.3)[2:], law(y[2:], 0.3))


def test_mixtures_of_one_and_of_points():
    means = 1.5 * torch.randn(3, d, generator=g).double()
    y, level = torch.randn(2, 5, d, generator=g).double()
    one, alone = Mixture(mean[None], psi[None]), laws["independent"]
    assert_close(one(y, level), alone(y, level))
    assert_close(one.log_prob(y, 0.3), alone.log_prob(y, 0.3))
    rho = torch.softmax(-0.5 * torch.cdist(y, means).square(), 1)
    assert_close(Mixture(means)(y, 0.0), rho @ means)
    weights = torch.tensor([1.0, 2.0, 5.0])
    noise = torch.randn(50_000, d, generator=g).double()
    draws = Mixture(means, 0.1, weights).sample(noise, 1.0, g)
    centre = weights.double() @ means / 8
    assert_close(draws.mean(0), centre, rtol=0, atol=0.05)
    many = Mixture(torch.randn(1437, 64, generator=g))
    z, t = (
        torch.randn(256, 1, 64, generator=g),
        torch.rand(256, generator=g) * 0.9 + 0.1,
    )
    assert Score(LinearDiffusion(vp(), LinearBeta()), many)(z, t).shape == z.shape


def test_fitted_laws():
    mix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 0.1]]).double()
    x = torch.randn(3000, 2, 3, generator=g).double() @ mix + 1
    law = fit_gaussian(x)
    assert_close(law.covariance_matrix(), x.flatten(1).T.cov(correction=0))
    apart = fit_gaussian(x, independent=True)
    assert_close(apart.variances, x.var(0, correction=0))
    assert_close(fit_gaussian(x, rank=2).mean_variance, law.mean_variance)
    half = Spectral(law.mean, law.variances, law.vectors.half()).vectors
    assert_close(half, law.vectors, rtol=0, atol=2e-3)  # of half precision, mended
    assert_close(half.T @ half, torch.eye(6).double(), rtol=0, atol=1e-12)


three_points = torch.zeros(3, d)
refused = {
    "got variances of shape (3,)": lambda: Independent(mean, psi[:3]),
    "want (6, r)": lambda: LowRank(torch.zeros(6), F, psi),
    "> 0": lambda: LowRank(torch.zeros(6), torch.zeros(6, 1), torch.zeros(6)),
    "semidefinite": lambda: gaussian(torch.zeros(3), -torch.eye(3)),
    "a matrix (3, 3)": lambda: gaussian(torch.zeros(3), torch.eye(4)),
    "rank must be an integer ≥ 1": lambda: fit_gaussian(torch.randn(9, 3), rank=-2),
    "got rank=6": lambda: fit_low_rank(torch.randn(9, 6), 6),
    "variances must be ≥ 0": lambda: Mixture(three_points, -1.0),
    "(3, 4)": lambda: Mixture(three_points, torch.ones(2, d)),
    "not all 0": lambda: Mixture(three_points, weights=torch.zeros(3)),
    "one per image": lambda: data_from_eps(mean[None], mean[None], torch.zeros(2)),
}


@pytest.mark.parametrize("words", refused)
def test_refused(words):
    with pytest.raises(ValueError, match=re.escape(words)):
        refused[words]()


levels = [-8.0, 0.0, 8.0, torch.tensor([-3.0, 0.0, 5.0]), torch.randn(1, 2, 3)]


@pytest.mark.parametrize(
    "level", levels, ids=["low", "0", "high", "image", "component"]
)
def test_noise_and_velocity_are_the_posterior_mean(level):
    y, chi = torch.randn(2, 3, 2, 3, generator=g).double()
    assert_close(data_from_eps(y, eps_from_data(y, chi, level), level), chi)
    assert_close(data_from_v(y, v_from_data(y, chi, level), level), chi)


def test_velocity_at_no_signal_and_at_no_noise():
    y, chi = torch.randn(2, 3, 2, 3, generator=g).double()
    assert_close(v_from_data(y, chi, -40.0), -chi, rtol=0, atol=1e-7)
    assert_close(v_from_data(y, chi, 40.0), (y - chi) * math.exp(20))


def test_guided_clipped_and_labelled_denoisers():
    y, a, b = torch.randn(5, d).double(), laws["independent"], laws["mixture"]
    assert_close(guided(a, b, 1.0)(y, 0.3), a(y, 0.3))
    assert_close(guided(a, b, 0.0)(y, 0.3), b(y, 0.3))
    z, p = torch.randn(5, 2, d).double(), LinearDiffusion(psld(), LinearBeta())
    of_denoisers = Score(p, guided(a, b, 2.5))(z, 0.5)
    of_scores = guided(Score(p, a), Score(p, b), 2.5)(z, 0.5)
    assert_close(of_denoisers, of_scores)
    assert clipped(b, -0.5, 0.5)(y, 0.3).abs().max() <= 0.5
    assert_close(clipped(b, -9, 9)(y, 0.3), b(y, 0.3))

    def by_class(y, log_snr, labels=None):
        return y + labels[:, None]

    classes = torch.arange(5)
    assert_close(labelled(by_class, classes)(y, 0.3), y + classes[:, None])
