"""The style rules hold for this project, and each fails on one made to break it."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import readme
import style

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
def area(
    r: float,  # radius, at least 0
) -> float:  # in squares of the unit of r
    "The area of a disc."
    return math.pi * r**2""",
    "assert area(1) == area(-1) > 3",
]
TWO = [
    "# Two\n\n> The second notebook",
    "#| default_exp two",
    "#| export\nfrom gud_nb.one import area",
    """#| export
def ball(
    r: float,  # radius, at least 0
) -> float:  # in squares of the unit of r
    "The area of a sphere."
    return 4 * area(r)""",
    "ball(2.0)",
]
INDEX = [
    "# Small\n\n> A small project",
    "Read [one](00_one.ipynb), then [two](01_two.ipynb).",
    "#| hide\n6 * 7",
    "#| echo: false\n1",
    "1 + 1",
]


def write(project: Path, name: str, cells: list, outputs: list = ()):
    "A clean notebook; '# ' or 'Read ' begins a text; `outputs` go to the last cell."
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
    (project / "gud_nb/three.py").write_text("x = 1\n", encoding="utf-8")
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
        "#| code-fold: true",
        "@decorated",
        "def long(x):",
        *[f"    x = x + {i}" for i in range(style.MAX_LINES - 3)],
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


# Docments

DISC = """#| export
@dataclass(frozen=True)
class Disc:
    "A disc."

    # the radius
    r: float
    unit: str = "m"  # of the radius
    _seen: int = 0

    @property
    def area(self) -> float:  # square units
        "The area."
        return area(self.r)

    def grow(
        self,
        by,  # factor, above 0
        *more,
        _=None,
    ) -> "Disc":  # of radius `by` r
        "A larger disc."
        return Disc(self.r * by, self.unit)

    def _private(self, x):
        return x


@patch
def draw(self: Disc):
    "Draw it."
    plot(self.r)


def _helper(x):
    return x"""


def with_disc(project: Path, *changes: tuple[str, str]):
    "The small project, with a class in it of which parts are replaced."
    code = DISC
    for old, new in changes:
        assert old in code
        code = code.replace(old, new, 1)
    write(project, "00_one", [*ONE, code])


@pytest.mark.parametrize(
    "rule",
    [
        style.documented,
        style.parameters_described,
        style.returns_described,
        style.fields_described,
        style.few_positional,
    ],
    ids=lambda rule: rule.__name__,
)
def test_documented_class_is_in_order(project, rule):
    with_disc(project)
    assert rule(project) == []


@pytest.mark.parametrize(
    "old,new,name",
    [
        ('    "A disc."\n', "", "Disc"),
        ('        "The area."\n', "", "Disc.area"),
        ('        "A larger disc."\n', "", "Disc.grow"),
        ('    "Draw it."\n', "", "Disc.draw"),
        ("_helper", "helper", "helper"),
        ("_seen: int = 0", "d = property(lambda self: 2 * self.r)", "Disc.d"),
        ("_seen: int = 0", "d = cached_property(lambda self: 1)", "Disc.d"),
    ],
)
def test_no_docstring(project, old, new, name):
    with_disc(project, (old, new))
    found(style.documented, project, "00_one.ipynb, cell 5", f"{name} has no docstring")


def test_undocumented_function(project):
    bare = ONE[3].replace('    "The area of a disc."\n', "")
    write(project, "00_one", [*ONE[:3], bare, ONE[4]])
    found(style.documented, project, "area", "docstring")


@pytest.mark.parametrize(
    "old,new,words",
    [
        ("by,  # factor, above 0", "by,", "Disc.grow says nothing of by:"),
        ("by,  # factor", "by,\n        m,  # factor", "nothing of by:"),
        ("_=None", "width=None", "nothing of width:"),
        ("by,  # factor", "by, n,  # factor", "nothing of by:"),
        ("by,  # factor, above 0", "by=(\n  1  # factor\n),", "nothing of by:"),
        ("draw(self: Disc):", "draw(self: Disc, ax) -> int:  # 1", "nothing of ax:"),
        ("unit: str", "def __init__(self, x): 0\n    unit: str", "Disc.__init__"),
        ("unit: str", "def __call__(self, x): 'F'\n    unit: str", "Disc.__call__"),
    ],
)
def test_parameter_not_described(project, old, new, words):
    with_disc(project, (old, new))
    found(style.parameters_described, project, "00_one.ipynb, cell 5", words)


