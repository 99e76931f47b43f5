"""The style rules hold for this project, and each of them fails on a small project made to break it."""

import base64, json, shutil, subprocess, sys
from pathlib import Path

import style, pytest, readme

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("rule", style.RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule):
    complaints = rule(ROOT)
    assert not complaints, "\n".join([rule.__doc__, *complaints])


def test_every_rule_is_documented_and_seen_to_fail():
    tested = Path(__file__).read_text(encoding="utf-8")
    for rule in style.RULES + style.ADVICE:
        assert rule.__doc__
        assert f"style.{rule.__name__}" in tested, (
            f"no test shows {rule.__name__} failing"
        )


# A project in small: two notebooks, the second on top of the first, and an index

ONE = [
    "# One\n\n> The first notebook",
    "#| default_exp one",
    "#| export\nimport math",
    """#| export
def area(r: float,  # radius, at least 0
         ) -> float:
    "The area of a disc."
    return math.pi * r ** 2""",
    "assert area(1) == area(-1) > 3",
]
TWO = [
    "# Two\n\n> The second notebook",
    "#| default_exp two",
    "#| export\nfrom gud_nb.one import area",
    """#| export
def ball(r: float,  # radius, at least 0
         ) -> float:
    "The area of a sphere."
    return 4 * area(r)""",
    "ball(2.)",
]
INDEX = [
    "# Small\n\n> A small project",
    "Read [one](00_one.ipynb), then [two](01_two.ipynb).",
    "#| hide\n6 * 7",
    "#| echo: false\n1",
    "1 + 1",
]


def write(project: Path, name: str, cells: list, outputs: list = ()):
    "A notebook as nbdev_clean leaves it; a cell that begins with '# ' or 'Read ' is markdown; `outputs` go to the last cell."
    made = []
    for i, source in enumerate(cells):
        kind = "markdown" if source.startswith(("# ", "Read ")) else "code"
        cell = dict(
            cell_type=kind, id=f"{i:08d}", metadata={}, source=source.splitlines(True)
        )
        if kind == "code":
            cell |= dict(
                execution_count=None,
                outputs=list(outputs) if i == len(cells) - 1 else [],
            )
        made.append(cell)
    book = dict(cells=made, metadata={}, nbformat=4, nbformat_minor=5)
    (project / "nbs" / f"{name}.ipynb").write_text(
        json.dumps(book, sort_keys=True, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )


def export(project: Path):
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from nbdev.doclinks import nbdev_export; nbdev_export()",
        ],
        cwd=project,
        check=True,
    )


def edit(file: Path, old: str, new: str):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="session")
def pattern(tmp_path_factory):
    project = tmp_path_factory.mktemp("pattern")
    (project / "nbs").mkdir()
    for name in ("settings.ini", "pyproject.toml", "_quarto.yml"):
        shutil.copy(ROOT / name, project)
    (project / "nbs/_quarto.yml").symlink_to("../_quarto.yml")
    for name, cells in {"00_one": ONE, "01_two": TWO, "index": INDEX}.items():
        write(project, name, cells)
    export(project)
    readme.write(project)
    return project


@pytest.fixture
def project(pattern, tmp_path):
    return Path(shutil.copytree(pattern, tmp_path / "project", symlinks=True))


def found(rule, project, *words):
    "The rule makes exactly one complaint here, and it has these words in it."
    complaints = rule(project)
    assert len(complaints) == 1, complaints
    for word in words:
        assert word in complaints[0]


@pytest.mark.parametrize(
    "rule", style.RULES + style.ADVICE, ids=lambda rule: rule.__name__
)
def test_small_project_is_in_order(rule, pattern):
    assert rule(pattern) == []


def test_module_edited_by_hand(project):
    edit(project / "gud_nb/one.py", "math.pi", "3.14")
    found(style.export_in_sync, project, "gud_nb/one.py", "nbdev_export")


def test_module_without_notebook(project):
    (project / "gud_nb/three.py").write_text("x = 1\n")
    found(style.export_in_sync, project, "gud_nb/three.py", "delete it")


def test_stale_index_of_names(project):
    edit(project / "gud_nb/_modidx.py", "gud_nb.one.area", "gud_nb.one.aera")
    found(style.export_in_sync, project, "_modidx.py")


def test_version_forgotten(project):
    edit(project / "settings.ini", "version = ", "version = 9.")
    found(style.version_matches, project, "9.")


