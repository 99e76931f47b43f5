"""What an installed gud_nb must do, whichever fastcore is beside it.

    python check_install.py 'fastcore<2' options.txt

check_fastcore.sh runs this outside the project's folder. Writes the options that each
command takes to options.txt. The first thing that fails ends the check.
"""

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points, requires, version
from importlib.util import find_spec
from pathlib import Path

import fastcore

import gud_nb

DEVELOPER = ("nbdev", "execnb", "IPython", "pandas", "datasets")
SMOKE = """
import torch
from gud_nb.recipe import psld, vp
from gud_nb.transition import covariance, phi
B = torch.tensor([1e-8, 1., 1e3], dtype=torch.float64)
for recipe in (vp(), psld()):
    C, size = covariance(recipe, B), (3, recipe.k, recipe.k)
    assert phi(recipe, B).shape == C.shape == size
    torch.testing.assert_close(C[-1], recipe.S)
"""


def installed_alone(
    wanted: str,  # a requirement of fastcore
):
    "The package and the fastcore asked for are here, and no developer's tools are."
    major = int(fastcore.__version__.split(".")[0])
    said = f"got fastcore {fastcore.__version__}, want {wanted}"
    assert (major < 2) == (wanted == "fastcore<2"), said
    for module in (fastcore, gud_nb):
        said = f"{module.__file__} is outside {sys.prefix}"
        assert Path(module.__file__).is_relative_to(sys.prefix), said
    for name in DEVELOPER:
        assert find_spec(name) is None, f"{name} is here: this is not a plain install"
    assert gud_nb.__version__ == version("gud_nb")
    extra = re.compile(r'extra == ["\'](\w+)')
    extras = {m[1] for r in requires("gud_nb") if (m := extra.search(r))}
    assert {"data", "dev"} <= extras, f"the extras are {extras}"


def run(
    command: list,  # and its arguments
    code: int = 0,  # to end with
) -> str:  # what it printed
    "Run a command, which must end with `code` and without a traceback."
    ran = subprocess.run(
        command,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    said = f"{' '.join(command)} ended with {ran.returncode}, want {code}\n{ran.stdout}"
    assert ran.returncode == code and "Traceback" not in ran.stdout, said
    return ran.stdout


def options(
    name: str,  # of a command
) -> list[str]:  # as they are written, sorted
    "The options of a command; one that does not exist is refused in one clear line."
    said = f"{name} is not the one of this environment"
    assert Path(shutil.which(name)).is_relative_to(sys.prefix), said
    listed = run([name, "--help"]).partition("options:")[2]
    run([name, "--no-such-option"], code=2)
    return sorted(
        set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", listed)) - {"-h", "--help"}
    )


def main(
    wanted: str,  # a requirement of fastcore
    report: Path,  # file for the options
):
    "The whole check."
    installed_alone(wanted)
    names = [f"gud_nb.{m.name}" for m in pkgutil.iter_modules(gud_nb.__path__)]
    for name in names:
        importlib.import_module(name)

    scripts = entry_points(group="console_scripts")
    commands = sorted(p.name for p in scripts if p.value.startswith("gud_nb."))
    assert commands, "the package installs no commands"
    lines = [f"{name} {option}\n" for name in commands for option in options(name)]
    report.write_text("".join(lines), encoding="utf-8")

    run([sys.executable, "-c", SMOKE])
    from gud_nb.saved import shipped

    weights = shipped()
    assert weights, "no model came with the package"
    with tempfile.TemporaryDirectory() as scratch:
        for name in weights:
            few = ["--n", "2", "--steps", "5", "--out", f"{scratch}/{name}.png"]
            run(["gud_sample", "--model", name, *few])
    print(f"fastcore {fastcore.__version__}: {len(names)} modules")
    print(f"commands: {', '.join(commands)}; models: {', '.join(weights)}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
