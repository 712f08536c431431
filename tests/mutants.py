"""Mutation testing: which small faults in a module would no test see?

`python tests/mutants.py objectives process` plants one fault at a time in the module, in memory,
and runs the tests that are about it; a fault that they let pass has survived. Each is tried in a
fork of a process that has imported what is slow to import. What came of it is written to
reproduce/results/bench/mutants.json; run again, it tries only the survivors and what is new.
"""

import ast
import copy
import hashlib
import importlib.abc
import importlib.util
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tqdm import tqdm

from gfnlite.files import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "reproduce/results/bench/mutants.json"
# The tests of each module, the quickest first, but for what takes a minute: a benchmark's ratio
# and the training of a sampler to its optimum.
TESTS = {
    "objectives": ("chapter_03", "process", "step", "known_answers", "ensemble"),
    "terms": ("process", "step", "known_answers"),
    "process": ("process", "chapter_03", "diffusion", "step", "known_answers"),
    "metrics": ("metrics", "chapter_06", "posterior"),
    "replay": ("replay", "chapter_05", "training"),
}
SLOW = "not faster and not exact_at_the_optimum and not executes"
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}  # fmt: skip
DROPPED = set("abs clamp cumsum detach diff exp flip log neg sqrt square".split())


def places(tree: ast.Module) -> Iterator[int]:
    """Where a fault can be planted, as positions in `ast.walk`; text and annotations have none."""
    nodes, passed = list(ast.walk(tree)), set()
    for node in nodes:
        parts = []
        if isinstance(node, ast.FunctionDef):
            parts = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)]
            parts.append(node.returns)
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.Raise | ast.JoinedStr):
            parts = [node]
        passed |= {id(below) for part in parts if part for below in ast.walk(part)}
    for place, node in enumerate(nodes):
        if id(node) in passed:
            continue
        number = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if (
            number
            or isinstance(node, ast.If | ast.IfExp)
            or type(getattr(node, "op", None)) in {*SWAPS, ast.USub, ast.Not}
            or (isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS)
            or (called and node.func.attr in DROPPED)
        ):
            yield place


def planted(tree: ast.Module, place: int) -> tuple[ast.Module, str]:
    """A copy of the tree with a fault, and what it says there in place of what."""
    tree = copy.deepcopy(tree)
    nodes = list(ast.walk(tree))
    node = nodes[place]
    before, other = ast.unparse(node), node
    if isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.If | ast.IfExp):
        before = ast.unparse(node.test)
        other = node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp | ast.Call):
        other = node.operand if isinstance(node, ast.UnaryOp) else node.func.value
        for parent in nodes:
            for name, value in ast.iter_fields(parent):
                if value is node:
                    setattr(parent, name, other)
                elif isinstance(value, list):
                    value[:] = [other if part is node else part for part in value]
    else:
        node.op = SWAPS[type(node.op)]()
    ast.fix_missing_locations(tree)
    return tree, f"{before} -> {ast.unparse(other)}"


class Planter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the module `name` of the package with a fault; all others as they are."""

    def __init__(self, name: str, path: Path, tree: ast.Module):
        self.name, self.path, self.tree = f"gfnlite.{name}", path, tree

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            return importlib.util.spec_from_loader(name, self, origin=str(self.path))

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__file__ = str(self.path)
        exec(compile(self.tree, self.path, "exec"), module.__dict__)


def passes(module: str, tree: ast.Module, seconds: float) -> bool:
    """Whether the module's tests pass with it so, in a fork, within the time."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    signal.alarm(math.ceil(seconds))
    for name, loaded in list(sys.modules.items()):  # what is ours is loaded anew
        if name != "__main__" and str(ROOT) in (getattr(loaded, "__file__", None) or ""):
            if "site-packages" not in loaded.__file__:
                del sys.modules[name]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.meta_path.insert(0, Planter(module, ROOT / f"gfnlite/{module}.py", tree))
    code = 1
    try:
        code = pytest.main(["-x", *words(module)])
    finally:
        os._exit(int(code))


def words(module: str) -> list[str]:
    """What pytest is told to run the module's tests."""
    where = ["-c", str(ROOT / ".pytest.ini"), "--rootdir", str(ROOT)]
    files = [str(ROOT / f"tests/test_{name}.py") for name in TESTS[module]]
    return ["-q", "-p", "no:xdist", "-k", SLOW, *where, *files]


def main(modules: list[str]) -> None:
    done = read_json(RESULTS) if RESULTS.exists() else {}
    for module in modules:
        source = (ROOT / f"gfnlite/{module}.py").read_text()
        tree, digest = ast.parse(source), hashlib.sha256(source.encode()).hexdigest()
        told = done.get(module, {})
        killed = told["killed"] if told.get("source") == digest else []
        pytest.main(["--collect-only", "-q", *words(module)])  # imports what they do, for the forks
        start = time.monotonic()
        if not passes(module, tree, 3600):
            sys.exit(f"{module}: its tests fail without a fault")
        usual = time.monotonic() - start
        survivors = []
        for place in tqdm(list(places(tree)), module):
            faulty, what = planted(tree, place)
            node = list(ast.walk(tree))[place]
            fault = f"{node.lineno}.{node.col_offset}: {what}"
            if ast.dump(faulty) == ast.dump(tree) or fault in killed:
                continue
            if passes(module, faulty, 4 * usual + 20):
                survivors.append(fault)
            else:
                killed.append(fault)
            told = {"source": digest, "killed": killed, "survived": survivors}
            write_json(RESULTS, done | {module: told})
        done[module] = told
        print(f"{module}: its tests take {usual:.0f} s")
        count = len(killed) + len(survivors)
        print(f"{module}: {count} faults, {len(killed)} seen, {len(survivors)} survived")
        for fault in survivors:
            print(f"  {fault}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(TESTS))