def test_rule_and_docments_see_the_same_comments(tmp_path, monkeypatch):
    code = """
def f(
    a: int  # one
    | None = None,
    # two, above
    b=0,
    c: int
    | None = None,  # three, too late
    d=0,
) -> int:  # four
    return a
"""
    (tmp_path / "described.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from described import f
    from fastcore.docments import docments

    said = docments(f)
    assert (said.a, said.b, said["return"]) == ("one", "two, above", "four")
    assert said.c is None
    cell = style.Cell("here", "code", code, {}, code)
    thing = style.Thing(cell, "f", cell.tree[0])
    lines = {p.lineno: p.arg for p in style.parameters(thing.node)}
    assert thing.commented(lines) == {"a", "b"}


@pytest.mark.parametrize(
    "old,new,name",
    [
        (' -> "Disc":  # of radius `by` r', ' -> "tuple[Disc]":', "Disc.grow"),
        (' -> "Disc":  # of radius `by` r', ":", "Disc.grow"),
        ("plot(self.r)", "yield 1", "Disc.draw"),
        ("(self: Disc):", "(self: Disc) -> Tensor:", "Disc.draw"),
    ],
)
def test_return_not_described(project, old, new, name):
    with_disc(project, (old, new))
    found(style.returns_described, project, "cell 5", f"{name} says nothing")


RING = """

class Ring(Disc):
    def grow(self, by):
        return self

    def bend(self, angle) -> Tensor:
        return angle
"""


@pytest.mark.parametrize(
    "rule,message",
    [
        (style.documented, "Ring.bend has no docstring"),
        (style.parameters_described, "Ring.bend says nothing of angle"),
        (style.returns_described, "Ring.bend says nothing of what it returns"),
    ],
)
def test_overriding_methods_inherit_their_words(project, rule, message):
    with_disc(project, ("\n\n@patch\ndef draw", RING + "\n\n@patch\ndef draw"))
    complaints = [c for c in rule(project) if "Ring" in c]
    assert len(complaints) <= 2 and any(message in c for c in complaints)
    assert not any("Ring.grow" in c for c in complaints)


TUPLE = ("@dataclass(frozen=True)\nclass Disc:", "class Disc(NamedTuple):")
PLAIN = ("@dataclass(frozen=True)\nclass Disc:", "class Disc:")
BARE = ("    # the radius\n", "")


@pytest.mark.parametrize(
    "changes,names",
    [
        ([BARE], "fields r:"),
        ([("  # of the radius", "")], "fields unit:"),
        ([('= "m"  # of', '= (\n        "m"  # of\n    )  #')], "fields unit:"),
        ([TUPLE, BARE], "fields r:"),
        ([BARE, ("  # of the radius", "")], "fields r, unit:"),
    ],
)
def test_field_not_described(project, changes, names):
    with_disc(project, *changes)
    found(
        style.fields_described, project, "cell 5", f"Disc says nothing of its {names}"
    )
    with_disc(project, PLAIN, BARE)
    assert style.fields_described(project) == []


def test_many_positional_parameters(project):
    eight = ", ".join("abcdefgh")
    for given in (eight, f"{eight}, *, i, j", f"{eight}, *rest, **more"):
        write(project, "00_one", [*ONE, f"#| export\ndef f({given}): pass"])
        assert style.few_positional(project) == []
    write(project, "00_one", [*ONE, f"#| export\ndef f({eight}, i): pass"])
    found(style.few_positional, project, "f takes 9 parameters by position")
    method = f"class C:\n    def f(self, {eight}, i=1): pass"
    write(project, "00_one", [*ONE, "#| export\n" + method])
    found(style.few_positional, project, "C.f takes 9 parameters by position")


# Words


@pytest.mark.parametrize("word", style.WORDS)
@pytest.mark.parametrize(
    "cell",
    [
        "Read this {}.",
        "Read `SNR{Title}`.",
        "x = 1  # the {}",
        "#| fig-cap: The {}\nx = 1",
        "def f():\n    'The {Title}.'",
        "raise ValueError(f'want one {} of [x]')",
        "my_{} = 3",
    ],
)
def test_word_that_has_a_better_one(project, word, cell):
    cell = cell.replace("{}", word).replace("{Title}", word.title())
    write(project, "01_two", [*TWO, cell])
    found(style.words_plain, project, "01_two.ipynb, cell 5", repr(word), "write")


@pytest.mark.parametrize(
    "cell",
    [
        "Read it clockwise, in the greenhouse, and with headroom.",
        "Read [this](https://example.org/house).",
        "time.clock_gettime(time.CLOCK_MONOTONIC)",
        "fetch_california_housing()",
    ],
)
def test_word_within_a_word_is_free(project, cell):
    write(project, "01_two", [*TWO, cell])
    assert style.words_plain(project) == []


# What is remembered


@pytest.mark.parametrize(
    "code,word",
    [
        ("key = id(z)", "id()"),
        ("key = t._version", "_version"),
        ("key = getattr(t, '_version', 0)", "_version"),
        ("key = make.__qualname__, t", "__qualname__"),
        ("def once(make): return make()", "once"),
        ("x = diffusion.once(make)", "once"),
        ("class A:\n    def f(self): self._recent = {}", "_recent"),
        ("from weakref import WeakKeyDictionary\nd = WeakKeyDictionary()", "Weak"),
        ("def f(self, r): return self._calm[0] is r", "by identity"),
        ("@lru_cache\ndef f(recipe: Recipe): pass", "caches f by recipe"),
        ("@cache\ndef f(t: Tensor, n: int): pass", "caches f by t:"),
        ("@functools.lru_cache(maxsize=8)\ndef f(n): pass", "caches f by n:"),
        ("@cache\ndef f(*n: int): pass", "caches f by n:"),
        ("class A:\n    @cache\n    def f(self): pass", "caches f by self"),
        ("g = lru_cache(maxsize=8)(f)", "decorate"),
    ],
)
def test_cache_with_a_key_that_is_no_value(project, code, word):
    (project / "gud_nb/one.py").write_text(code + "\n", encoding="utf-8")
    complaints = style.no_hidden_memory(project)
    assert complaints and all("gud_nb/one.py, line" in c for c in complaints)
    assert any(word in c for c in complaints)


@pytest.mark.parametrize(
    "code",
    [
        "@cache\ndef f(name: str, n: int | None, s: tuple[float, ...]): pass",
        "@lru_cache(maxsize=8)\ndef f(kind: Literal['a', 'b'] = 'a'): pass",
        "class A:\n    @cached_property\n    def f(self): pass",
        "name = f'{c.__module__}.{c.__qualname__}'",
        "def f(a): return a is None or a._b is None",
        "x = ids(3), o.id, o.version",
        "once = 3",
    ],
)
def test_memory_by_value_is_free(project, code):
    (project / "gud_nb/one.py").write_text(code + "\n", encoding="utf-8")
    assert style.no_hidden_memory(project) == []


# Outputs


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
    (project / "NOTES.md").write_text(f"see {here}", encoding="utf-8")
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
        ("def f():\n    return nowhere", "F821"),
        ("def f():\n    x = 1", "F841"),
        ("import os", "F401"),
        ("from math import *", "F403"),
        ("x = 1; y = 2", "E702"),
        ("if True: x = 1", "E701"),
        ("x = 1;\ny = 2", "E703"),
    ],
)
@pytest.mark.parametrize("place", ["gud_nb/one.py", "tests/test_x.py", "notebook"])
def test_lint(project, code, word, place):
    if place == "notebook":
        place = "nbs/00_one.ipynb"
        write(project, "00_one", [*ONE, code])
    else:
        (project / place).parent.mkdir(exist_ok=True)
        (project / place).write_text(code + "\n", encoding="utf-8")
    found(style.lint, project, place, word)


