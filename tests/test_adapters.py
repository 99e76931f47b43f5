"""Adapters of other libraries' models: against a Gaussian law and the libraries."""

import math
from types import SimpleNamespace

import pytest
import torch

from gud_nb.denoiser import from_azula, from_edm, from_eps_network, from_v_network

MEAN = 0.3  # of every component of the law
VARIANCE = 0.6
SHAPE = (3, 2, 4, 4)  # batch, channels, height, width
STEPS = 1000


def linear_bars(steps=STEPS):
    "The ᾱ of DDPM's linear schedule (Ho et al. 2020)."
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, steps, dtype=torch.float64), 0)


def log_snrs(bars):
    bars = bars.double()
    return bars.log() - (1 - bars).log()


def posterior_mean(x, alpha, sigma):
    "E[chi | x = alpha chi + sigma n] where chi has independent Gaussian components."
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def scales(bars, t):
    "alpha and sigma at fractional timesteps, log-SNR linear between entries."
    low = t.double().floor().long().clamp(max=len(bars) - 2)
    share = t.double() - low
    table = log_snrs(bars)
    w = ((1 - share) * table[low] + share * table[low + 1]).reshape(-1, 1, 1, 1)
    return torch.sigmoid(w).sqrt(), torch.sigmoid(-w).sqrt()


def eps_network(x, t):
    alpha, sigma = scales(linear_bars(), t)
    return (x - alpha * posterior_mean(x, alpha, sigma)) / sigma


def v_network(x, t):
    alpha, sigma = scales(linear_bars(), t)
    return (alpha * x - posterior_mean(x, alpha, sigma)) / sigma


def edm_denoiser(x, sigma):
    return posterior_mean(x, 1.0, sigma.reshape(-1, 1, 1, 1))


def cosine(t):
    return torch.cos(1.56 * t), torch.sin(1.56 * t)


class AzulaDenoiser:
    "An exact denoiser with azula's signature."

    def schedule(self, t):
        return cosine(t)

    def __call__(self, x, t):
        alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in cosine(t))
        return SimpleNamespace(mean=posterior_mean(x, alpha, sigma))


exact = {
    "eps": from_eps_network(eps_network, linear_bars()),
    "v": from_v_network(v_network, linear_bars()),
    "edm": from_edm(edm_denoiser),
    "azula": from_azula(AzulaDenoiser()),
}
each = pytest.mark.parametrize("denoiser", exact.values(), ids=exact)
tables = pytest.mark.parametrize("adapter", [from_eps_network, from_v_network])


def draw(shape=SHAPE, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@each
@pytest.mark.parametrize("w", [-6.0, -1.234, 0.0, 5.4])
def test_denoisers_of_a_gaussian_law_are_exact(denoiser, w):
    y = 3 * draw()
    want = posterior_mean(y, 1.0, math.exp(-w / 2))
    torch.testing.assert_close(denoiser(y, w), want, rtol=1e-5, atol=1e-6)


@each
def test_a_level_for_each_image(denoiser):
    y = 3 * draw()
    w = torch.tensor([-5.0, 0.1, 4.0]).reshape(3, 1, 1, 1)
    want = posterior_mean(y, 1.0, torch.exp(-w.double() / 2))
    torch.testing.assert_close(denoiser(y, w), want, rtol=1e-5, atol=1e-6)


@each
def test_a_number_a_scalar_tensor_and_a_column_are_the_same_level(denoiser):
    y = draw()
    want = denoiser(y, 0.5)
    torch.testing.assert_close(denoiser(y, torch.tensor(0.5)), want)
    torch.testing.assert_close(denoiser(y, torch.full((1, 1, 1, 1), 0.5)), want)
    torch.testing.assert_close(denoiser(y, torch.full((3, 1, 1, 1), 0.5)), want)


@each
def test_dtype_and_shape_are_those_of_the_observation(denoiser):
    y = draw(dtype=torch.float32)
    chi = denoiser(y, 0.5)
    assert chi.dtype == torch.float32
    assert chi.shape == y.shape


@each
@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (1, 2, 1, 1), (2, 1, 1, 1)])
def test_other_levels_than_one_per_image_are_refused(denoiser, shape):
    with pytest.raises(ValueError, match="want one level per image") as caught:
        denoiser(draw(), torch.zeros(shape))
    assert "\n" not in str(caught.value)


