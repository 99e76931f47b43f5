"""Do the tests notice a mistake? Break exported lines at random, one at a time.

    python tools/mutate.py nbs/05_diffusion.ipynb --n 30 --tests tests/test_samplers.py

Each mutant has one change: + and -, * and /, < and <=, `and` and `or` swapped, 0 or 1
made larger, a `not` left out, a return value negated, a statement removed. It is
written into a copy of the project, into the notebook's cell and into the module, and
the copy's own pytest runs the notebook and the tests up to the first that fails. A
mutant that makes one fail, or takes too long, is killed. One that survives is a line
that no test depends on, or a change that means the same: look at each.

    --n 30           mutants
    --seed 0         of the choice
    --tests FILE ... run after the notebook
    --jobs 1         mutants at once, 2 at most
    --limit SECONDS  for one mutant; otherwise a minute more than three times what the
                     unchanged project takes
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

sys.path.insert(0, str(Path(__file__).parent))
import style

SWAPS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
NUMBERS = {"0": "1", "0.0": "1.0", "1": "2", "1.0": "2.0"}
NOT_COPIED = ("_proc", "_docs", "build", "dist", "runs", "*.egg-info", "__pycache__")


@dataclass(frozen=True)
class Mutation:
    "One change of a piece of code."

    kind: str  # in words
    start: int  # the first character that is replaced
    end: int  # the one after the last
    new: str  # what comes there

    def line(
        self,
        code: str,  # that it belongs to
    ) -> int:  # from 0 on
        "The line where it begins."
        return code.count("\n", 0, self.start)

    def apply(
        self,
        code: str,  # that it belongs to
    ) -> str:  # changed code
        "The mutant."
        return code[: self.start] + self.new + code[self.end :]


def mutations(
    code: str,  # Python
) -> list[Mutation]:  # each of them parses, and means something else
    "Every change that can be made, docstrings, messages and annotations left alone."
    tree = ast.parse(code)
    same, found = ast.dump(tree), []
    for node in worth_changing(tree):
        for change in changes(node, code):
            try:
                if ast.dump(ast.parse(change.apply(code))) != same:
                    found.append(change)
            except SyntaxError:
                continue
    return sorted(set(found), key=lambda m: (m.start, m.end, m.kind))


def worth_changing(
    node: ast.AST,  # a syntax tree
) -> Iterator[ast.AST]:  # its nodes
    "The nodes whose change a test can notice."
    yield node
    skipped = ("annotation", "returns", "decorator_list")
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children if name not in skipped else ():
            text = isinstance(child, (ast.JoinedStr, ast.Import, ast.ImportFrom))
            if isinstance(child, ast.AST) and not text:
                yield from worth_changing(child)


def span(
    node: ast.AST,  # with a position
    code: str,  # that it was parsed from
) -> tuple[int, int]:  # first character, the one after the last
    "Where a node stands; ast counts bytes of a line, this counts characters."
    lines = code.splitlines(keepends=True)

    def offset(line, column):
        before = lines[line - 1].encode()[:column].decode()
        return sum(map(len, lines[: line - 1])) + len(before)

    start = offset(node.lineno, node.col_offset)
    return start, offset(node.end_lineno, node.end_col_offset)


def swap(
    op: ast.AST,  # an operator
    left: ast.AST,  # what stands before it
    right: ast.AST,  # what stands behind it
    code: str,  # that they were parsed from
) -> Iterator[Mutation]:  # none for an operator that has no counterpart
    "Another operator between two operands."
    if type(op) not in SWAPS:
        return
    old, new = SWAPS[type(op)]
    start, end = span(left, code)[1], span(right, code)[0]
    between = re.sub(r"#[^\n]*", lambda m: " " * len(m[0]), code[start:end])
    at = start + between.index(old)
    yield Mutation(f"{old} to {new}", at, at + len(old), new)


def changes(
    node: ast.AST,  # of a syntax tree
    code: str,  # that it was parsed from
) -> Iterator[Mutation]:  # not all of them need parse
    "The changes of one node."
    if isinstance(node, ast.BinOp) and not is_text(node):
        yield from swap(node.op, node.left, node.right, code)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for op, left, right in zip(node.ops, sides, node.comparators):
            yield from swap(op, left, right, code)
    if isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:]):
            yield from swap(node.op, left, right, code)
    if isinstance(node, ast.Constant):
        start, end = span(node, code)
        if new := NUMBERS.get(code[start:end]):
            yield Mutation(f"{code[start:end]} to {new}", start, end, new)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start, end = span(node, code)[0], span(node.operand, code)[0]
        yield Mutation("drop not", start, end, "")
    if isinstance(node, ast.Return) and node.value:
        start, end = span(node.value, code)
        yield Mutation("negate", start, end, negated(node.value, code[start:end]))
    if is_removable(node):
        yield Mutation("remove", *span(node, code), "pass")


def negated(
    value: ast.AST,  # what is returned
    text: str,  # as it is written
) -> str:  # as code
    "The opposite of a value."
    logic = isinstance(value, (ast.Compare, ast.BoolOp))
    truth = isinstance(value, ast.Constant) and isinstance(value.value, bool)
    return f"not ({text})" if logic or truth else f"-({text})"


def is_text(
    node: ast.BinOp,  # a sum or product
) -> bool:  # then a change is an error that every test sees
    "Whether strings, lists or tuples are added or repeated."
    sequences = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)
    sides = (node.left, node.right)
    text = any(isinstance(getattr(s, "value", None), str) for s in sides)
    return text or any(isinstance(s, sequences) for s in sides)


def is_removable(
    node: ast.AST,  # of a syntax tree
) -> bool:  # not where a name would be missing
    "Whether a statement can be left out and the code still run."
    if isinstance(node, ast.Expr):
        return isinstance(node.value, (ast.Call, ast.Await))
    if not isinstance(node, ast.Assign):
        return isinstance(node, ast.AugAssign)
    targets = {ast.unparse(t) for t in node.targets}
    used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    return all(re.search(r"[.\[]", t) or t in used for t in targets)


# A mutant in its place


@dataclass(frozen=True)
class Mutant:
    "A change of one exported cell."

    cell: style.Cell  # before the change
    number: int  # of the cell in its notebook
    change: Mutation  # of the code of the cell

    @property
    def where(self) -> str:  # cell and line
        "Where it is."
        name = self.cell.where.partition(", ")[2]
        return f"{name}, line {self.change.line(self.cell.code) + 1}"

    @property
    def lines(self) -> tuple[str, str]:  # stripped
        "The line before and after."
        at, code = self.change.line(self.cell.code), self.cell.code
        both = (code, self.change.apply(code))
        return tuple(text.splitlines()[at].strip() for text in both)


def choose(
    book: style.Notebook,  # with exported cells
    n: int,  # how many, if there are as many lines
    seed: int,  # of the choice
) -> list[Mutant]:  # in the order of the notebook
    "Mutants of different exported lines, taken at random."
    lines = {}
    for number, cell in enumerate(book.cells):
        for change in mutations(cell.code) if cell.exported and cell.tree else ():
            mutant = Mutant(cell, number, change)
            lines.setdefault((number, change.line(cell.code)), []).append(mutant)
    chance = random.Random(seed)
    chosen = chance.sample(sorted(lines), min(n, len(lines)))
    return [chance.choice(lines[key]) for key in sorted(chosen)]


def copy_project(
    root: Path,  # the project
    copy: Path,  # a folder that does not exist
):
    "The project without what is made from it; weights are links."

    def take(source, target):
        if str(source).endswith(".safetensors"):
            return os.symlink(source, target)
        return shutil.copy2(source, target)

    ignore = shutil.ignore_patterns(".*", *NOT_COPIED)
    shutil.copytree(root, copy, symlinks=True, ignore=ignore, copy_function=take)


@dataclass(frozen=True)
class Original:
    "A notebook and its module as they were at the start, whatever becomes of them."

    book: style.Notebook
    module: str  # path relative to the project
    page: str  # text of the notebook's file
    code: str  # text of the module's file


def original(
    path: Path,  # of a notebook in a project
) -> Original:  # all that mutants are made from
    "Read a notebook and its module."
    root, book = path.parents[1], style.notebook(path)
    if not book.module:
        sys.exit(f"{path.name} exports nothing")
    module = f"{style.settings(root)['lib_name']}/{book.module.replace('.', '/')}.py"
    page, code = (f.read_text(encoding="utf-8") for f in (path, root / module))
    return Original(book, module, page, code)


def write(
    copy: Path,  # a copy of the project
    was: Original,  # what to change
    mutant: Mutant | None,  # None: as it was
):
    "Put a mutant into the notebook and the module of the copy."
    page, code = json.loads(was.page), was.code
    if mutant:
        old = mutant.cell.code
        new = mutant.change.apply(old)
        if code.count(old.strip("\n")) != 1:
            sys.exit(f"{mutant.cell.where} is not in {was.module}: run nbdev_export")
        code = code.replace(old.strip("\n"), new.strip("\n"))
        lines = mutant.cell.source.splitlines()
        head = lines[: len(lines) - old.count("\n") - 1]
        source = "\n".join([*head, new])
        page["cells"][mutant.number]["source"] = source.splitlines(keepends=True)
    text = json.dumps(page, ensure_ascii=False)
    (copy / "nbs" / was.book.path.name).write_text(text, encoding="utf-8")
    (copy / was.module).write_text(code, encoding="utf-8")


def run(
    copy: Path,  # a copy of the project
    paths: list[str],  # the notebook and the tests, relative to it
    limit: float,  # seconds
) -> str | None:  # why a mutant is killed; None: it survives
    "Run pytest in the copy, up to the first failure."
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    # bytecode of another mutant may be as long and as old: write none
    env |= dict(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
    process = subprocess.Popen(
        [*command, *paths],
        cwd=copy,
        env=env,
        text=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"stopped after {limit:.0f} s"
    if not process.returncode:
        return None
    red = re.search(r"^(?:FAILED|ERROR) (.*)$", said, re.M)
    return red[1] if red else said[-300:].strip() or f"exit {process.returncode}"


def report(
    results: list[tuple],  # mutant, why it was killed or None, seconds
) -> str:  # lines
    "What became of each mutant, the survivors last."
    rows = []
    for mutant, killed, seconds in sorted(results, key=lambda r: r[1] is None):
        old, new = mutant.lines
        fate = "killed" if killed else "SURVIVED"
        rows.append(f"{fate:9}{seconds:5.0f} s  {mutant.where}: {mutant.change.kind}")
        rows += [f"    - {old}", f"    + {new}"]
        rows += [f"    {killed.splitlines()[0][:84]}"] if killed else []
    dead = sum(killed is not None for _, killed, _ in results)
    return "\n".join([*rows, f"{dead} of {len(results)} mutants killed"])


def check_copy(
    copy: Path,  # a copy of the project
    lib: str,  # the package
):
    "Make sure that the copy's package is imported, not that of the project."
    show = f"import {lib}; print({lib}.__file__)"
    env = os.environ | dict(PYTHONPATH=str(copy))
    found = subprocess.run(
        [sys.executable, "-c", show],
        cwd=copy,
        env=env,
        text=True,
        encoding="utf-8",
        capture_output=True,
    )
    if not found.stdout.startswith(str(copy)):
        sys.exit(f"the copy is not imported: {found.stdout}{found.stderr}")


def main(
    args: list[str],  # of the command line
):
    "Make the copies, see that all is well without a mutant, then try each."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", nargs="*", default=[])
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1)
    parser.add_argument("--limit", type=float)
    given = parser.parse_args(args)

    path = given.notebook.resolve()
    root, was = path.parents[1], original(path)
    if 30 <= was.book.number < float("inf"):
        sys.exit(f"{path.name} is a study: tests do not run it")
    mutants = choose(was.book, given.n, given.seed)
    if not mutants:
        sys.exit(f"{path.name} exports nothing that can be changed")
    paths = [f"nbs/{path.name}", *given.tests]
    with tempfile.TemporaryDirectory() as folder:
        # the name of a temporary folder may be a link
        copies = [Path(folder).resolve() / f"copy{i}" for i in range(given.jobs)]
        for copy in copies:
            copy_project(root, copy)
            write(copy, was, None)
            check_copy(copy, style.settings(root)["lib_name"])
        start = time.monotonic()
        if red := run(copies[0], paths, given.limit or 3600):
            sys.exit(f"without a mutant: {red}")
        seconds = time.monotonic() - start
        limit = given.limit or 3 * seconds + 60
        print(f"{len(mutants)} mutants; without one all is well in {seconds:.0f} s")
        print(report(try_all(mutants, was, copies, paths, limit)))


def try_all(
    mutants: list[Mutant],  # to try
    was: Original,  # what they change
    copies: list[Path],  # of the project, as many as run at once
    paths: list[str],  # the notebook and the tests
    limit: float,  # seconds for each
) -> list[tuple]:  # mutant, why it was killed or None, seconds
    "Try mutants, each copy one at a time."
    free = Queue()
    for copy in copies:
        free.put(copy)

    def one(mutant):
        copy, start = free.get(), time.monotonic()
        try:
            write(copy, was, mutant)
            killed = run(copy, paths, limit)
        finally:
            free.put(copy)
        fate = "killed" if killed else "SURVIVED"
        print(f"{fate:9} {mutant.where}: {mutant.change.kind}", flush=True)
        return mutant, killed, time.monotonic() - start

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, mutants))


if __name__ == "__main__":
    main(sys.argv[1:])
