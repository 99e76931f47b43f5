"""One training step of a configuration of the PSLD paper, and what all of them cost.

    python benchmarks/official.py                              97 million weights
    python benchmarks/official.py --preset celeba64-sota
    python benchmarks/official.py --batch 128 --device cuda    the paper's whole batch

The step is that of the paper: times uniform in [1e-5, 1], the mean square error of the
noise, gradient clipped to norm 1, Adam, and the average of the weights. The batch is
gone through in parts whose gradients are summed, so that memory is that of one part:
the step is exact, and its seconds grow with the batch. Printed are the peak of the
process' memory (of the card's, on a GPU), seconds, and from the operations of an image
(counted by torch.utils.flop_counter: convolutions and matrix products; a backward pass
counts twice a forward one), the GPU-hours of all epochs and of 50 000 samples, for a
card that sustains --tflops. Its default is an assumption, a third of the 156 TFLOP/s
that an A100 has at most in TF32: measure yours.
"""

import argparse
import copy
import resource
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from gud_nb.basis import Pixel
from gud_nb.convert import presets
from gud_nb.loss import score_matching
from gud_nb.ncsnpp import MODES, NCSNpp, OfficialModel
from gud_nb.network import count_parameters

IMAGES = {"cifar10": 50_000, "celeba64": 162_770, "afhqv2": 15_803}


def parsed():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--preset", default="cifar10-sota-ode", choices=list(presets))
    p.add_argument("--batch", type=int, default=8, help="images of the step")
    p.add_argument("--part", type=int, default=4, help="images at a time")
    p.add_argument("--device", default="cpu")
    p.add_argument("--tflops", type=float, default=50.0, help="sustained by the card")
    p.add_argument("--evaluations", type=int, default=246, help="of one sample")
    return p.parse_args()


def forward_flops(preset) -> int:
    "Operations of the network on one image, without memory."
    with torch.device("meta"):
        net = NCSNpp(**preset.network)
        how = net.config
        x = torch.empty(1, how["in_ch"], how["image_size"], how["image_size"])
        with FlopCounterMode(display=False) as counted:
            net(x, torch.ones(1))
    return counted.get_total_flops()


def step(model, average, optimizer, x, part: int, clip: float, ema: float) -> float:
    "One step of training; its loss."
    d, total = model.diffusion, 0.0
    phases = MODES[d.k][model.mode]
    optimizer.zero_grad()
    for some in x.split(part):
        t = 1e-5 + (1 - 1e-5) * torch.rand(
            len(some), dtype=torch.float64, device=x.device
        )
        noise = torch.randn(len(some), d.k, *some.shape[1:], device=x.device)
        loss = score_matching(d, model.eps, some, t, noise).mean() / phases
        (loss * len(some) / len(x)).backward()
        total += loss.item() * len(some) / len(x)
    torch.nn.utils.clip_grad_norm_(model.network.parameters(), clip)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(
            list(average.parameters()),
            [p for p in model.network.parameters()],
            1 - ema,
        )
    return total


def memory(device: str) -> float:
    "Peak, in GB."
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main():
    how = parsed()
    preset = presets[how.preset]
    torch.manual_seed(0)
    network = NCSNpp(**preset.network).to(how.device)
    side = network.config["image_size"]
    basis = Pixel((network.config["in_ch"] // preset.phases, side, side))
    model = OfficialModel(network, preset.diffusion(), basis, mode=preset.mode).train()
    average = copy.deepcopy(network).requires_grad_(False)
    weights = [p for p in network.parameters() if p.requires_grad]
    t = preset.training
    optimizer = torch.optim.Adam(weights, t["lr"])
    x = torch.rand(how.batch, *basis.data_shape, device=how.device) * 2 - 1
    begin, spent = time.monotonic(), time.process_time()
    loss = step(model, average, optimizer, x, how.part, t["clip"], t["ema"])
    if how.device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds, spent = time.monotonic() - begin, time.process_time() - spent
    flops = forward_flops(preset)
    name = next(k for k in IMAGES if how.preset.startswith(k))
    seen = IMAGES[name] * t["epochs"]
    hours = 3 * flops * seen / (how.tflops * 1e12) / 3600
    draw = flops * 50_000 * how.evaluations / (how.tflops * 1e12) / 3600
    sizes = f"{count_parameters(network):,} weights, {flops / 1e9:.1f} GFLOP an image"
    print(f"{how.preset}: {sizes}, {torch.get_num_threads()} threads, {how.device}")
    parts = f"{how.batch} images in parts of {how.part}"
    print(f"one step, {parts}: loss {loss:.3f}, {seconds:.0f} s ({spent:.0f} s of CPU)")
    print(f"peak of memory: {memory(how.device):.1f} GB, with both moments of Adam")
    print(
        f"training, {t['epochs']} epochs, {seen / 1e6:.0f} million images: {hours:.0f}"
    )
    print(f"50 000 samples, {how.evaluations} evaluations each: {draw:.1f}")
    print(f"    in GPU-hours at {how.tflops:g} TFLOP/s")


if __name__ == "__main__":
    main()
