"""What a basis costs, in seconds and bytes of this machine.

    python benchmarks/bases.py                      the tables, one thread
    python benchmarks/bases.py --threads 2          the same with two
    python benchmarks/bases.py --device cuda        on a GPU
    python benchmarks/bases.py --save costs.json --plot costs.png
                                                    keep the figures, draw the times
    python benchmarks/bases.py --load costs.json --plot costs.png
                                                    draw them without measuring

The first table: encode plus decode of a batch (64, 3, 32, 32) in float32, as a share
of one training step (forward, backward, Adam) of the smallest U-Net of this package on
the same batch. Cosines, plane waves and wavelets should stay below two hundredths.

The second: encode plus decode of one colour image against its side, and the exponent p
of time ~ side**p, fitted to all sides. The third: bytes, those kept (matrices, tables)
and the most that was in use while one image went there and back, with their exponents.
Principal components, here a dense reflection of the right size, are taken as far as
their matrix fits into --memory.

Every time is the median of --repeats measurements, taken in turns, so that a busy
moment meets all alike. On a busy machine the least of them says more: both are printed
in the first table, the least in the second, and both are saved.
"""

import argparse
import gc
import json
import math
import os
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no word from the profiler

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import gud_nb.basis
from gud_nb.basis import DCT, PCA, Fourier, Pixel, Wavelet
from gud_nb.network import UNet


def reflection(d: int) -> torch.Tensor:
    "A dense orthogonal matrix, made without a decomposition."
    g = torch.Generator().manual_seed(d)
    v = F.normalize(torch.randn(d, generator=g, dtype=torch.float64), dim=0)
    return torch.eye(d, dtype=torch.float64).addr_(v, v, alpha=-2)


def bases(side: int, memory: float) -> dict:
    "Functions that make the bases to measure; PCA as far as `memory` MiB allow."
    shape = (3, side, side)
    out = {"DCT": lambda: DCT(shape), "Fourier": lambda: Fourier(shape)}
    out["Haar"] = lambda: Wavelet(shape, "haar", 3)
    out["db4"] = lambda: Wavelet(shape, "db4", 3)

    def components(d, shared):
        return PCA(shape, reflection(d), torch.ones(d), torch.zeros(shape), shared)

    for name, d in (("PCA shared", side**2), ("PCA", 3 * side**2)):
        if d * d * 12 <= memory * 2**20:  # a float64 and a float32 copy
            out[name] = lambda d=d, name=name: components(d, name == "PCA shared")
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
    adam = torch.optim.Adam(net.parameters(), 1e-4)
    noise, level = torch.randn_like(x), torch.zeros(len(x), device=x.device)

    def run():
        loss = F.mse_loss(net(x, level), noise)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return run


def seconds(tasks: dict, repeats: int, device: str) -> dict:
    "Median and least seconds of each task, in turns, after two rounds not counted."

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


def bytes_of(run, device: str) -> dict:
    "Bytes of tensors that a task keeps and has at most, by PyTorch's own count."
    kinds = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        kinds.append(ProfilerActivity.CUDA)
    gc.collect()
    with profile(activities=kinds, profile_memory=True) as profiler:
        kept = run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    del kept
    here = 1 if device.startswith("cuda") else 0
    facts = [e["args"] for e in events if e.get("name") == "[memory]"]
    facts = [f for f in facts if f["Device Type"] == here]
    if not facts:
        return {"kept": 0, "most": 0}
    now = facts[0]["Total Allocated"] - facts[0]["Bytes"]
    totals = [f["Total Allocated"] - now for f in facts]
    return {"kept": totals[-1], "most": max(0, *totals)}


def memory(side: int, limit: float, device: str) -> dict:
    "Bytes that each basis keeps, and that one image there and back has at most."
    x, found = torch.randn(1, 3, side, side, device=device), {}
    for name, make in bases(side, limit).items():
        for table in vars(gud_nb.basis).values():
            if hasattr(table, "cache_clear"):
                table.cache_clear()

        def first():
            basis = make()
            there_and_back(basis, x)()
            return basis

        kept = bytes_of(first, device)["kept"]
        run = there_and_back(make(), x)
        run()
        found[name] = {"kept": kept, "most": bytes_of(run, device)["most"]}
    return found


def exponent(sides: list, values: list) -> float:
    "The p of value ~ side**p, by least squares in logarithms; nan of fewer than two."
    if len(sides) < 2 or min(values) <= 0:
        return math.nan
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (sides, values))
    x = x - x.mean()
    return ((x * y).sum() / x.square().sum()).item()


