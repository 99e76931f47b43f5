"""Check the table of features, cell by cell: by import, or in the files of a clone.

    python benchmarks/peers/features.py --psld PATH --gud PATH --mdm PATH

features.csv has a row for each feature and library: yes, part or no, a few words, and
the evidence, one or several of

* `has module:name`: importing the module and taking the name succeeds;
* `file path:pattern`: a line of that file of the library has the regular expression;
* `files pattern >= n`: at least so many files;
* `none pattern`: no Python file of the library has it, whatever its case;
* `count`: the number of samplers, which is put in place of SAMPLERS.

A cell whose evidence is not there ends the script with an error. What was looked at,
versions, commits and the date, goes to results_features.csv with the cells.
--psld, --gud, --mdm are clones of mandt-lab/PSLD, mathisgerdes/unified-diffusion and
rajesh-lab/MultivariateDiffusionModels.
"""

import argparse
import csv
import datetime
import importlib
import importlib.metadata
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from solvers import _sampling

HERE = Path(__file__).resolve().parent
MODULES = {name: name for name in ("gud_nb", "diffusers", "azula")}
MODULES["k-diffusion"] = "k_diffusion"


def folder(
    library: str,  # as in the table
    a: argparse.Namespace,  # clones
) -> Path:
    "Where its files are."
    if library in MODULES:
        found = find_spec(MODULES[library])
        return Path(list(found.submodule_search_locations)[0])
    return getattr(a, library.lower())


def version(
    library: str,  # as in the table
    a: argparse.Namespace,  # clones
) -> str:
    "The version that is installed, or commit and date of a clone."
    if library in MODULES:
        return importlib.metadata.version(library)
    command = ["git", "-C", str(folder(library, a)), "log", "-1"]
    command += ["--format=%h of %ad", "--date=short"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@cache
def sources(
    root: Path,  # of a library
) -> str:  # in lower case
    "All its Python files."
    files = sorted(root.rglob("*.py"))
    return "\n".join(p.read_text(encoding="utf-8").lower() for p in files)


def samplers(
    library: str,  # as in the table
) -> int:
    "How many samplers it has: subclasses, schedulers, or functions."
    if library == "diffusers":
        names = dir(importlib.import_module("diffusers"))
        return sum(n.endswith("Scheduler") and n[0].isupper() for n in names)
    if library == "k-diffusion":
        return sum(n.startswith("sample_") for n in dir(_sampling()))
    if library == "azula":
        return sum(n != "Sampler" for n in names_of("azula.sample") if "Sampler" in n)
    from gud_nb.sampler import Sampler

    for name in ("adams", "integrators", "paths"):
        importlib.import_module(f"gud_nb.{name}")
    return len(concrete(Sampler))


def names_of(
    module: str,  # dotted
) -> list[str]:
    "What a module offers."
    return importlib.import_module(module).__all__


def concrete(
    kind: type,  # a class
) -> set[type]:
    "Its subclasses that have none themselves and are public."
    below, out = kind.__subclasses__(), set()
    for c in below:
        out |= concrete(c)
    if not below and not kind.__name__.startswith("_"):
        out.add(kind)
    return out


def has(
    dotted: str,  # module:name or module:name.name
) -> bool:
    "Whether it can be imported."
    module, _, names = dotted.partition(":")
    if module.startswith("k_diffusion"):
        _sampling()
    value = importlib.import_module(module)
    for name in names.split("."):
        fields = getattr(value, "__dataclass_fields__", {})
        if not hasattr(value, name) and name not in fields:
            return False
        value = getattr(value, name, None)
    return True


def holds(
    evidence: str,  # one of the kinds above
    library: str,  # as in the table
    root: Path,  # its files
) -> bool:
    "Whether the evidence is there."
    kind, _, rest = evidence.partition(" ")
    if kind == "has":
        return has(rest)
    if kind == "none":
        return not re.search(rest.lower(), sources(root), re.MULTILINE)
    if kind == "files":
        pattern, _, n = rest.partition(" >= ")
        return len(list(root.glob(pattern))) >= int(n)
    if kind == "count":
        return samplers(library) > 1
    path, _, pattern = rest.partition(":")
    return bool(re.search(pattern, (root / path).read_text(encoding="utf-8")))


def main():
    "Check every cell, then write the table with versions and date."
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    for name in ("psld", "gud", "mdm"):
        p.add_argument(f"--{name}", type=Path, required=True, metavar="PATH")
    a = p.parse_args()
    text = (HERE / "features.csv").read_text(encoding="utf-8")
    rows, wrong = list(csv.DictReader(text.splitlines())), []
    versions = {r["library"]: version(r["library"], a) for r in rows}
    folders = {library: folder(library, a) for library in versions}
    for r in rows:
        root = folders[r["library"]]
        for evidence in r["evidence"].split("; "):
            if not holds(evidence, r["library"], root):
                wrong.append(f"{r['feature']}, {r['library']}: {evidence}")
        if "SAMPLERS" in r["says"]:
            r["says"] = r["says"].replace("SAMPLERS", str(samplers(r["library"])))
        r["version"] = versions[r["library"]]
        r["date"] = datetime.date.today().isoformat()
    if wrong:
        sys.exit("\n".join(["not there:", *wrong]))
    with (HERE / "results_features.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} cells hold; {versions}")


if __name__ == "__main__":
    main()
