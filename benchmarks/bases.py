"""What a basis costs, in seconds of this machine.

    python benchmarks/bases.py                                    both tables, one thread
    python benchmarks/bases.py --threads 2                        the same with two
    python benchmarks/bases.py --device cuda                      on a GPU
    python benchmarks/bases.py --save costs.json --plot costs.png keep the figures, draw the second table
    python benchmarks/bases.py --load costs.json --plot costs.png draw it again without measuring

The first table: encode plus decode of a batch (64, 3, 32, 32) in float32, as a share of one training step (forward, backward, Adam)
of the smallest U-Net of this package on the same batch. Cosines, plane waves and wavelets should stay below two hundredths.

The second table: encode plus decode of one colour image against its side. Principal components, here a dense reflection of the
right size, are taken as far as their matrix fits into --memory.

Every figure is the median of --repeats measurements, taken in turns, so that a busy moment meets all alike. On a busy machine
the least of them says more: both are printed, and both are saved.
"""

import argparse, json, time
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from gud_nb.basis import DCT, PCA, Fourier, Pixel, Wavelet
from gud_nb.network import UNet


def bases(side: int, memory: float) -> dict:
    "The bases to measure on (3, side, side); principal components as long as their matrix has at most `memory` MiB."
    shape = (3, side, side)
    out = {"DCT": DCT(shape), "Fourier": Fourier(shape)}
    for name in ("haar", "db4"):
        out[f"Wavelet {name}"] = Wavelet(shape, name, 3)
    for name, d in (("PCA shared", side**2), ("PCA", 3 * side**2)):
        if d * d * 12 > memory * 2**20:
            continue  # a float64 and a float32 copy
        v = F.normalize(
            torch.randn(
                d, generator=torch.Generator().manual_seed(d), dtype=torch.float64
            ),
            dim=0,
        )
        reflection = torch.eye(d, dtype=torch.float64).addr_(v, v, alpha=-2)
        out[name] = PCA(
            shape,
            reflection,
            torch.ones(d),
            torch.zeros(shape),
            shared=name == "PCA shared",
        )
    return out


def there_and_back(basis, x):
    "Encode plus decode, as a function of nothing."

    def run():
        with torch.no_grad():
            return basis.inv(basis(x))

    return run


def training_step(x, width: int):
    "One step of a U-Net on a batch: forward, backward, Adam; as a function of nothing."
    net = UNet(x.shape[1], width=width).to(x.device)
    adam, noise, level = (
        torch.optim.Adam(net.parameters(), 1e-4),
        torch.randn_like(x),
        torch.zeros(len(x), device=x.device),
    )

    def run():
        loss = F.mse_loss(net(x, level), noise)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return run


def seconds(tasks: dict, repeats: int, device: str) -> dict:
    "Median and least seconds of each task, measured in turns after two rounds that do not count."

    def wait():
        torch.cuda.synchronize() if device.startswith("cuda") else None

    taken = {k: [] for k in tasks}
    for i in range(repeats + 2):
        for name, run in tasks.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            if i > 1:
                taken[name].append(time.perf_counter() - start)
    return {k: {"median": median(v), "least": min(v)} for k, v in taken.items()}


def share(args) -> dict:
    "The first table."
    x = torch.randn(args.batch, 3, 32, 32, device=args.device)
    tasks = {
        "training step": training_step(x, args.width),
        "Pixel": there_and_back(Pixel((3, 32, 32)), x),
    }
    tasks |= {k: there_and_back(b, x) for k, b in bases(32, args.memory).items()}
    found = seconds(tasks, args.repeats, args.device)
    step = found["training step"]
    print(
        f"\nencode + decode of ({args.batch}, 3, 32, 32); "
        f"a training step takes {1e3 * step['median']:.0f} ms (least {1e3 * step['least']:.0f} ms)"
    )
    for k, v in found.items():
        if k != "training step":
            print(
                f"  {k:14} {1e3 * v['median']:8.2f} ms  {v['median'] / step['median']:7.2%} of it   "
                f"least {1e3 * v['least']:8.2f} ms  {v['least'] / step['least']:7.2%}"
            )
    return found


def growth(args) -> dict:
    "The second table."
    found = {}
    print("\nencode + decode of one image (3, n, n), ms")
    for n in args.sides:
        batch = max(1, args.batch * 32**2 // n**2)  # as many numbers at every side
        x = torch.randn(batch, 3, n, n, device=args.device)
        got = seconds(
            {k: there_and_back(b, x) for k, b in bases(n, args.memory).items()},
            args.repeats,
            args.device,
        )
        found[n] = {k: {how: v / batch for how, v in t.items()} for k, t in got.items()}
        print(
            f"  {n:3}  "
            + "   ".join(f"{k} {1e3 * v['median']:.4f}" for k, v in found[n].items()),
            flush=True,
        )
    return found


def plot(found: dict, path: Path):
    "The second table as a figure."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ax = plt.subplots(figsize=(6, 4), dpi=100)[1]
    sides = {int(n): v for n, v in found["growth"].items()}
    for name in dict.fromkeys(k for v in sides.values() for k in v):
        n = [n for n in sides if name in sides[n]]
        ax.loglog(n, [1e3 * sides[m][name]["least"] for m in n], "o-", label=name)
    ax.set(
        title=f"Encode + decode of one colour image ({found['device']}, threads: {found['threads']})",
        xlabel="side, pixels",
        ylabel="milliseconds",
    )
    ax.set_xticks(list(sides), list(sides))
    ax.minorticks_off()
    ax.legend(fontsize=8)
    ax.figure.savefig(path, bbox_inches="tight")
    print("drawn:", path)


def main():
    about, _, rest = __doc__.partition("\n\n")
    p = argparse.ArgumentParser(
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[8, 16, 32, 64, 128, 256],
        help="sides of images, multiples of 8 (default: 8 ... 256)",
    )
    p.add_argument(
        "--batch", type=int, default=64, help="images of 32x32 in a batch (default 64)"
    )
    p.add_argument(
        "--width",
        type=int,
        default=16,
        help="width of the U-Net (default 16, the smallest in use)",
    )
    p.add_argument(
        "--repeats", type=int, default=9, help="measurements of each figure (default 9)"
    )
    p.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads that PyTorch may use (default 1)",
    )
    p.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    p.add_argument(
        "--memory",
        type=float,
        default=600,
        help="MiB that a matrix of principal components may take (default 600)",
    )
    p.add_argument(
        "--save", type=Path, help="write the measured seconds to this JSON file"
    )
    p.add_argument(
        "--load", type=Path, help="read them from there instead of measuring"
    )
    p.add_argument("--plot", type=Path, help="draw the second table into this PNG file")
    args = p.parse_args()
    if any(n < 8 or n % 8 for n in args.sides):
        p.error(
            f"got sides {args.sides}, want multiples of 8: the wavelets have three levels"
        )
    if args.load:
        found = json.loads(args.load.read_text())
    else:
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        device = (
            torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
        )
        found = {
            "device": device,
            "threads": args.threads,
            "torch": torch.__version__,
            "share": share(args),
            "growth": growth(args),
        }
    if args.save:
        args.save.write_text(json.dumps(found, indent=1) + "\n")
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
