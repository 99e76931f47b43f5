"""The process for every recipe, start and schedule: kernels, observations, priors"""

import re

import pytest
import torch
from torch.testing import assert_close

from gud_nb.core import act, state_layout
from gud_nb.diffusion import LinearDiffusion, frame_at, hsm, lift
from gud_nb.loss import score_matching
from gud_nb.recipe import cld, psld, third_order, vp
from gud_nb.schedule import (
    Cosine,
    LinearBeta,
    LinearGamma,
    PerImage,
    Schedule,
    soft_conditioning,
)
from gud_nb.transition import covariance, phi

recipes = {
    "VP": vp(),
    "CLD": cld(),
    "PSLD": psld(),
    "PSLD Γ = .25": psld(0.25),
    "third order": third_order(),
}
every_recipe = pytest.mark.parametrize("name", recipes)
soft = soft_conditioning(torch.logspace(1, -3, 5), a=1.4, gamma_denoise=-9.0, clip=True)


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


def refused(words: str):
    return pytest.raises(ValueError, match=re.escape(words))


def test_the_repr_of_a_process_is_short():
    many = LinearDiffusion(psld(), soft, hsm(psld()), by_snr=True)
    assert "\n" not in repr(many) and len(repr(many)) < 500
    assert "<svg" in many.schedule._repr_html_()


@every_recipe
def test_the_covariance_of_a_state_is_that_of_its_kernel(name):
    r, v = recipes[name], torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0]).double()
    for schedule in (LinearBeta(), soft):
        d = LinearDiffusion(r, schedule, hsm(r), by_snr=True)
        t, like = torch.tensor([0.2, 0.9]), torch.zeros(2, r.k, 5).double()
        kernel = d.kernel(t, like)
        for i in range(5):
            j = i if schedule is soft else 0
            N, u = kernel.T[..., j], kernel.phi[..., j]
            want = N @ N.mT + v[i] * u[:, :, None] * u[:, None]
            found = d.covariance(t, v).expand(2, 5, r.k, r.k)[:, i]
            assert_close(found, want, rtol=1e-9, atol=1e-12)
        assert d.covariance(0.5).shape == (*schedule.shape, r.k, r.k)
    start = LinearDiffusion(r, LinearBeta()).covariance(0.0, 2.0)  # the data alone
    assert_close(start[0, 0].item(), 2.0)
    assert start.sum().item() == start[0, 0].item()
    with refused("got t=5, want times in [0, 1]"):
        d.covariance(5)


# Starts


def test_the_start_of_the_momentum():
    assert_close(hsm(psld()), torch.diag(torch.tensor([0.0, 0.01])).double())
    assert hsm(vp()).item() == 0
    with refused("kappa"):
        hsm(psld(), -1.0)
    with refused("got recipe='psld', want a Recipe"):
        hsm("psld")
    with refused("(..., 1, 1)"):
        LinearDiffusion(vp(), Cosine(), Sigma0=torch.eye(2))


def test_a_position_alone_has_no_start_to_draw(g):
    plain = LinearDiffusion(vp(), LinearBeta())
    drawn = LinearDiffusion(vp(), LinearBeta(), aux_cov=hsm(vp()))
    x, noise = torch.randn(2, 3, generator=g), torch.randn(2, 1, 3, generator=g)
    aux = drawn.draw_aux(torch.zeros(2, 0, 3))
    assert aux.shape == (2, 0, 3)
    z = plain.perturb(x, 0.3, noise).z
    assert_close(drawn.perturb(x, 0.3, noise, aux).z, z)
    assert_close(drawn.perturb(x, 0.3, noise).z, z)
    loss = score_matching(drawn, lambda z, t: 0 * z, x, torch.full((2,), 0.3), noise)
    assert_close(loss, noise.square().sum(1).mean(1))
    with refused("want (batch, 0, ...)"):
        drawn.draw_aux(noise)


def test_a_start_integrated_out_and_one_drawn_add_up():
    parts = dict(Sigma0=hsm(psld(), 0.01), aux_cov=hsm(psld(), 0.03))
    assert_close(LinearDiffusion(psld(), LinearBeta(), **parts).start, hsm(psld()))


def test_lift(g):
    chi = torch.randn(5, 1, 4, 4, generator=g)
    assert lift(chi, 3).shape == (5, 3, 1, 4, 4)
    assert torch.equal(lift(chi, 3)[:, 0], chi)
    with refused("want (5, 1, 1, 4, 4)"):
        lift(chi, 2, chi)


