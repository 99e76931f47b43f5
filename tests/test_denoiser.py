"""Every law, recipe, start and schedule against dense matrices; threads; derivatives"""

import copy
import threading

import pytest
import torch
from torch.testing import assert_close

from gud_nb.denoiser import (
    Dense,
    Gaussian,
    Independent,
    LowRank,
    Mixture,
    Score,
    Spectral,
    fit_gaussian,
    gaussian,
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