def recorded(seen):
    "A network that returns nothing but zeros and keeps its arguments."

    def network(x, t, **labels):
        seen.append((x, t, labels))
        return torch.zeros_like(x)

    return network


@tables
def test_timesteps_are_those_of_the_table_and_fractions_between(adapter):
    seen = []
    denoiser = adapter(recorded(seen), linear_bars())
    table = log_snrs(linear_bars())
    steps = torch.tensor([0, 437, STEPS - 1])
    denoiser(draw(), table[steps].reshape(3, 1, 1, 1))
    denoiser(draw(), (table[437] + table[438]) / 2)
    torch.testing.assert_close(seen[0][1], steps.float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen[1][1], torch.full((3,), 437.5), rtol=0, atol=1e-4)


@tables
def test_outside_the_table_the_timestep_is_the_nearest(adapter):
    seen = []
    denoiser = adapter(recorded(seen), linear_bars())
    levels = torch.tensor([-30.0, 30.0, math.inf]).reshape(3, 1, 1, 1)
    denoiser(draw(), levels)
    x, t, _ = seen[0]
    torch.testing.assert_close(t, torch.tensor([STEPS - 1.0, 0.0, 0.0]))
    torch.testing.assert_close(x, torch.sigmoid(levels.double()).sqrt() * draw())


@pytest.mark.parametrize("name", ["eps", "v", "edm"])
def test_without_noise_the_observation_is_the_data(name):
    y = draw()
    torch.testing.assert_close(exact[name](y, math.inf), y)


@tables
def test_timesteps_stay_float32_in_half_precision(adapter):
    seen = []
    w = log_snrs(linear_bars())[997]
    adapter(recorded(seen), linear_bars())(draw(dtype=torch.bfloat16), w)
    torch.testing.assert_close(seen[0][1], torch.full((3,), 997.0), rtol=0, atol=1e-4)


@tables
def test_labels_are_passed_under_the_name_asked_for(adapter):
    seen = []
    labels = torch.tensor([1, 0, 2])
    adapter(recorded(seen), linear_bars())(draw(), 0.0, labels)
    adapter(recorded(seen), linear_bars(), "y")(draw(), 0.0, labels)
    adapter(recorded(seen), linear_bars())(draw(), 0.0)
    assert seen[0][2] == {"class_labels": labels}
    assert seen[1][2] == {"y": labels}
    assert seen[2][2] == {}


@pytest.mark.parametrize(
    "adapter, name", [(from_edm, "class_labels"), (from_azula, "label")]
)
def test_labels_of_denoisers(adapter, name):
    seen = {}
    labels = torch.tensor([1, 0, 2])

    def denoiser(x, t, **given):
        seen.update(given)
        return x if adapter is from_edm else SimpleNamespace(mean=x)

    denoiser.schedule = cosine
    adapter(denoiser)(draw(), 0.0)
    assert seen == {}
    adapter(denoiser)(draw(), 0.0, labels)
    assert seen == {name: labels}


@tables
def test_outputs_with_a_sample_and_with_a_learned_variance(adapter):
    def wider(x, t):
        return SimpleNamespace(sample=torch.cat([eps_network(x, t), 1e3 + x], 1))

    want = adapter(eps_network, linear_bars())(draw(), 0.4)
    torch.testing.assert_close(adapter(wider, linear_bars())(draw(), 0.4), want)


@tables
def test_a_table_that_ends_in_noise_alone(adapter):
    seen = []
    bars = linear_bars()
    bars[-1] = 0
    chi = adapter(recorded(seen), bars)(draw(), torch.tensor(-30.0))
    assert chi.isfinite().all()
    assert (seen[0][1] > STEPS - 2).all()