# Axes


def test_schedules_of_several_images():
    two = PerImage((LinearGamma(-7.0, 3.0), LinearGamma(-9.0, 1.0)), 4)
    z, several = torch.zeros(4, 1, 5), LinearDiffusion(vp(), two)
    for t in (0.3, torch.tensor([0.1, 0.2, 0.3, 0.4])):  # one time, or one each
        alone = [LinearDiffusion(vp(), m).B(t, z).expand(4, 1) for m in two.members]
        assert_close(several.B(t, z), torch.cat([alone[0][:2], alone[1][2:]]))
    assert not several.is_scalar
    with refused("schedules for 4 images and a batch of 3"):
        several.B(0.3, z[:3])


def test_one_schedule_and_recipe_for_all_components():
    assert LinearDiffusion(vp(), LinearBeta()).is_scalar
    line = LinearGamma(torch.linspace(-9, -5, 5), 3.0)
    assert not LinearDiffusion(vp(), line).is_scalar
    assert not LinearDiffusion(psld(torch.rand(5)), LinearBeta()).is_scalar
    z = torch.zeros(4, 1, 5)
    beta = LinearDiffusion(vp(), LinearBeta()).beta(0.5, z)
    assert_close(beta.item(), 10.05)


def test_batch_and_components_one_by_one(g):
    levels = LinearGamma(torch.linspace(-12.0, -6.0, 16).reshape(1, 4, 4), 3.0)
    d = LinearDiffusion(psld(), levels, Sigma0=hsm(psld()))
    chi = torch.randn(5, 1, 4, 4, generator=g)
    noise = torch.randn(5, 2, 1, 4, 4, generator=g)
    t = torch.rand(5, generator=g)
    p = d.perturb(chi, t, noise)
    assert p.z.dtype == torch.float32 and p.L.dtype == torch.float64
    assert_close(act(p.L, p.eps, p.mean), p.z)
    for i in (0, 4):
        assert_close(d.perturb(chi[i : i + 1], t[i], noise[i : i + 1]).z[0], p.z[i])
    for j in range(4):
        low = levels.gamma_min[0, j, j].item()
        lone = LinearDiffusion(psld(), LinearGamma(low, 3.0), Sigma0=hsm(psld()))
        assert_close(lone.perturb(chi, t, noise).z[..., 0, j, j], p.z[..., 0, j, j])
    zero = torch.zeros(5, 1, 1, 4, 4)  # a momentum that is 0 need not be multiplied
    assert_close(d.perturb(chi, t, noise, zero).z, p.z)
    with refused("3 times for a batch of 5"):
        d.perturb(chi, torch.rand(3), noise)
    with refused("want (5, 2, 1, 4, 4)"):
        d.perturb(chi, t, noise[:, :1])


def test_sixty_four_images_of_sixty_four_components(g):
    "Batch and components of the same size are not mistaken for each other."
    n = 64
    line = LinearGamma(torch.linspace(-12, -6, n).double(), 3.0)
    chi, t = torch.randn(n, n, generator=g), torch.rand(n, generator=g)
    none = torch.zeros(n, 1, n)
    full = LinearDiffusion(vp(), line).perturb(chi, t, none).z[:, 0]
    right = torch.stack([torch.exp(-line.B(u) / 2) for u in t]) * chi
    assert_close(full, right.float())
    square = LinearGamma(torch.linspace(-12, -6, 64).reshape(8, 8), 3.0)
    with refused("one per component"):
        LinearDiffusion(vp(), square).perturb(chi, 0.5, none)


class Forgetful(Schedule):
    def B(self, t):
        return t * torch.linspace(1, 9, 64).double()


class Transposed(Schedule):
    shape = (64,)

    def B(self, t):
        return torch.linspace(1, 9, 64).double() * t


@pytest.mark.parametrize("schedule", [Forgetful(), Transposed()])
def test_schedules_with_the_wrong_axes_are_refused(schedule):
    with refused("time first"):
        LinearDiffusion(vp(), schedule)


# Frames and observations