def test_version_absent(project):
    (project / "gud_nb/__init__.py").unlink()
    found(style.version_matches, project, "missing")


@pytest.mark.parametrize(
    "old,new",
    [
        ('"execution_count": null', '"execution_count": 3'),
        ('"metadata": {},', '"metadata": {"scrolled": true},'),
    ],
)
def test_notebook_not_clean(project, old, new):
    edit(project / "nbs/01_two.ipynb", old, new)
    found(style.notebooks_clean, project, "01_two.ipynb", "nbdev_clean")


@pytest.mark.parametrize(
    "title",
    [
        "# One\n\n> The first notebook\n\nand a sentence that the pages would lose",
        "# One",
        "Read this first.",
    ],
)
def test_title_not_alone(project, title):
    write(project, "00_one", [title, *ONE[1:]])
    found(style.first_cells, project, "00_one.ipynb", "> description")


def test_export_to_nowhere(project):
    write(project, "00_one", [ONE[0], *ONE[2:]])
    found(style.first_cells, project, "default_exp")


@pytest.mark.parametrize(
    "line",
    [
        "from gud_nb.two import ball",
        "import gud_nb.two",
        "from gud_nb import two",
        "def f():\n    from gud_nb.two import ball",
        "%matplotlib inline\nfrom gud_nb.two import *",
    ],
)
def test_import_of_a_later_notebook(project, line):
    write(project, "00_one", [*ONE, line])
    found(
        style.import_order,
        project,
        "00_one.ipynb, cell 5",
        "gud_nb.two",
        "smaller numbers",
    )


def test_import_of_its_own_module(project):
    write(project, "01_two", [*TWO, "from gud_nb.two import ball"])
    found(style.import_order, project, "01_two.ipynb", "gud_nb.two")


def test_import_of_no_notebook(project):
    write(project, "01_two", [*TWO, "from gud_nb.three import cube"])
    found(style.import_order, project, "no notebook exports")


def test_number_used_twice(project):
    write(project, "01_again", [ONE[0], "1"])
    found(style.import_order, project, "01_again.ipynb", "01_two.ipynb", "same number")


def test_long_cell(project):
    body = [
        "#| export",
        "def long(x):",
        *[f"    x = x + {i}" for i in range(style.MAX_LINES - 2)],
        "    return x",
    ]
    write(project, "00_one", [*ONE, "\n".join(body)])
    assert style.cell_length(project) == []
    write(project, "00_one", [*ONE, "\n".join([*body[:-1], "    x = 0", body[-1]])])
    found(style.cell_length, project, "00_one.ipynb, cell 5", "41 lines")


def test_imports_among_code(project):
    write(project, "00_one", [*ONE, "#| export\nimport os\nhere = os.curdir"])
    found(style.imports_alone, project, "cell 5", "of their own")


def test_star_import(project):
    write(project, "00_one", [*ONE, "#| export\nfrom math import *"])
    found(style.imports_alone, project, "cell 5", "star import")


@pytest.mark.parametrize(
    "line",
    [
        "area = 3",
        "for area in range(3): pass",
        "from math import pi as area",
        "def area(): pass",
        "if (area := 3): pass",
    ],
)
def test_exported_name_bound_again(project, line):
    write(project, "00_one", [*ONE, line])
    found(style.names_bound_once, project, "area", "cell 5")


@pytest.mark.parametrize(
    "line",
    [
        "[area for area in range(3)]",
        "def f(area): return area",
        "f = lambda area: area",
        "@patch\ndef area(self: float): return 3",
    ],
)
def test_name_in_a_scope_of_its_own_is_free(project, line):
    write(project, "00_one", [*ONE, line])
    assert style.names_bound_once(project) == []


def test_export_never_shown(project):
    write(project, "00_one", [*ONE[:-1], "surface = 3"])
    found(style.exports_shown, project, "area", "show it")


def test_undocumented_export(project):
    write(
        project,
        "00_one",
        [*ONE[:3], ONE[3].replace('    "The area of a disc."\n', ""), ONE[4]],
    )
    found(style.documented, project, "area", "docstring")


def picture(size: int) -> dict:
    data = {
        "image/png": base64.b64encode(b"x" * size).decode(),
        "text/plain": "<Figure>",
    }
    return dict(output_type="display_data", metadata={}, data=data)