def long_line(length: int) -> str:
    return f"x = '{' a' * ((length - 6) // 2)}{'a' * (length % 2)}'"


def test_long_line(project):
    for length, complaints in ((88, 0), (89, 1)):
        assert len(long_line(length)) == length
        caption = "#| fig-cap: " + "long " * 30
        write(project, "00_one", [*ONE, f"{caption}\n{long_line(length)}"])
        assert len(style.lint(project)) == complaints
    found(style.lint, project, "nbs/00_one.ipynb", "E501")


def test_long_line_of_the_package(project):
    names = f'"""{"Words " * 20}"""\n\n__all__ = [{"1, " * 40}]\n'
    file = project / "gud_nb/one.py"
    file.write_text(f"{names}{long_line(88)}\n", encoding="utf-8")
    assert style.long_lines(project) == []
    file.write_text(f"{names}{long_line(89)}\n", encoding="utf-8")
    found(style.long_lines, project, "gud_nb/one.py", "89 characters")


@pytest.mark.parametrize("place", ["tools/x.py", "notebook"])
def test_not_formatted(project, place):
    if place == "notebook":
        place = "nbs/00_one.ipynb"
        write(project, "00_one", [*ONE, "x = [1,2]"])
    else:
        (project / "tools").mkdir()
        (project / place).write_text("x = [1,2]\n", encoding="utf-8")
    found(style.formatted, project, place, "run ruff format")