def test_a_frame_is_the_transition():
    d = LinearDiffusion(psld(), LinearBeta(8.0, 8.0), Sigma0=hsm(psld()))
    z = torch.zeros(3, 2, 5)
    f = d.frame(0.3, z)
    assert_close(f.T, frame_at(d.recipe, d.B(0.3, z), d.start).T)
    assert_close(f.T @ f.T.mT, covariance(d.recipe, d.B(0.3, z), hsm(psld())))
    assert_close((f.T @ f.w[..., None])[..., 0], f.Phi[..., 0])
    assert d.frame(torch.rand(3), z).w.shape == (3, 1, 2)
    with refused("at t = 0 there is no noise"):
        d.frame(0.0, z)


@every_recipe
def test_an_observation_holds_all_of_the_data(name, g):
    "Its noise has the promised variance, the rest is noise of its own; by simulation."
    r, n = recipes[name], 200_000
    d = LinearDiffusion(r, LinearBeta(4.0, 4.0), Sigma0=hsm(r))
    chi = torch.randn(n, 1, generator=g).double()
    z = d.perturb(chi, 0.4, torch.randn(n, r.k, 1, generator=g).double()).z
    y, log_snr, rest = d.observe(z, 0.4)
    n_hat = (y - chi) * torch.exp(log_snr / 2)  # the noise, scaled to variance 1
    assert abs(n_hat.std().item() - 1) < 0.01
    others = rest[..., 0].T / z[..., 0].T.std(1, keepdim=True)
    mixed = torch.cat([others, chi.T, n_hat.T]).cov()[: r.k, r.k :]
    assert mixed.abs().max() < 0.01
    kernel, s = d.kernel(0.4, z), d.score(z, 0.4, chi)
    assert_close(kernel.data(z, s), chi)
    assert_close(kernel.noise(z, chi), -act(kernel.T.transpose(1, 2), s))


def test_the_log_snr_of_vp_is_minus_gamma():
    t = torch.tensor([0.1, 0.5, 0.9])
    d = LinearDiffusion(vp(), Cosine())
    assert_close(d.log_snr(t, torch.zeros(1, 1, 4))[:, 0], -d.schedule.gamma(t))


@every_recipe
def test_the_snr_from_its_definition(name):
    r, t = recipes[name], torch.tensor([0.1, 0.5, 0.9])
    d = LinearDiffusion(r, LinearBeta(8.0, 8.0), aux_cov=hsm(r))
    C, u = covariance(r, d.schedule.B(t), hsm(r)), phi(r, d.schedule.B(t))[..., 0]
    direct = (u * torch.linalg.solve(C, u)).sum(-1)
    assert_close(d.log_snr(t, torch.zeros(3, r.k, 1))[:, 0].exp(), direct)


# Priors


def test_prior_mismatch_of_a_schedule_without_hierarchy(g):
    weak = torch.full((3,), 1e-4).double()
    d = LinearDiffusion(vp(), soft_conditioning(weak, a=0.0))
    naive = d.prior_mismatch(weak, d.recipe.S)
    assert_close(naive, torch.full((3,), 2.58).double(), rtol=2e-3, atol=0)
    x = torch.tensor(-3.0).double().exp()
    right = ((x - (1 + x).log()) / 2).expand(3)  # e^-γ_noise: met exactly
    assert_close(d.prior_mismatch(weak), right)
    assert_close(d.prior_mismatch(0.0).sum().item(), 0.0)
    assert LinearDiffusion(vp(), Cosine()).prior_mismatch(1.0).shape == (1,)
    with refused("one each, (3,)"):
        d.prior(torch.zeros(2, 1, 3), variance=torch.ones(2))


@every_recipe
@pytest.mark.parametrize("own", [False, True], ids=["one", "own"])
def test_prior_mismatch_by_two_routes(name, own):
    r, v = recipes[name], torch.tensor([0.01, 1.0, 7.0]).double()
    line = LinearGamma(torch.linspace(-9, -7, 3), 0.5)
    d = LinearDiffusion(r, line if own else LinearBeta(0.1, 3.0), Sigma0=hsm(r))
    B = d.B(1.0, torch.zeros(1, r.k, 3))
    wide = d.prior_mismatch(v, covariance(r, B, d.start)[0])
    assert_close(d.prior_mismatch(v), wide, rtol=1e-7, atol=1e-10)
    true = covariance(r, B, d.start_of(v))[0]
    none = torch.zeros(3).double()
    assert_close(d.prior_mismatch(v, true), none, rtol=0, atol=1e-9)
    unit = torch.eye(r.k).double()[:, :, None].expand(-1, -1, 3)  # its columns
    L = d.prior(unit, variance=v).permute(2, 1, 0)
    assert_close((L @ L.mT).expand_as(true), true)


