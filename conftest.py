"""Every notebook is a test item: `pytest`, `pytest nbs/02_transition.ipynb`, `pytest -k sampler`, `pytest -n 2`.

A notebook runs from top to bottom through nbdev's own runner, in a process, and so with an environment, of its own. Cells whose flags
settings.ini lists under `tst_flags` are skipped; `pytest --flags slow` runs those flagged so. The long studies, 30 and up, are not run:
their stored results are what they are for.
"""

import os, re, subprocess, sys, tempfile, time, warnings
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
WANTED, LIMIT = (
    60,
    600,
)  # seconds a notebook should take, and may take before it is stopped
RUN = """
import sys
from pathlib import Path
from nbdev.test import test_nb
notebook, root, skip, force = sys.argv[1:]
sys.argv = ["pytest"]
passed, _ = test_nb(Path(notebook), skip_flags=skip.split(), force_flags=force.split(), basepath=root)
sys.exit(not passed)
"""


def pytest_addoption(parser):
    parser.addoption(
        "--flags",
        default="",
        help="cells flagged with one of these run too, as in --flags 'slow cuda'",
    )


def pytest_collect_file(file_path: Path, parent):
    if file_path.suffix == ".ipynb" and not file_path.name.startswith(
        (".", "_", "Untitled")
    ):
        return NotebookFile.from_parent(parent, path=file_path)


class NotebookFailed(Exception):
    "A cell raised; the message is what nbdev printed."


class NotebookFile(pytest.File):
    def collect(self):
        yield Notebook.from_parent(self, name=self.path.stem)


class Notebook(pytest.Item):
    def setup(self):
        number = re.match(r"\d+", self.path.name)
        if number and int(number[0]) >= 30 and not self.config.getoption("--flags"):
            pytest.skip("a long study: its results are stored")

    def runtest(self):
        settings = ConfigParser(delimiters=["="])
        settings.read(ROOT / "settings.ini", encoding="utf-8")
        command = [
            sys.executable,
            "-c",
            RUN,
            self.path,
            ROOT,
            settings["DEFAULT"]["tst_flags"],
            self.config.getoption("--flags"),
        ]
        limit = None if self.config.getoption("--flags") else LIMIT
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            try:
                run = subprocess.run(
                    command,
                    cwd=ROOT,
                    env=environment(scratch),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    timeout=limit,
                )
            except subprocess.TimeoutExpired:
                raise NotebookFailed(f"TimeoutError: stopped after {LIMIT} s") from None
        seconds = time.monotonic() - start
        if run.returncode:
            raise NotebookFailed(
                re.sub(r"\x1b\[[0-9;]*m", "", run.stdout)
                or f"the process ended with {run.returncode}"
            )
        if seconds > WANTED:
            warnings.warn(
                f"{self.path.name} took {seconds:.0f} s, under {WANTED} are wanted"
            )

    def repr_failure(self, info):
        if not isinstance(info.value, NotebookFailed):
            return super().repr_failure(info)
        errors = re.findall(
            r"^\w*(?:Error|Exception|Interrupt|Failed)(?:: .*)?$", str(info.value), re.M
        )
        return f"{errors[-1] if errors else 'failed'}\n{info.value}"

    def reportinfo(self):
        return self.path, None, self.path.name


def environment(scratch: str) -> dict:
    "What a notebook's process sees: the cores shared fairly, a folder for temporary files, no window, no hub, no progress bars."
    threads = max(
        1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    )
    quiet = dict(
        OMP_NUM_THREADS=str(threads),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        TQDM_DISABLE="1",
    )
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return quiet | own | dict(MPLBACKEND="Agg", PYTHONHASHSEED="0", TMPDIR=scratch)