@tables
@pytest.mark.parametrize(
    "bars",
    [
        torch.linspace(1e-4, 0.02, 9),
        torch.ones(9),
        torch.tensor([0.5]),
        -torch.arange(9.0),
    ],
)
def test_tables_that_cannot_be_are_refused(adapter, bars):
    with pytest.raises(ValueError, match="alphas_cumprod"):
        adapter(eps_network, bars)


def test_azula_receives_one_time_or_one_per_image_in_full_precision():
    seen = []

    def denoiser(x, t):
        seen.append(t)
        return SimpleNamespace(mean=x.double())

    denoiser.schedule = cosine
    ours = from_azula(denoiser)
    half = draw(dtype=torch.bfloat16)
    single = draw(dtype=torch.float32)
    assert ours(half, 0.0).dtype == torch.bfloat16
    assert ours(single, torch.zeros(3, 1, 1, 1)).dtype == torch.float32
    ours(draw(), -3.0)
    torch.testing.assert_close(seen[0], torch.tensor(math.pi / 4 / 1.56))
    torch.testing.assert_close(seen[1], torch.full((3,), math.pi / 4 / 1.56))
    want = torch.tensor(math.atan(math.exp(1.5)) / 1.56, dtype=torch.float64)
    torch.testing.assert_close(seen[2], want, rtol=1e-14, atol=0)


def test_azula_times_end_at_those_of_the_schedule():
    seen = []

    def denoiser(x, t):
        seen.append(t)
        return SimpleNamespace(mean=x)

    denoiser.schedule = cosine
    levels = torch.tensor([-30.0, 0.0, math.inf]).reshape(3, 1, 1, 1)
    from_azula(denoiser)(draw(), levels)
    want = torch.tensor([1.0, math.pi / 4 / 1.56, 0.0], dtype=torch.float64)
    torch.testing.assert_close(seen[0], want)


def test_edm_receives_one_sigma_per_image():
    seen = []

    def denoiser(x, sigma):
        seen.append(sigma)
        return x.double()

    assert from_edm(denoiser)(draw(dtype=torch.float32), 2.0).dtype == torch.float32
    torch.testing.assert_close(seen[0], torch.full((3,), math.exp(-1)))


def test_an_azula_denoiser_has_a_schedule():
    with pytest.raises(ValueError, match="schedule"):
        from_azula(edm_denoiser)


# diffusers