def share(args) -> dict:
    "The first table."
    x = torch.randn(args.batch, 3, 32, 32, device=args.device)
    tasks = {"training step": training_step(x, args.width)}
    tasks["Pixel"] = there_and_back(Pixel((3, 32, 32)), x)
    made = bases(32, args.memory).items()
    tasks |= {k: there_and_back(make(), x) for k, make in made}
    found = seconds(tasks, args.repeats, args.device)
    step = found["training step"]
    print(
        f"\nencode + decode of ({args.batch}, 3, 32, 32); a training step takes "
        f"{1e3 * step['median']:.0f} ms (least {1e3 * step['least']:.0f} ms)"
    )
    for k, v in found.items():
        if k != "training step":
            parts = [
                f"{how} {1e3 * v[how]:8.2f} ms {v[how] / step[how]:7.2%} of it"
                for how in ("median", "least")
            ]
            print(f"  {k:12}", "  ".join(parts))
    return found


def growth(args) -> dict:
    "What is measured at every side."
    found = {}
    for n in args.sides:
        batch = max(1, args.batch * 32**2 // n**2)  # as many numbers at every side
        x = torch.randn(batch, 3, n, n, device=args.device)
        made = bases(n, args.memory).items()
        tasks = {k: there_and_back(make(), x) for k, make in made}
        got = seconds(tasks, args.repeats, args.device)
        space = memory(n, args.memory, args.device)
        found[n] = {
            k: {how: v / batch for how, v in t.items()} | space[k]
            for k, t in got.items()
        }
    return found


def table(found: dict, what: str, scale: float, title: str):
    "A row for each basis, a column for each side, and the fitted exponent."
    print(
        f"\n{title}\n  {'side':12}" + "".join(f"{n:>10}" for n in found) + "  exponent"
    )
    for name in dict.fromkeys(k for v in found.values() for k in v):
        sides = [n for n in found if name in found[n]]
        values = [found[n][name][what] * scale for n in sides]
        row = "".join(f"{v:10.3f}" for v in values).ljust(10 * len(found))
        print(f"  {name:12}{row}  {exponent(sides, values):8.2f}")


def plot(found: dict, path: Path):
    "The times as a figure."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ax = plt.subplots(figsize=(6, 4), dpi=100)[1]
    sides = {int(n): v for n, v in found["growth"].items()}
    for name in dict.fromkeys(k for v in sides.values() for k in v):
        n = [n for n in sides if name in sides[n]]
        ax.loglog(n, [1e3 * sides[m][name]["least"] for m in n], "o-", label=name)
    where = f"{found['device']}, threads: {found['threads']}"
    ax.set(title=f"Encode + decode of one colour image ({where})")
    ax.set(xlabel="side, pixels", ylabel="milliseconds")
    ax.set_xticks(list(sides), list(sides))
    ax.minorticks_off()
    ax.legend(fontsize=8)
    ax.figure.savefig(path, bbox_inches="tight")
    print("drawn:", path)


def arguments() -> argparse.Namespace:
    "The command line."
    about, _, rest = __doc__.partition("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=about, epilog=rest, formatter_class=form)
    sides = [32, 64, 128, 256]
    help = "sides of images, multiples of 8 (default: 32 ... 256)"
    p.add_argument("--sides", type=int, nargs="+", default=sides, help=help)
    help = "images of 32x32 in a batch (default 64)"
    p.add_argument("--batch", type=int, default=64, help=help)
    help = "width of the U-Net (default 16, the smallest in use)"
    p.add_argument("--width", type=int, default=16, help=help)
    help = "measurements of each figure (default 9)"
    p.add_argument("--repeats", type=int, default=9, help=help)
    help = "threads that PyTorch may use (default 1)"
    p.add_argument("--threads", type=int, default=1, help=help)
    p.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    help = "MiB that a matrix of principal components may take (default 600)"
    p.add_argument("--memory", type=float, default=600, help=help)
    help = "write the measured figures to this JSON file"
    p.add_argument("--save", type=Path, help=help)
    help = "read them from there instead of measuring"
    p.add_argument("--load", type=Path, help=help)
    help = "draw the times into this PNG file"
    p.add_argument("--plot", type=Path, help=help)
    args = p.parse_args()
    if any(n < 8 or n % 8 for n in args.sides):
        p.error(
            f"got sides {args.sides}, want multiples of 8: wavelets of three levels"
        )
    return args


def measured(args) -> dict:
    "Everything, measured and printed."
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cuda = args.device.startswith("cuda")
    found = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "threads": args.threads,
        "torch": torch.__version__,
        "share": share(args),
        "growth": growth(args),
    }
    times, title = found["growth"], "encode + decode of one image (3, n, n)"
    table(times, "least", 1e3, f"{title}: ms, the least of {args.repeats}")
    table(times, "kept", 2**-20, "matrices and tables that are kept: MiB")
    table(times, "most", 2**-20, f"{title}: MiB at most, beside these")
    return found


def main():
    args = arguments()
    if args.load:
        found = json.loads(args.load.read_text(encoding="utf-8"))
    else:
        found = measured(args)
    if args.save:
        args.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