@pytest.mark.parametrize(
    "call",
    [
        "open('f')",
        "open('f', 'w')",
        "open('f', mode='a')",
        "p.open()",
        "p.open('w', newline='')",
        "p.read_text()",
        "p.write_text('x')",
    ],
)
def test_encoding_of_the_machine(project, call):
    write(project, "00_one", [*ONE, call])
    found(style.encoding_stated, project, "00_one.ipynb, cell 5", "line 1", "utf-8")
    write(project, "00_one", ONE)
    (project / "conftest.py").write_text(f"1\n{call}\n", encoding="utf-8")
    found(style.encoding_stated, project, "conftest.py, line 2", "utf-8")


@pytest.mark.parametrize(
    "call",
    [
        "open('f', encoding='utf-8')",
        "open('f', 'rb')",
        "open('f', mode='wb')",
        "p.open('ab')",
        "p.read_text('utf-8')",
        "p.write_text('x', 'utf-8')",
        "Image.open('f')",
        "open('f', **how)",
        "safe_open('f')",
    ],
)
def test_encoding_stated_or_none(project, call):
    write(project, "00_one", [*ONE, call])
    assert style.encoding_stated(project) == []


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
    (project / "gud_nb/one.py").write_text(code + "\n", encoding="utf-8")
    found(style.nothing_pickled, project, "gud_nb/one.py")


def test_lost_backslash(project):
    write(project, "01_two", [*TWO, "Read $a\text{ and }b$"])
    found(style.no_control_characters, project, "01_two.ipynb", "backslash")


def test_undeclared_import(project):
    (project / "gud_nb/one.py").write_text(
        "import sklearn, json\ndef f(): import nbdev\n", encoding="utf-8"
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
    with open(project / "gud_nb/one.py", "a", encoding="utf-8") as file:
        file.write(code + "\n")
    assert any(word in complaint for complaint in style.import_is_light(project))


def test_slow_import(project):
    with open(project / "gud_nb/one.py", "a", encoding="utf-8") as file:
        file.write("import time\ntime.sleep(.4)\n")
    assert not style.import_is_light(project) and any(
        "on top of torch" in said for said in style.import_time(project)
    )


# The advice


def test_shown_far_away(project):
    write(project, "00_one", [*ONE[:4], *["# A heading"] * 2, ONE[4]])
    assert style.shown_nearby(project) == []
    write(project, "00_one", [*ONE[:4], *["# A heading"] * 3, ONE[4]])
    found(style.shown_nearby, project, "00_one.ipynb, cell 3", "area")


def test_large_notebook(project):
    write(project, "00_one", [*ONE, *["1"] * 80])
    found(style.notebook_size, project, "1 names from 85 cells")


@pytest.mark.parametrize(
    "line,what",
    [
        ("sorted([3], key=lambda x: f(lambda y: y))", "two lambdas"),
        ("x[1 if True else 2]", "a condition in an index"),
        ("a, b = Linear(), Conv()", "made in a tuple"),
        ("def f(mode: str): pass", "mode: str"),
    ],
)
def test_hard_to_read(project, line, what):
    write(project, "00_one", [*ONE, line])
    found(style.plain_code, project, "00_one.ipynb, cell 5", what)


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
    text = (project / "README.md").read_text(encoding="utf-8")
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
        encoding="utf-8",
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
            "import os\nassert 'GUD_LEFT_BEHIND' not in os.environ",
            "assert os.getcwd().endswith('nbs')",
            "import matplotlib\nbackend = matplotlib.get_backend().lower()",
            "assert backend.endswith(('agg', 'inline'))",
        ],
    )
    run = run_pytest(project, "nbs")
    assert run.returncode == 0, run.stdout
