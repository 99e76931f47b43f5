"""The mutants that tools/mutate.py makes, and where it puts them; none is run here."""

import ast
import json

import mutate
import pytest
import style

CODE = """def f(
    x: int = 1,  # 0 or 1
) -> int:  # x + 1
    "Return 0 + 1."
    require(x < 2, f"got {x + 1}")
    y = (x) + (  # a + in a comment
        x * é
    )
    y = y / 2
    if not x and y:
        return x - 0
    x += 1
    return x == y
"""


def mutants(code: str) -> dict:
    "The lines that differ, by kind; a kind that comes twice has a list."
    found = {}
    for m in mutate.mutations(code):
        pairs = zip(code.splitlines(), m.apply(code).splitlines())
        changed = [new.strip() for old, new in pairs if old != new]
        found.setdefault(m.kind, []).append(changed[0])
    return found


@pytest.mark.parametrize(
    "kind,lines",
    [
        ("< to <=", ['require(x <= 2, f"got {x + 1}")']),
        ("+ to -", ["y = (x) - (  # a + in a comment"]),
        ("* to /", ["x / é"]),
        ("/ to *", ["y = y * 2"]),
        ("and to or", ["if not x or y:"]),
        ("drop not", ["if x and y:"]),
        ("- to +", ["return x + 0"]),
        ("== to !=", ["return x != y"]),
        ("negate", ["return -(x - 0)", "return not (x == y)"]),
        ("0 to 1", ["return x - 1"]),
        ("1 to 2", ["x: int = 2,  # 0 or 1", "x += 2"]),
        ("remove", ["pass", "pass", "pass"]),
    ],
)
def test_each_kind_of_mutant(kind, lines):
    assert mutants(CODE)[kind] == lines


def test_no_other_mutants():
    kinds = "negate remove".split()
    assert len(mutants(CODE)) == 12
    assert sum(len(v) for k, v in mutants(CODE).items() if k not in kinds) == 11


def test_every_mutant_parses_and_differs():
    for m in mutate.mutations(CODE):
        assert ast.dump(ast.parse(m.apply(CODE))) != ast.dump(ast.parse(CODE))


@pytest.mark.parametrize(
    "code",
    [
        "'text 1 + 1'",
        "def f(x: a + b) -> 1 + 1: 'x < y'",
        "@cache(1)\ndef f(): ...",
        "x = f'{1 + a}'",
        "import a",
        "x = 'a' + b, (c,) * n",
        "y = f(x)",
    ],
)
def test_left_alone(code):
    assert mutate.mutations(code) == []


def project(root):
    "A notebook of two exported cells and the module that it exports."
    cells = [
        ("markdown", "# One"),
        ("code", "#| default_exp one"),
        ("code", "#| export\ndef f(x):\n    return x + 1"),
        ("code", "#| export\n#| code-fold: true\ndef g(x):\n    return x < 1"),
        ("code", "f(1) + g(2)"),
    ]
    book = dict(
        cells=[dict(cell_type=k, id=k, metadata={}, source=[s]) for k, s in cells],
        metadata={},
        nbformat=4,
        nbformat_minor=5,
    )
    (root / "nbs").mkdir()
    (root / "lib").mkdir()
    (root / "lib/weights.safetensors").write_bytes(b"w")
    (root / "settings.ini").write_text("[DEFAULT]\nlib_name = lib\n", encoding="utf-8")
    module = "# auto\n\ndef f(x):\n    return x + 1\n\n\ndef g(x):\n    return x < 1\n"
    (root / "lib/one.py").write_text(module, encoding="utf-8")
    path = root / "nbs/00_one.ipynb"
    path.write_text(json.dumps(book), encoding="utf-8")
    return mutate.original(path)


def test_choice_is_of_exported_lines_and_repeatable(tmp_path):
    book = project(tmp_path).book
    chosen = mutate.choose(book, 30, seed=1)
    assert [m.number for m in chosen] == [2, 3]
    assert chosen == mutate.choose(book, 30, seed=1)
    assert len(mutate.choose(book, 1, seed=1)) == 1
    several = {mutate.choose(book, 30, seed)[0].change.kind for seed in range(20)}
    assert several == {"+ to -", "1 to 2", "negate"}


def test_mutant_goes_into_cell_and_module_of_the_copy(tmp_path):
    (root := tmp_path / "here").mkdir()
    was, copy = project(root), tmp_path / "copy"
    mutate.copy_project(root, copy)
    book = was.book
    assert (copy / "lib/weights.safetensors").is_symlink()
    code = book.cells[3].code
    (change,) = [m for m in mutate.mutations(code) if m.kind == "< to <="]
    mutant = mutate.Mutant(book.cells[3], 3, change)
    assert mutant.lines == ("return x < 1", "return x <= 1")
    assert mutant.where == "cell 3 (code), line 2"

    mutate.write(copy, was, mutant)
    changed = style.notebook(copy / "nbs/00_one.ipynb")
    assert changed.cells[3].source == book.cells[3].source.replace("<", "<=")
    assert changed.cells[2] == book.cells[2]
    module = (copy / "lib/one.py").read_text(encoding="utf-8")
    assert "return x <= 1" in module and "return x + 1" in module
    assert "<=" not in (root / "lib/one.py").read_text(encoding="utf-8")

    mutate.write(copy, was, None)
    assert style.notebook(copy / "nbs/00_one.ipynb").cells == book.cells
    assert "<=" not in (copy / "lib/one.py").read_text(encoding="utf-8")


def test_module_that_is_not_exported_is_refused(tmp_path):
    book = project(tmp_path).book
    (tmp_path / "lib/one.py").write_text("# auto\n", encoding="utf-8")
    was = mutate.original(book.path)
    with pytest.raises(SystemExit, match="nbdev_export"):
        mutate.write(tmp_path, was, mutate.choose(book, 1, 0)[0])


def test_report_has_the_survivors_last(tmp_path):
    first, second = mutate.choose(project(tmp_path).book, 2, 0)
    said = mutate.report([(first, None, 1.0), (second, "tests/x.py - no", 2.0)])
    assert said.index("killed") < said.index("SURVIVED")
    assert said.endswith("1 of 2 mutants killed")
    assert "tests/x.py - no" in said and first.lines[1] in said


def test_run_sees_red_green_and_a_loop_without_end(tmp_path):
    for name, line in dict(green="pass", red="assert 0", loop="while 1: pass").items():
        code = f"def test_{name}():\n    {line}\n"
        (tmp_path / f"test_{name}.py").write_text(code, encoding="utf-8")
    assert mutate.run(tmp_path, ["test_green.py"], 60) is None
    assert "test_red.py" in mutate.run(tmp_path, ["test_green.py", "test_red.py"], 60)
    assert "stopped after 2 s" in mutate.run(tmp_path, ["test_loop.py"], 2)