def stream(text: str) -> dict:
    return dict(output_type="stream", name="stderr", text=text)


@pytest.mark.parametrize(
    "output,word",
    [
        (picture(style.MAX_PICTURE + 1024), "61 KB"),
        (stream(" 37%|███▋      | 37/100 [00:01<00:02]"), "progress bar"),
        (stream("loss 0.3, 12.5it/s"), "timing"),
        (dict(output_type="error", ename="E", evalue="", traceback=[]), "error"),
    ],
)
def test_noisy_output(project, output, word):
    write(project, "00_one", ONE, [picture(style.MAX_PICTURE)])
    assert style.outputs_quiet(project) == []
    write(project, "00_one", ONE, [output])
    found(style.outputs_quiet, project, "00_one.ipynb, cell 4", word)


def test_path_of_a_machine(project):
    here = "/" + "home/somebody/data"
    write(project, "00_one", [*ONE, f"open('{here}')"])
    found(style.speaks_of_itself, project, "cell 5", here)
    write(project, "00_one", ONE, [stream(f"{here}/x.py:3: UserWarning\n")])
    found(style.speaks_of_itself, project, "output", here)
    write(project, "00_one", ONE)
    (project / "NOTES.md").write_text(f"see {here}")
    found(style.speaks_of_itself, project, "NOTES.md")


def test_readme_edited_by_hand(project):
    edit(project / "README.md", "# Small", "# Smaller")
    found(style.readme_in_sync, project, "README.md", "tools/readme.py")


@pytest.mark.parametrize(
    "cells",
    [
        ["# Small\n\n> A small project", "Read [one](00_one.ipynb)."],
        [*INDEX, "2 + 2"],
        [*INDEX, "Read on.\n\n```sh\npip install .\n```"],
    ],
)
def test_index_changed_alone(project, cells):
    write(project, "index", cells)
    found(style.readme_in_sync, project, "README.md")


def test_dead_link(project):
    write(
        project, "01_two", [*TWO, "Read [on](02_three.ipynb#next), or `[not](this)`."]
    )
    found(style.links_resolve, project, "02_three.ipynb", "does not exist")


def test_quarto_file_copied(project):
    (project / "nbs/_quarto.yml").unlink()
    shutil.copy(project / "_quarto.yml", project / "nbs")
    found(style.quarto_linked, project, "symbolic link")


@pytest.mark.parametrize(
    "code,word",
    [
        ("def f(): return nowhere", "F821"),
        ("def f():\n    x = 1", "F841"),
        ("import os", "F401"),
        ("from math import *", "F403"),
    ],
)
def test_lint(project, code, word):
    (project / "gud_nb/one.py").write_text(code + "\n")
    found(style.lint, project, "gud_nb/one.py", word)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('w')",
        "torch.save(w, 'w')",
        "np.load('w', allow_pickle=True)",
    ],
)
def test_pickle(project, code):
    (project / "gud_nb/one.py").write_text(code + "\n")
    found(style.nothing_pickled, project, "gud_nb/one.py")


def test_lost_backslash(project):
    write(project, "01_two", [*TWO, "Read $a\text{ and }b$"])
    found(style.no_control_characters, project, "01_two.ipynb", "backslash")


def test_undeclared_import(project):
    (project / "gud_nb/one.py").write_text(
        "import sklearn, json\ndef f(): import nbdev\n"
    )
    found(style.imports_declared, project, "nbdev", "line 2")


@pytest.mark.parametrize(
    "code,word",
    [
        ("import matplotlib.pyplot", "matplotlib"),
        ("import socket\nsocket.socket()", "opened a socket"),
        ("import socket\nsocket.getaddrinfo('localhost', 9)", "asked for an address"),
    ],
)
def test_heavy_import(project, code, word):
    with open(project / "gud_nb/one.py", "a") as file:
        file.write(code + "\n")
    assert any(word in complaint for complaint in style.import_is_light(project))


def test_slow_import(project):
    with open(project / "gud_nb/one.py", "a") as file:
        file.write("import time\ntime.sleep(.4)\n")
    assert not style.import_is_light(project) and any(
        "on top of torch" in said for said in style.import_time(project)
    )


# The advice


def test_parameter_not_described(project):
    write(
        project,
        "00_one",
        [*ONE[:3], ONE[3].replace("  # radius, at least 0", ""), ONE[4]],
    )
    found(style.parameters_described, project, "area says nothing of r")