# Backwards


@pytest.mark.parametrize(
    "r", [*recipes.values(), psld(0.25, 1.0, M=2.0)], ids=[*recipes, "light damping"]
)
def test_at_rest_the_reverse_is_the_mirrored_recipe(r, g):
    t = torch.tensor([0.1, 0.3, 0.5, 0.9])
    d = LinearDiffusion(r, LinearBeta())
    z = torch.randn(4, r.k, 3, generator=g).double()
    beta = d.beta(t, z)[..., None, None]
    s = -act(state_layout(r.H[None, None]), z)
    current = act(state_layout(-beta * (r.Q @ r.H) / 2), z)
    assert_close(d.flow(z, s, t), current)
    mirrored = act(state_layout(beta * r.reversed().A / 2), z)
    assert_close(-d.reverse_drift(z, s, t), mirrored)
    F, G = d.F(t)[:, None], d.G(t)[:, None]
    half = act(state_layout(F), z) - act(state_layout(G @ G.mT), s) / 2
    assert_close(d.flow(z, s, t), half)


@every_recipe
def test_one_euler_step_back_from_bayes_rule(name, g):
    "The law of z_t given the state a moment later, for Gaussian data, exactly."
    r, v, t, dt = recipes[name], 0.7, 0.4, 1e-6
    d = LinearDiffusion(r, LinearBeta(8.0, 8.0), Sigma0=hsm(r))
    B, late = d.schedule.B(torch.tensor([t, t + dt], dtype=torch.float64))
    C = covariance(r, B, d.start_of(v))  # of z_t
    Phi, P = phi(r, late - B), covariance(r, late - B)
    S = Phi @ C @ Phi.mT + P  # of the later state
    z = torch.randn(1, r.k, 1, generator=g).double()
    back = (C @ Phi.mT @ torch.linalg.solve(S, z[0])).T[..., None]
    s = -torch.linalg.solve(S, z[0])[None]
    drift = (z - back) / dt
    assert_close(d.reverse_drift(z, s, t + dt), drift, rtol=1e-4, atol=1e-4)


# One schedule, many recipes


@every_recipe
@pytest.mark.parametrize("start", [False, True], ids=["at 0", "hsm"])
def test_by_snr_keeps_its_promise(name, start):
    r, g = recipes[name], torch.Generator().manual_seed(2)
    images = PerImage((soft, LinearGamma(torch.linspace(-9.0, -5, 5), 3.0)), 6)
    t = torch.rand(6, generator=g).double()
    for schedule in (soft, images, LinearGamma(-12.0, 8.0)):
        d = LinearDiffusion(r, schedule, hsm(r) if start else None, by_snr=True)
        like, gamma = torch.zeros(6, r.k, 5), schedule.gamma(t)
        found = -d.log_snr(t, like).reshape(gamma.shape)
        assert_close(found, gamma, rtol=0, atol=5e-9)
        slope = torch.func.jvp(d.schedule.B, (t,), (torch.ones_like(t),))[1]
        assert_close(d.schedule.beta(t), slope, rtol=1e-9, atol=1e-12)
        other = d.with_schedule(soft)  # another schedule, the same table
        assert_close(-other.log_snr(t, like), soft.gamma(t), rtol=1e-8, atol=1e-8)
        assert other.schedule.table is d.schedule.table


def test_by_snr_leaves_vp_where_it_was():
    t = torch.rand(6, generator=torch.Generator().manual_seed(2)).double()
    d = LinearDiffusion(vp(), soft, by_snr=True)
    assert_close(d.schedule.B(t), soft.B(t), rtol=1e-9, atol=0)
    d = LinearDiffusion(psld(), soft, Sigma0=hsm(psld()), by_snr=True)
    assert d.schedule.breakpoints == soft.breakpoints
    assert not d.schedule.beta(torch.tensor([0.0, 1.0]).double())[:, 0].all()


@pytest.mark.parametrize("name", ["CLD", "PSLD", "third order"])
def test_by_snr_starts_without_noise(name):
    r = recipes[name]
    assert LinearDiffusion(r, LinearBeta(), hsm(r), by_snr=True).schedule.B(0.0) == 0


def test_by_snr_wants_one_recipe():
    many = psld(torch.tensor([0.01, 0.02]))
    with refused("one recipe"):
        LinearDiffusion(many, LinearGamma(), by_snr=True)
