"""Likelihood: every process and every law against closed forms, and what is refused."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from gud_nb import likelihood
from gud_nb.basis import PCA, Pad, Pixel, Scaled
from gud_nb.denoiser import Dense, Independent, LowRank, Score, Spectral, gaussian
from gud_nb.diffusion import LinearDiffusion, hsm
from gud_nb.likelihood import (
    begin,
    bits_per_dim,
    dequantise,
    divergence,
    elbo,
    equal_portions,
    first_time,
    log_prob,
    nats_to_bits,
    normal,
    rademacher,
    unit_vectors,
)
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.schedule import (
    Cosine,
    LinearBeta,
    LinearGamma,
    PerImage,
    sequential,
    soft_conditioning,
)

f64 = torch.float64
LAM = torch.tensor([4.0, 1.0, 0.25, 0.04], dtype=f64)
ZERO = torch.zeros(4, dtype=f64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=f64):
    return torch.randn(shape, generator=generator(seed), dtype=f64).to(dtype)


Q = torch.linalg.qr(randn(4, 4, seed=1))[0]
COV = Q @ torch.diag(LAM) @ Q.T
OWN = soft_conditioning(LAM, a=1.5, gamma_denoise=-9.0)
COLUMNS = sequential(torch.arange(4.0), 0.5, -12.0, 3.0)
EVEN = LinearBeta(8.0, 8.0)


def process(recipe, schedule, start="Sigma0"):
    return LinearDiffusion(
        recipe, schedule, **({start: hsm(recipe)} if recipe.k > 1 else {})
    )


def state(d, n=4, batch=1):
    return torch.zeros(batch, d.k, n, dtype=f64)


PROCESSES = {  # with the covariance of the data
    "VP": (process(vp(), LinearBeta()), COV),
    "VP, cosine": (process(vp(), Cosine()), COV),
    "PSLD": (process(psld(), EVEN), COV),
    "PSLD, m drawn": (process(psld(), EVEN, "aux_cov"), COV),
    "CLD": (process(cld(), EVEN), COV),
    "third order": (process(third_order(), EVEN), COV),
    "GUD": (process(vp(), OWN), torch.diag(LAM)),
    "GUD in columns": (process(vp(), COLUMNS), torch.diag(LAM)),
    "GUD, correlated": (process(vp(), OWN), COV),
    "phase-space GUD": (process(psld(), OWN), torch.diag(LAM)),
    "the same, columns": (process(psld(), COLUMNS), torch.diag(LAM)),
}
MEAN = torch.tensor([0.3, -0.2, 0.0, 1.0], dtype=f64)
VALUES, VECTORS = (m.flip(-1) for m in torch.linalg.eigh(COV))
LAWS = {
    "independent": Independent(MEAN, LAM),
    "spectral": Spectral(MEAN, VALUES, VECTORS),
    "leading": Spectral(MEAN, VALUES[:2], VECTORS[:, :2], 0.1),
    "dense": Dense(MEAN, COV),
    "low rank": LowRank(MEAN, randn(4, 2, seed=2), LAM / 8),
}
every_process = pytest.mark.parametrize("name", PROCESSES)
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
few = ["VP", "third order", "GUD, correlated", "phase-space GUD"]
few_processes = pytest.mark.parametrize("name", few)


# the flow


@every_process
def test_flow_finds_the_law_of_the_observation(name):
    d, C = PROCESSES[name]
    law = gaussian(ZERO, C)
    x = law.sample(randn(12, 4, seed=3))
    R = torch.exp(-d.log_snr(first_time(d, state(d)), state(d))).expand(1, 4)[0]
    near = MultivariateNormal(ZERO, C + torch.diag(R)).log_prob(x)
    found = log_prob(Score(d, law), x, prior=law, generator=generator())
    assert_close(found.value, near, rtol=0, atol=4e-3)
    exactly = MultivariateNormal(ZERO, C).log_prob(x)
    assert_close(found.value.mean(), exactly.mean(), rtol=0, atol=4e-3)


@pytest.mark.parametrize("name", ["VP", "GUD, correlated", "phase-space GUD"])
@every_law
def test_every_law_is_score_and_prior_and_control(law, name):
    "With the right control no noise is left; all laws find their own density."
    d, _ = PROCESSES[name]
    x = law.sample(randn(3, 4, seed=4))
    want = law.log_prob(x, d.log_snr(first_time(d, state(d)), state(d)))
    for probe in (unit_vectors, rademacher):
        S, how = Score(d, law), dict(prior=law, generator=generator())
        found = log_prob(S, x, probe=probe, **how).value
        assert_close(found, want, rtol=0, atol=4e-3)


@few_processes
@every_law
def test_trace_of_a_gaussian_is_that_of_its_jacobian(law, name):
    d, _ = PROCESSES[name]
    z, t = randn(3, d.k, 4, seed=5), torch.tensor([0.1, 0.5, 1.0], dtype=f64)
    D = d.beta(t, z)[..., None, None] * d.recipe.D
    pull = likelihood.state_layout(D)
    exactly = divergence(
        lambda z: likelihood.act(pull, Score(d, law)(z, t)), z, unit_vectors(z)
    )[1]
    found = likelihood._trace(law, d.frame(t, z), D, z)
    assert_close(found.expand(3), exactly, rtol=1e-9, atol=1e-9)


def test_model_with_a_law_uses_it_as_control():
    "A `law` of the model, alone or in a tuple, takes the place of the prior's."

    class Model:
        diffusion, law = PROCESSES["VP"][0], LAWS["dense"]

        def __call__(self, z, t):
            return Score(self.diffusion, self.law)(z, t)

    model, x = Model(), randn(4, 4, seed=6)
    want = log_prob(model, x, probe=unit_vectors).value
    for given in (model, (model.diffusion, model)):
        found = log_prob(given, x, probe=rademacher, generator=generator()).value
        assert_close(found, want, rtol=0, atol=1e-3)


def test_steps_of_a_sample_do_not_depend_on_the_batch():
    for name in few:
        d, C = PROCESSES[name]
        if d.k > 1:
            continue  # the noise that is drawn would differ
        S, x = Score(d, gaussian(ZERO, C)), randn(5, 4, seed=7) * LAM.sqrt()
        together = log_prob(S, x).value
        alone = torch.cat([log_prob(S, one).value for one in x.split(1)])
        assert_close(together, alone, rtol=0, atol=1e-9)


def test_schedules_of_single_images():
    "Each image is evaluated on its schedule."
    members = LinearBeta(), LinearBeta(0.1, 30.0)
    x, law = randn(4, 4, seed=8), LAWS["dense"]
    both = process(vp(), PerImage(members, 4))
    S = Score(both, law)
    found = log_prob(S, x, prior=law, rtol=1e-8, atol=1e-8).value
    assert_close(found, law.log_prob(x), rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="schedules for single images"):
        elbo(S, x)


def test_wider_prior_is_the_law_at_the_end():
    "prior= takes a number, variances or a law; all mean the data noised to t = 1."
    d, x = process(vp(), LinearGamma(-9.0, 1.0)), randn(3, 4, seed=9)
    S = Score(d, Independent(ZERO, torch.full((4,), 0.3, dtype=f64)))
    forms = 0.3, torch.full((4,), 0.3), torch.full((4,), 0.3, dtype=f64)
    laws = [*forms[1:], Independent(ZERO, forms[2]), Dense(ZERO, torch.diag(forms[2]))]
    want = log_prob(S, x, prior=forms[0]).value
    for prior in laws:
        assert_close(log_prob(S, x, prior=prior).value, want, rtol=0, atol=1e-6)
    law = likelihood._law(0.1, x)
    assert_close(law.variances, torch.full((4,), 0.1, dtype=f64), rtol=0, atol=0)


# where it begins


@pytest.mark.parametrize("recipe", [vp(), cld(), psld(), third_order()])
def test_first_time_is_where_the_noise_has_a_variance(recipe):
    for schedule in (LinearBeta(), EVEN):
        d = process(recipe, schedule)
        for blur in (1e-8, 1e-6, 1e-3):
            t0 = first_time(d, state(d), blur)
            R = torch.exp(-d.log_snr(t0, state(d))).max().item()
            assert_close(R, blur, rtol=1e-4, atol=0)


def test_first_time_where_some_components_start_later():
    "B = 0 in some components, and noise from the beginning in others."
    d = process(vp(), sequential(torch.arange(4.0), 0.5, -30.0, 3.0))
    assert (d.B(0.0, state(d)) < 1e-12).any()
    assert 0 < first_time(d, state(d)) < 1
    never = process(vp(), LinearGamma(torch.tensor([-3.0, -4.0]), 3.0))
    assert first_time(never, state(never, 2)) == 0.0


@every_process
def test_begin_has_the_data_as_its_observation(name):
    d, C = PROCESSES[name]
    chi, noise, law = randn(6, 4), randn(6, d.k, 4, seed=1), gaussian(ZERO, C)
    z, more = begin(d, chi, 0.01, noise)
    assert_close(d.observe(z, 0.01).y, chi, rtol=1e-6, atol=1e-6)
    want = law.log_prob(chi, d.log_snr(0.01, z))
    assert_close(Score(d, law).log_prob(z, 0.01) + more, want, rtol=1e-6, atol=1e-6)


def test_begin_wants_noise_in_the_layout_of_the_state():
    d, _ = PROCESSES["PSLD"]
    with pytest.raises(ValueError, match=r"want \(6, 2, 4\)"):
        begin(d, randn(6, 4), 0.1, randn(6, 4, 2))


# the divergence


@pytest.mark.parametrize("probe", [unit_vectors, rademacher, normal])
def test_probes_are_states(probe):
    z = randn(5, 2, 3)
    v = probe(z, generator())
    assert v.shape == ((6, 1, 2, 3) if probe is unit_vectors else (1, 5, 2, 3))
    assert v.dtype == f64


def test_divergence_refuses_what_it_cannot_differentiate():
    z = randn(5, 2, 3)
    with pytest.raises(ValueError, match="want the same"):
        divergence(lambda z: z[:, :1], z, unit_vectors(z))
    with pytest.raises(ValueError, match="without derivatives"):
        divergence(lambda z: z.detach() * 2, z, unit_vectors(z))


# bits


def test_dequantised_data_stay_on_their_level():
    u = torch.randint(0, 256, (200, 2), generator=generator())
    a, b = (dequantise(v, generator(3)) for v in (u.float() / 127.5 - 1, u))
    assert_close(a, b, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="not on 256 even levels"):
        dequantise(torch.rand(3, 2))
    with pytest.raises(ValueError, match="from 0 to 16"):
        dequantise(torch.tensor([17]), levels=17)


def test_bits_are_those_of_log_prob():
    d, _ = PROCESSES["VP"]
    S, u = Score(d, LAWS["dense"]), torch.randint(0, 17, (5, 4), generator=generator())
    out = bits_per_dim(S, u, 17, generator=generator(1), steps=20)
    nats = log_prob(S, dequantise(u, generator(1), 17), steps=20).value
    assert_close(out.value, nats_to_bits(nats, 4, 17))
    assert out.error.isnan().all()


def test_tightened_bits_are_fewer():
    d, _ = PROCESSES["PSLD"]
    S, u = Score(d, LAWS["dense"]), torch.randint(5, 12, (5, 4), generator=generator())
    how = dict(levels=17, draws=4, steps=10)
    loose, tight = (
        bits_per_dim(S, u, tighten=t, generator=generator(1), **how)
        for t in (False, True)
    )
    assert (tight.value < loose.value).all()
    with pytest.raises(ValueError, match="would pass for density"):
        bits_per_dim(S, u, tighten=True, probe=rademacher, levels=17)


def test_tightening_averages_densities():
    d, _ = PROCESSES["PSLD"]
    S, x = Score(d, Independent(ZERO, LAM)), randn(6, 4)
    wrong, how = (d, lambda z, t: 1.1 * S(z, t)), dict(prior=1.0, steps=10, draws=4)
    loose, tight = (
        log_prob(wrong, x, tighten=t, generator=generator(1), **how)
        for t in (False, True)
    )
    assert (loose.value < tight.value).all()
    assert (loose.error > 0).all() and (tight.error > 0).all()


@pytest.mark.parametrize("tighten", [False, True])
def test_draws_are_averaged(tighten):
    W = randn(1, 3).expand(4, 3)
    found = likelihood._combine(W, True, tighten)
    assert_close(found.value, W[0])
    assert_close(found.error, torch.zeros(3, dtype=f64))


# the bound


@every_law
@every_process
def test_divergence_from_every_prior(name, law):
    "KL of the state at t = 1, given the data, by the closed form for dense matrices."
    d, _ = PROCESSES[name]
    chi, kernel = randn(3, 4, seed=11), d.kernel(1.0, state(d))
    phi = torch.diag_embed(kernel.phi.expand(1, d.k, 4)[0]).reshape(-1, 4)
    T = kernel.T.expand(1, d.k, d.k, 4)[0]
    noise = torch.diag_embed(T).permute(0, 2, 1, 3).reshape(4 * d.k, 4 * d.k)
    P = noise @ noise.T
    at_data = MultivariateNormal(chi @ phi.T, P)
    prior = MultivariateNormal(
        phi @ law.mean, P + phi @ law.covariance_matrix() @ phi.T
    )
    found = likelihood._divergence(law, chi, kernel.log_snr)
    assert_close(found, kl_divergence(at_data, prior), rtol=1e-6, atol=1e-8)


@every_process
def test_bound_of_an_exact_score(name):
    "No gap with the variances; without them the costs of decoder and prior."
    d, _ = PROCESSES[name]
    x = randn(250, 4, seed=12)
    x = x / x.square().mean(0).sqrt() * LAM.sqrt()  # variances λ exactly
    S, t0 = Score(d, Independent(ZERO, LAM)), first_time(d, state(d))
    truth = Normal(0.0, LAM.sqrt()).log_prob(ZERO).sum() - 2
    R = torch.exp(-d.log_snr(t0, state(d)))
    cost = (torch.log1p(R / LAM) / 2 + d.prior_mismatch(LAM)).sum()
    for prior, want in ((LAM, truth), (0.0, truth - cost)):
        out = elbo(S, x, draws=12, prior=prior, generator=generator(13))
        doubt = out.error.square().mean().sqrt() / 250**0.5
        assert abs(out.value.mean() - want) < 4 * doubt + 1e-4


@pytest.mark.parametrize("name", ["VP", "GUD, correlated", "third order"])
def test_times_cover_the_whole_interval(name):
    d, _ = PROCESSES[name]
    u = (torch.arange(4000, dtype=f64) + 0.5) / 4000
    t, density = equal_portions(d, state(d), 0.0, LAM)(u)
    assert t.min() >= 0 and t.max() <= 1
    assert_close((1 / density).mean().item(), 1.0, rtol=0, atol=5e-3)
    assert_close((t**2 / density).mean().item(), 1 / 3, rtol=0, atol=5e-3)


def test_single_precision_bound():
    d, _ = PROCESSES["PSLD"]
    S, x = Score(d, Independent(ZERO, LAM)), randn(6, 4)
    a, b = (elbo(S, v, prior=LAM, draws=4).value for v in (x, x.float()))
    assert a.dtype == b.dtype == f64
    assert_close(a, b, rtol=0, atol=1e-3)


def test_pins():
    "Printed numbers, of independent code: one exact score, and one 10 % wrong."
    law, x = Independent(ZERO, LAM), LAM.sqrt()[None]
    own, one = process(vp(), OWN), process(vp(), LinearBeta())
    found = log_prob(Score(own, law), x, prior=0.5).value.item()
    assert_close(found, -4.0667699795, rtol=0, atol=1e-7)
    found = log_prob((one, lambda z, t: 1.1 * Score(one, law)(z, t)), x).value.item()
    assert_close(found, -5.9045139038, rtol=0, atol=1e-7)


# what is refused

d3 = process(vp(), LinearBeta())
S3 = Score(d3, Independent(torch.zeros(3), torch.ones(3)))
X3 = randn(5, 3, dtype=torch.float32)


class Training(torch.nn.Module):
    diffusion = d3

    def forward(self, z, t):
        return S3(z, t)


def noisy(z, t):
    return S3(z, t) * (1 + torch.randn(5, 1, 3))


REFUSED = {
    "got a score of shape (5, 3)": lambda: log_prob(
        (d3, lambda z, t: S3(z, t)[:, 0]), X3
    ),
    "want the same": lambda: elbo((d3, lambda z, t: S3(z, t)[:2]), X3),
    "got the probe 'hutchinson'": lambda: log_prob(S3, X3, probe="hutchinson"),
    "at least one draw": lambda: log_prob(S3, X3, draws=0),
    "one step": lambda: log_prob(S3, X3, steps=0),
    "got draws=0": lambda: bits_per_dim(S3, X3, draws=0),
    "begin in [0, 1)": lambda: log_prob(S3, X3, t0=1.0),
    "there is no noise": lambda: log_prob(S3, X3, t0=0.0),
    "see dequantise": lambda: log_prob(S3, torch.zeros(5, 3, dtype=torch.uint8)),
    "NaN or infinite": lambda: log_prob(S3, X3 / 0),
    "a tuple (diffusion, score)": lambda: log_prob(lambda z, t: z, X3),
    "got tuple, want a model": lambda: log_prob((d3,), X3),
    "call .eval()": lambda: log_prob(Training(), X3),
    "training mode": lambda: log_prob(Score(d3, Training()), X3),
    "want one for all or one each": lambda: log_prob(S3, X3, prior=torch.ones(2)),
    "for components (4,)": lambda: log_prob(S3, X3, prior=LAWS["dense"]),
    "> 0, or all 0": lambda: elbo(S3, X3, prior=torch.tensor([1.0, 0.0, 1.0])),
    "500 steps have": lambda: log_prob((d3, noisy), X3),
    "would pass for density": lambda: log_prob(S3, X3, probe=normal, tighten=True),
    "belong to no data": lambda: log_prob(
        (d3, S3, Pad((1, 2, 2), (1, 4, 4))), torch.zeros(1, 1, 2, 2)
    ),
    "want a variance > 0": lambda: first_time(d3, state(d3, 3), 0.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(ValueError) as refusal:
        REFUSED[message]()
    assert message in str(refusal.value)


@pytest.mark.parametrize("f", [log_prob, elbo])
def test_errors_name_the_time(f):
    def late(z, t):
        bad = torch.where(torch.as_tensor(t) > 0.02, torch.nan, 1.0)
        return S3(z, t) * bad.reshape(-1, 1, 1)

    with pytest.raises(ValueError, match="the score is not finite at t = ") as refusal:
        f((d3, late), X3)
    assert float(str(refusal.value).split(" at t = ")[1]) > 0.02


def test_labels_reach_the_score():
    def labelled(z, t, labels):
        return S3(z, t) * labels.reshape(-1, 1, 1)

    plain, labels = log_prob(S3, X3).value, torch.ones(5)
    assert_close(log_prob((d3, labelled), X3, labels).value, plain)
    seen = [elbo((d3, labelled), X3, labels, generator=generator()).value]
    assert_close(seen[0], elbo(S3, X3, generator=generator()).value)


# Notebook 09 in detail: what its cells once swept


def with_variances(n, seed=0):
    "Numbers (n, 4) whose variances around 0 are exactly λ."
    x = randn(n, 4, seed=seed)
    return x / x.square().mean(0).sqrt() * LAM.sqrt()


def test_equal_steps_converge_with_the_fourth_order():
    d, x = process(vp(), LinearGamma(-9.0, 2.0)), with_variances(500)
    S, fine = Score(d, Independent(ZERO, LAM)), dict(rtol=1e-9, atol=1e-9)
    best = log_prob(S, x, prior=LAM, **fine).value
    equal = (log_prob(S, x, steps=n, prior=LAM).value for n in (40, 80))
    off = torch.stack([(value - best).abs().mean() for value in equal])
    assert 3.4 < (off[0] / off[1]).log2() < 5
    single = log_prob(S, x.float(), prior=LAM).value
    assert_close(single, best, rtol=0, atol=5e-3)
    cost = (best - log_prob(S, x, **fine).value).mean()  # of a prior for data at 0
    assert_close(cost, d.prior_mismatch(LAM).sum(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("probe", (rademacher, normal))
def test_probes_are_unbiased_and_their_error_is_measured(probe):
    law, g = gaussian(ZERO, COV), generator()
    S, x = Score(process(vp(), LinearBeta()), law), law.sample(randn(4, 4, seed=3))
    sure, right = log_prob(S, x), log_prob(S, x, prior=law)
    assert_close(sure.error, ZERO)
    assert log_prob(S, x, probe=probe, generator=g, steps=20).error.isnan().all()
    out = log_prob(S, x, probe=probe, draws=8, steps=20, generator=g)
    assert ((out.value - sure.value).abs() < 5 * out.error + 0.01).all()
    calm = log_prob(S, x, probe=probe, prior=law, generator=g)  # its trace is a formula
    assert_close(calm.value, right.value, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ("shifted", "scaled", "whitened"))
def test_density_is_that_of_data_space_in_any_basis(kind):
    mean = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=f64)
    pca = PCA.from_covariance(COV, mean)
    b = dict(
        shifted=Scaled(Pixel((4,)), mean),
        scaled=Scaled(Pixel((4,)), mean, torch.tensor([0.5, 1.0, 2.0, 4.0])),
        whitened=Scaled(pca, mean, pca.variances.sqrt()),
    )[kind]
    x = mean + randn(40, 4, seed=4) @ torch.linalg.cholesky(COV).T
    truth = MultivariateNormal(mean, COV).log_prob(x)
    unit = b.rotation(torch.eye(4, dtype=f64)).T / b.scale.reshape(
        -1, 1
    )  # x - mean to χ
    law, d = gaussian(ZERO, unit @ COV @ unit.T), process(psld(), EVEN)
    found = log_prob((d, Score(d, law), b), x, prior=law, generator=generator()).value
    assert_close(found, truth, rtol=0, atol=4e-3)


def test_slope_of_the_signal_to_noise_ratio():
    "d|w|²/dt = -β w⊤T⁻¹DT⁻⊤w, for a schedule per component in phase space."
    d = process(psld(), OWN)
    times = equal_portions(d, state(d), 0.0, LAM)
    u = (torch.arange(4000, dtype=f64) + 0.5) / 4000
    t, some = times(u)[0][::80].clone().requires_grad_(), state(d, batch=50)
    snr = d.frame(t, some).w.square().sum(-1)
    slope = [torch.autograd.grad(v.sum(), t, retain_graph=True)[0] for v in snr.T]
    frame = d.frame(t, some)
    K = frame.inverse @ d.recipe.D @ frame.inverse.mT
    falls = d.beta(t, some) * (frame.w * (K @ frame.w[..., None])[..., 0]).sum(-1)
    assert_close(-torch.stack(slope).T, falls, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ("VP", "PSLD", "phase-space GUD"))
def test_bound_without_variances_at_its_ends(name):
    d, x = PROCESSES[name][0], with_variances(250, seed=5)
    truth = Normal(0.0, LAM.sqrt()).log_prob(ZERO).sum() - 2
    S = Score(d, Independent(ZERO, LAM))
    R = torch.exp(-d.log_snr(first_time(d, state(d)), state(d)))
    cost = (torch.log1p(R / LAM) / 2 + d.prior_mismatch(LAM)).sum()
    for prior, want in ((LAM, truth), (0.0, truth - cost)):
        out = elbo(S, x, draws=12, prior=prior, generator=generator(6))
        value, error = out.value.mean(), out.error.square().mean().sqrt() / 250**0.5
        assert abs(value - want) < 4 * error + 1e-4


@pytest.mark.parametrize("recipe", (vp(), psld()))
def test_prior_with_common_factors(recipe):
    "What a short schedule leaves at t = 1 is correlated, and so is a LowRank prior."
    loadings = torch.tensor([[2.0], [2.0], [1.0], [-1.0]])
    shared = LowRank(ZERO, loadings, torch.tensor([0.2, 0.3, 0.1, 0.2]))
    alone = Independent(ZERO, shared.component_variances)
    x = shared.sample(randn(2000, 4, seed=5))
    truth = shared.log_prob(x)
    short = LinearGamma(torch.linspace(-11.0, -9.0, 4), 1.0)
    start = hsm(recipe) if recipe.k > 1 else None
    d = LinearDiffusion(recipe, short, Sigma0=start, by_snr=True)
    R, S = torch.exp(-d.log_snr(1.0, state(d))), Score(d, shared)
    theory = (shared.log_det(R) - alone.log_det(R)).item() / 2  # minus KL of priors
    for prior, want in ((shared, 0.0), (alone, theory)):
        found = elbo(S, x, draws=8, t0=0.0, prior=prior, generator=generator(5)).value
        gap = found - truth
        assert abs(gap.mean() - want) < 3 * gap.std() / 2000**0.5 + 2e-3


class Shifted(torch.nn.Module):
    "A network's stand-in: the exact score of a Gaussian whose mean is its label."

    def __init__(self):
        super().__init__()
        self.diffusion = process(psld(), EVEN)
        self.basis = Scaled(Pixel((1, 2, 2)), 0.0, 2.0)
        self.unit = Independent(torch.zeros(1, 2, 2), torch.ones(1, 2, 2))

    def forward(self, z, t, labels):
        mean = labels.reshape(-1, 1, 1, 1)

        def shifted(y, log_snr):
            return mean + self.unit(y - mean, log_snr)

        return Score(self.diffusion, shifted)(z, t)


def test_a_model_with_a_basis_and_labels():
    model, labels = Shifted().eval(), torch.tensor([0.0, 0.0, 0.5, 1.0])
    x, g = torch.randn(4, 1, 2, 2, generator=generator(2)), generator(3)
    truth = Normal(2 * labels.reshape(-1, 1, 1, 1), 2.0).log_prob(x).sum((1, 2, 3))
    found = log_prob(model, x, labels, generator=g).value
    assert_close(found, truth.double(), rtol=0, atol=1e-2)
    bound = elbo(model, x, labels, draws=50, generator=g)
    assert ((bound.value - found).abs() < 5 * bound.error + 0.05).all()
    u = torch.randint(0, 256, x.shape, generator=g)
    value = bits_per_dim(model, u, labels=labels, generator=g, steps=50).value
    assert value.isfinite().all() and (value > 0).all()
