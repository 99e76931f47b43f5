"""Every notebook is a test item: `pytest`, `pytest nbs/02_transition.ipynb`, `-n 2`.

A notebook runs from top to bottom through nbdev's own runner, in a process, and so with
an environment, of its own. Cells whose flags settings.ini lists under `tst_flags` are
skipped; `pytest --flags slow` runs those flagged so. The long studies, 30 and up, are
not run: their stored results are what they are for. The how-tos from 41 on are run by
tests/test_howto.py.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
WANTED = 60  # seconds that a notebook should take
LIMIT = 600  # seconds after which it is stopped
RUN = """
import sys
from pathlib import Path
from nbdev.test import test_nb
notebook, root, skip, force = sys.argv[1:]
sys.argv = ["pytest"]
skip, force = skip.split(), force.split()
passed, _ = test_nb(Path(notebook), skip, force, basepath=root)
sys.exit(not passed)
"""


@pytest.fixture(autouse=True)
def usual_signals():
    "As in a terminal: runs in the background may ignore hang-ups and Ctrl-C."
    usual = dict(SIGHUP=signal.SIG_DFL, SIGINT=signal.default_int_handler)
    before = {}
    for name, handler in usual.items():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) is signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_addoption(parser):
    "The option `--flags`."
    says = "cells flagged with one of these run too, as in --flags 'slow cuda'"
    parser.addoption("--flags", default="", help=says)


def pytest_collect_file(file_path: Path, parent):
    "Notebooks are files of tests."
    unwanted = file_path.name.startswith((".", "_", "Untitled"))
    if file_path.suffix == ".ipynb" and not unwanted:
        return NotebookFile.from_parent(parent, path=file_path)


class NotebookFailed(Exception):
    "A cell raised; the message is what nbdev printed."


class NotebookFile(pytest.File):
    "A notebook, which holds one test: itself."

    def collect(self):
        "The one test."
        yield Notebook.from_parent(self, name=self.path.stem)


class Notebook(pytest.Item):
    "A run of a notebook."

    def setup(self):
        "Studies are skipped."
        number = re.match(r"\d+", self.path.name)
        if number and int(number[0]) >= 30 and not self.config.getoption("--flags"):
            pytest.skip("a long study: its results are stored")

    def runtest(self):
        "Run the notebook; a warning where it is slow."
        flags = self.config.getoption("--flags")
        start = time.monotonic()
        try:
            said = run_notebook(self.path, ROOT, flags, None if flags else LIMIT)
        except subprocess.TimeoutExpired:
            raise NotebookFailed(f"TimeoutError: stopped after {LIMIT} s") from None
        seconds = time.monotonic() - start
        if said is not None:
            raise NotebookFailed(said)
        if seconds > WANTED:
            warnings.warn(
                f"{self.path.name} took {seconds:.0f} s, under {WANTED} are wanted"
            )

    def repr_failure(self, info):
        "The error in the first line, then all that was printed."
        if not isinstance(info.value, NotebookFailed):
            return super().repr_failure(info)
        error = r"^\w*(?:Error|Exception|Interrupt|Failed)(?:: .*)?$"
        errors = re.findall(error, str(info.value), re.M)
        return f"{errors[-1] if errors else 'failed'}\n{info.value}"

    def reportinfo(self):
        "Where the test is."
        return self.path, None, self.path.name


def run_notebook(
    path: Path,  # of the notebook
    root: Path,  # the project whose settings.ini and package are used
    flags: str = "",  # cells with these run, too
    limit: float | None = LIMIT,  # seconds; subprocess.TimeoutExpired is raised then
) -> str | None:  # what a failing run printed; None: it passed
    "Run a notebook in a process of its own."
    settings = ConfigParser(delimiters=["="])
    settings.read(root / "settings.ini", encoding="utf-8")
    skip = settings["DEFAULT"]["tst_flags"]
    command = [sys.executable, "-c", RUN, str(path), str(root), skip, flags]
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run(
            command,
            cwd=root,
            env=environment(scratch),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
        )
    if not run.returncode:
        return None
    said = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout)
    return said or f"the process ended with {run.returncode}"


def environment(
    scratch: str,  # a folder for temporary files
) -> dict:  # the variables
    "What the process of a notebook sees: its share of the cores, no window, no hub."
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    threads = max(1, (os.cpu_count() or 1) // workers)
    quiet = dict(
        OMP_NUM_THREADS=str(threads),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        TQDM_DISABLE="1",
    )
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return quiet | own | dict(MPLBACKEND="Agg", PYTHONHASHSEED="0", TMPDIR=scratch)