def test_shown_far_away(project):
    write(project, "00_one", [*ONE[:4], *["# A heading"] * 2, ONE[4]])
    assert style.shown_nearby(project) == []
    write(project, "00_one", [*ONE[:4], *["# A heading"] * 3, ONE[4]])
    found(style.shown_nearby, project, "00_one.ipynb, cell 3", "area")


def test_large_notebook(project):
    write(project, "00_one", [*ONE, *["1"] * 80])
    found(style.notebook_size, project, "1 names from 85 cells")


def test_long_line(project):
    write(project, "00_one", [*ONE, f"x = '{'a' * 134}'"])
    assert style.long_lines(project) == []
    write(project, "00_one", [*ONE, f"x = '{'a' * 135}'"])
    found(style.long_lines, project, "00_one.ipynb, cell 5", "141 characters")


# README.md from the index


def test_readme_rendering(project):
    links = "![p](images/p.png) [w](https://example.org/a) [here](#map) [L](../LICENSE)"
    answer = dict(
        output_type="execute_result",
        metadata={},
        execution_count=None,
        data={"text/plain": "7"},
    )
    write(
        project,
        "index",
        [*INDEX, f"Read this.\n\n```sh\ncp [a](b) c\n```\n{links}", "3 + 4"],
        [answer, picture(3)],
    )
    readme.write(project)
    text = (project / "README.md").read_text()
    for part in (
        "[one](nbs/00_one.ipynb)",
        "```python\n1 + 1\n```",
        "cp [a](b) c",
        "![p](nbs/images/p.png)",
        "(https://example.org/a)",
        "(#map)",
        "[L](LICENSE)",
        "```python\n3 + 4\n```\n\n```text\n7\n```\n\n![](README_files/0.png)",
    ):
        assert part in text
    for part in ("6 * 7", "echo", "```python\n1\n```"):
        assert part not in text
    assert (project / "README_files/0.png").read_bytes() == b"xxx"
    write(project, "index", INDEX)
    assert readme.stale(project) == ["README.md", "README_files/0.png"]
    readme.write(project)
    assert readme.stale(project) == []


# The notebooks as test items


def run_pytest(project: Path, *args) -> subprocess.CompletedProcess:
    shutil.copy(ROOT / "conftest.py", project)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args],
        cwd=project,
        text=True,
        capture_output=True,
    )


def test_notebooks_are_items(project):
    (project / "tests").mkdir()
    write(
        project,
        "02_slow",
        [
            "# Slow\n\n> Flags are honoured",
            "#| slow\nraise SystemError('ran a slow cell')",
            "#| eval: false\n1 / 0",
        ],
    )
    write(
        project, "30_long", ["# Long\n\n> A study", "raise SystemError('ran a study')"]
    )
    run = run_pytest(project, "-v")
    assert run.returncode == 0, run.stdout
    for line in (
        "00_one.ipynb::00_one PASSED",
        "02_slow PASSED",
        "30_long SKIPPED",
        "index PASSED",
        "4 passed, 1 skipped",
    ):
        assert line in run.stdout
    run = run_pytest(project, "nbs/02_slow.ipynb", "--flags", "slow")
    assert run.returncode == 1 and "SystemError: ran a slow cell" in run.stdout


def test_failing_notebook_is_shown(project):
    write(project, "01_two", [*TWO, "assert ball(1.) < 0, 'a sphere has an area'"])
    run = run_pytest(project, "nbs", "-n", "2")
    assert run.returncode == 1
    for part in (
        "FAILED nbs/01_two.ipynb::01_two - AssertionError: a sphere has an area",
        "1 failed, 2 passed",
    ):
        assert part in run.stdout


def test_notebook_has_a_process_of_its_own(project):
    write(
        project,
        "00_one",
        [*ONE, "import os\nos.environ['GUD_LEFT_BEHIND'] = '1'\nos.chdir('..')"],
    )
    write(
        project,
        "01_two",
        [
            *TWO,
            "import os\nassert 'GUD_LEFT_BEHIND' not in os.environ and os.getcwd().endswith('nbs')",
            "import matplotlib\nassert matplotlib.get_backend().lower().endswith(('agg', 'inline'))",
        ],
    )
    run = run_pytest(project, "nbs")
    assert run.returncode == 0, run.stdout