def unet(**options):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **options,
    )
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize(
    "adapter, prediction",
    [(from_eps_network, "epsilon"), (from_v_network, "v_prediction")],
)
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
def test_diffusers_schedulers_predict_the_same_image(name, adapter, prediction, betas):
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name)(
        beta_schedule=betas, prediction_type=prediction, clip_sample=False
    )
    scheduler.set_timesteps(STEPS)
    bars = scheduler.alphas_cumprod
    network = unet()
    denoiser = adapter(network, bars)
    x = draw((2, 3, 8, 8), torch.float32)
    for t in (0, 1, 250, 500, 900):
        step = scheduler.step(network(x, t).sample, t, x)
        chi = denoiser(x / bars[t].sqrt(), log_snrs(bars)[t])
        torch.testing.assert_close(chi, step.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_diffusers_levels_and_labels_for_each_image():
    diffusers = pytest.importorskip("diffusers")
    bars = diffusers.DDPMScheduler().alphas_cumprod
    network = unet(num_class_embeds=4)
    labels = torch.tensor([3, 0])
    y = draw((2, 3, 8, 8), torch.float32)
    steps = torch.tensor([120, 700])
    w = log_snrs(bars)[steps].reshape(2, 1, 1, 1)
    chi = from_eps_network(network, bars)(y, w, labels)
    for i, t in enumerate(steps):
        eps = network(bars[t].sqrt() * y[i : i + 1], t, labels[i : i + 1]).sample
        want = y[i : i + 1] - (1 / bars[t] - 1).sqrt() * eps
        torch.testing.assert_close(chi[i : i + 1], want, rtol=1e-4, atol=1e-4)


def test_diffusers_table_that_ends_in_noise_alone():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    chi = from_v_network(unet(), scheduler.alphas_cumprod)(
        draw((2, 3, 8, 8), torch.float32), -20.0
    )
    assert chi.isfinite().all()


# k-diffusion


def test_k_diffusion_denoiser():
    k_diffusion = pytest.importorskip("k_diffusion")
    torch.manual_seed(0)
    inner = k_diffusion.models.ImageDenoiserModelV1(
        3, 16, [1, 1], [8, 16], [False, False], mapping_cond_dim=5
    )
    torch.nn.init.normal_(inner.proj_out.weight)  # 0 as built
    theirs = k_diffusion.Denoiser(inner, sigma_data=0.5).requires_grad_(False)
    ours = from_edm(theirs, "mapping_cond")
    y = draw((2, 3, 8, 8), torch.float32)
    labels = draw((2, 5), torch.float32)
    for sigma in (torch.tensor([0.05, 20.0]), torch.tensor([0.7, 0.7])):
        w = -2 * sigma.log().reshape(2, 1, 1, 1)
        want = theirs(y, sigma, mapping_cond=labels)
        torch.testing.assert_close(ours(y, w, labels), want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(y, w), theirs(y, sigma), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "adapter, wrapper",
    [
        (from_eps_network, "DiscreteEpsDDPMDenoiser"),
        (from_v_network, "DiscreteVDDPMDenoiser"),
    ],
)
def test_k_diffusion_wraps_timesteps_the_same_way(adapter, wrapper):
    k_diffusion = pytest.importorskip("k_diffusion")
    bars = linear_bars().float()
    network = unet()

    def plain(x, t):
        return network(x, t).sample

    ours = adapter(network, bars)
    theirs = getattr(k_diffusion.external, wrapper)(plain, bars, quantize=False)
    y = draw((2, 3, 8, 8), torch.float32)
    for w in (-14.0, -7.3, -1.0, 0.37, 6.1, 14.0):  # both ends lie beyond the table
        want = theirs(y, torch.full((2,), math.exp(-w / 2)))
        torch.testing.assert_close(ours(y, w), want, rtol=1e-3, atol=1e-3)


# azula


def azula_schedules():
    noise = pytest.importorskip("azula.noise")
    return (
        noise.VPSchedule(),
        noise.CosineSchedule(),
        noise.RectifiedSchedule(),
        noise.VESchedule(),
    )


class Backbone(torch.nn.Module):
    "A small network of a noised vector and a time, () or (batch,)."

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 6)

    def forward(self, x, t, label=None):
        shift = 0 if label is None else label[:, None]
        return torch.tanh(self.linear(x) + t.reshape(-1, 1) + shift)


@pytest.mark.parametrize("name", ["SimpleDenoiser", "KarrasDenoiser"])
@pytest.mark.parametrize("times", [(0.4,), (0.1, 0.5, 0.9)])
def test_azula_denoisers(name, times):
    denoise = pytest.importorskip("azula.denoise")
    torch.manual_seed(0)
    t = torch.tensor(times)
    for schedule in azula_schedules():
        theirs = getattr(denoise, name)(Backbone(), schedule).requires_grad_(False)
        alpha, sigma = (c[:, None] for c in schedule(t))
        x = draw((3, 6), torch.float32)
        labels = torch.tensor([1.0, 0.0, 2.0])
        w = 2 * torch.log(alpha / sigma)
        ours = from_azula(theirs)
        want = theirs(x, t, label=labels).mean
        close = dict(rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours(x / alpha, w, labels), want, **close)
        torch.testing.assert_close(ours(x / alpha, w), theirs(x, t).mean, **close)


def test_azula_gaussian():
    denoise = pytest.importorskip("azula.denoise")
    covariance = pytest.importorskip("azula.linalg.covariance")
    y = draw((5, 6))
    mean = torch.full((6,), MEAN, dtype=torch.float64)
    variances = torch.full((6,), VARIANCE, dtype=torch.float64)
    for schedule in azula_schedules():
        law = denoise.GaussianDenoiser(
            mean, covariance.DiagonalCovariance(variances), schedule
        )
        for w in (-6.0, 0.3, 6.0):
            want = posterior_mean(y, 1.0, math.exp(-w / 2))
            torch.testing.assert_close(
                from_azula(law)(y, w), want, rtol=1e-6, atol=1e-6
            )
