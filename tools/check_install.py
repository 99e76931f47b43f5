"""What an installed gud_nb must do, whichever fastcore is beside it: run by check_fastcore.sh, outside the project's folder.

    python check_install.py 'fastcore<2' options.txt

Writes the options that each command takes to options.txt. The first thing that fails ends the check.
"""

import importlib, pkgutil, re, shutil, subprocess, sys, tempfile
from importlib.metadata import entry_points, requires, version
from importlib.util import find_spec
from pathlib import Path

wanted, report = sys.argv[1:]
import fastcore
import gud_nb

# the installed package and the fastcore asked for, and nothing that only a developer has
major = int(fastcore.__version__.split(".")[0])
assert (major < 2) == (wanted == "fastcore<2"), (
    f"got fastcore {fastcore.__version__}, want {wanted}"
)
for module in (fastcore, gud_nb):
    assert Path(module.__file__).is_relative_to(sys.prefix), (
        f"{module.__file__} is outside {sys.prefix}"
    )
for name in ("nbdev", "execnb", "IPython", "pandas", "datasets"):
    assert find_spec(name) is None, f"{name} is here: this is not a plain install"
assert gud_nb.__version__ == version("gud_nb")
assert {"data", "dev"} <= {
    m[1] for r in requires("gud_nb") if (m := re.search(r'extra == ["\'](\w+)', r))
}
names = [f"gud_nb.{m.name}" for m in pkgutil.iter_modules(gud_nb.__path__)]
for name in names:
    importlib.import_module(name)


def run(command: list, code: int = 0) -> str:
    "What a command says, in one string; it must end with `code` and without a traceback."
    ran = subprocess.run(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    told = f"{' '.join(command)} ended with {ran.returncode}, want {code}\n{ran.stdout}"
    assert ran.returncode == code and "Traceback" not in ran.stdout, told
    return ran.stdout


# the commands: help, and one clear line with exit code 2 for an option that does not exist
commands = sorted(
    p.name
    for p in entry_points(group="console_scripts")
    if p.value.startswith("gud_nb.")
)
assert commands, "the package installs no commands"
with open(report, "w") as file:
    for name in commands:
        assert Path(shutil.which(name)).is_relative_to(sys.prefix), (
            f"{name} is not the one of this environment"
        )
        options = set(
            re.findall(
                r"(?<![\w-])--?[A-Za-z][\w-]*",
                run([name, "--help"]).partition("options:")[2],
            )
        ) - {"-h", "--help"}
        for option in sorted(options):
            print(name, option, file=file)
        run([name, "--no-such-option"], code=2)

# a model in small, and a shipped one where the package ships any
smoke = """
import torch
from gud_nb.recipe import psld, vp
from gud_nb.transition import covariance, phi
B = torch.tensor([1e-8, 1., 1e3], dtype=torch.float64)
for recipe in (vp(), psld()):
    assert phi(recipe, B).shape == covariance(recipe, B).shape == (3, recipe.k, recipe.k)
    torch.testing.assert_close(covariance(recipe, B)[-1], recipe.S)
"""
run([sys.executable, "-c", smoke])
from gud_nb.train import shipped

weights = shipped()
assert weights, "no model came with the package"
with tempfile.TemporaryDirectory() as scratch:
    for name in weights:
        run(
            [
                "gud_sample",
                "--model",
                name,
                "--n",
                "2",
                "--steps",
                "5",
                "--out",
                f"{scratch}/{name}.png",
            ]
        )
print(
    f"fastcore {fastcore.__version__}: {len(names)} modules; {', '.join(commands)}; models: {', '.join(weights) or 'none'}"
)
