"""How much of a solve goes into NumPy calls on small arrays, before and after.

    git worktree add ../before 69910ba
    python -m benchmarks.calls ../before [--table docs/benchmarks_calls.md]
    python -m benchmarks.calls --lines 20                      the lines that take most

Fits of real data with the defaults, and proofs, by this core and by that of another
checkout, each in a process of its own, in turn. In the core's functions every operator,
subscript and call of NumPy or SciPy is timed as the source is loaded (so they must be
Python). A call is small where the largest array it takes or gives has fewer than 1,000
numbers. Time is CPU time; what the timers themselves take is measured before each solve
and taken off. The solve of several that took least counts.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import json
import operator
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from . import problems
from .problems import ROOT

SMALL = 1000  # numbers
FITS = (
    "diabetes_poly2_n331_p65_k10_s0",
    "trim32_n90_p500_k15_s0",
    "pac_n156_p467_k10_s0",
    "riboflavin_n53_p4088_k10_s0",
    "nirsoil_n483_p700_k20_s0",
    "bglr_wheat_n449_p1279_k20_s0",
)
PROOFS = ("0,3",)  # seed, k
KINDS = (np.ndarray, np.generic)
KINDS_OF_CALL = ("small", "large")
FRAMES = {"super", "locals", "globals"}  # know the frame that calls them


class Timer:
    """Adds up the time of NumPy's calls, by their size and by their line."""

    def __init__(self) -> None:
        self.seconds, self.calls = Counter[str](), Counter[str]()
        self.lines = Counter[tuple[str, int]]()
        self.timed = 0  # operations, on whatever

    def clear(self) -> None:
        """Start anew."""
        for counter in (self.seconds, self.calls, self.lines):
            counter.clear()
        self.timed = 0

    def cost(self, count: int = 5000) -> tuple[float, float]:
        """Seconds that a timer adds to an operation, and to what is noted of it."""
        self.clear()
        add, x = self.operation(operator.add), np.zeros(4)
        start = time.thread_time()
        for _ in range(count):
            operator.add(x, x)
        plain = time.thread_time() - start
        for _ in range(count):
            add(("", 0), x, x)
        spent = time.thread_time() - start - plain
        return (spent - plain) / count, (self.seconds["small"] - plain) / count

    def operation(self, function: Callable) -> Callable:
        """Return an operator that is timed; its first argument is the place."""
        clock, note = time.thread_time, self.note

        def timed(place: tuple[str, int], *args: Any) -> Any:
            start = clock()
            result = function(*args)
            note(place, clock() - start, args, result)
            return result

        return timed

    def call(self, place: tuple[str, int], f: Callable, *args: Any, **kw: Any) -> Any:
        """Call, and time it if it is NumPy's or SciPy's."""
        if not _of_numpy(f):
            self.timed += 1
            return f(*args, **kw)
        start = time.thread_time()
        result = f(*args, **kw)
        spent = time.thread_time() - start
        self.note(place, spent, (getattr(f, "__self__", None), *args), result)
        return result

    def note(self, place: tuple[str, int], spent: float, args: tuple, out: Any) -> None:
        """Count what an operation on arrays took."""
        self.timed += 1
        size, given = -1, (*args, *out) if isinstance(out, tuple) else (*args, out)
        for x in given:
            if isinstance(x, KINDS):
                size = max(size, x.size)
        if size >= 0:
            kind = "small" if size < SMALL else "large"
            self.seconds[kind] += spent
            self.calls[kind] += 1
            self.lines[place] += spent


def _of_numpy(f: Callable) -> bool:
    if isinstance(f, np.ufunc) or type(f).__name__ == "fortran":
        return True
    owner = getattr(f, "__self__", None)
    if isinstance(owner, (*KINDS, np.random.Generator, np.ufunc)):
        return True
    module = getattr(f, "__module__", None) or ""
    return module.partition(".")[0] in ("numpy", "scipy", "array_api_compat")


class Timing(ast.NodeTransformer):
    """Puts a timer around what functions compute."""

    def __init__(self, file: str) -> None:
        self._file = file

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Transform the body alone: not decorators, defaults and annotations."""
        inside = _Inside(self._file)
        node.body = [inside.visit(each) for each in node.body]
        return node


class _Inside(ast.NodeTransformer):
    """Expressions of a function."""

    def __init__(self, file: str) -> None:
        self._file = file

    def _timed(self, node: ast.AST, what: str, *args: ast.expr) -> ast.Call:
        place = ast.Constant((self._file, node.lineno))
        return ast.Call(ast.Name(f"_timed_{what}", ast.Load()), [place, *args], [])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Its body, as that of any function."""
        node.body = [self.visit(each) for each in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Leave the type alone."""
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """a + b."""
        self.generic_visit(node)
        return self._timed(node, type(node.op).__name__, node.left, node.right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """-a and ~a."""
        self.generic_visit(node)
        if isinstance(node.op, (ast.USub, ast.Invert)):
            return self._timed(node, type(node.op).__name__, node.operand)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """a < b."""
        self.generic_visit(node)
        name = type(node.ops[0]).__name__
        if len(node.ops) == 1 and name in OPERATORS:
            return self._timed(node, name, node.left, node.comparators[0])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """a[i]."""
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            return self._timed(node, "getitem", node.value, _index(node.slice))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """f(a)."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in FRAMES:
            return node
        timed = self._timed(node, "call", node.func, *node.args)
        timed.keywords = node.keywords
        return timed

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """a[i] = b."""
        self.generic_visit(node)
        to = node.targets[0]
        if len(node.targets) > 1 or not isinstance(to, ast.Subscript):
            return node
        return ast.Expr(
            self._timed(node, "setitem", to.value, _index(to.slice), node.value)
        )

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """a += b, and a[i] += b."""
        self.generic_visit(node)
        name, to = f"I{type(node.op).__name__}", node.target
        if isinstance(to, ast.Subscript):
            function = ast.Constant(name)
            args = to.value, _index(to.slice), function, node.value
            return ast.Expr(self._timed(node, "within", *args))
        known = (
            ast.Name(to.id, ast.Load())
            if isinstance(to, ast.Name)
            else ast.Attribute(to.value, to.attr, ast.Load())
        )
        return ast.Assign([to], self._timed(node, name, known, node.value))


def _index(node: ast.expr) -> ast.expr:
    """What stands in brackets, as an expression."""
    if isinstance(node, ast.Slice):
        ends = [e or ast.Constant(None) for e in (node.lower, node.upper, node.step)]
        return ast.Call(ast.Name("slice", ast.Load()), ends, [])
    if isinstance(node, ast.Tuple):
        return ast.Tuple([_index(each) for each in node.elts], ast.Load())
    return node


OPERATORS: dict[str, Callable] = {
    **{
        name: getattr(operator, function)
        for pair in (
            "Add add,Sub sub,Mult mul,Div truediv,FloorDiv floordiv,Mod mod,Pow pow,"
            "MatMult matmul,BitAnd and_,BitOr or_,BitXor xor,LShift lshift,"
            "RShift rshift,USub neg,Invert invert,Lt lt,LtE le,Gt gt,GtE ge,Eq eq,"
            "NotEq ne,getitem getitem,setitem setitem,IAdd iadd,ISub isub,IMult imul,"
            "IDiv itruediv,IFloorDiv ifloordiv,IMod imod,IPow ipow,IMatMult imatmul,"
            "IBitAnd iand,IBitOr ior,IBitXor ixor"
        ).split(",")
        for name, function in (pair.split(),)
    }
}


def _within(a: Any, i: Any, name: str, b: Any) -> None:
    a[i] = OPERATORS[name](a[i], b)


class Loader(SourceFileLoader):
    """Loads a module of the core with timers in it."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source, whatever is cached."""
        path = self.get_filename(fullname)
        tree = Timing(Path(path).stem).visit(ast.parse(self.get_data(path)))
        return compile(ast.fix_missing_locations(tree), path, "exec")


class Finder(MetaPathFinder):
    """Finds the modules of the core."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As usual, with the loader above."""
        spec = None
        if name.startswith("chita_sklearn.core."):
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and isinstance(spec.loader, SourceFileLoader):
                spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def installed() -> Timer:
    """Have every module of the core that is loaded from now on timed."""
    timer = Timer()
    for name, function in {**OPERATORS, "within": _within}.items():
        setattr(builtins, f"_timed_{name}", timer.operation(function))
    builtins._timed_call = timer.call
    sys.meta_path.insert(0, Finder())
    return timer


def call_of(case: str) -> Callable[[], object]:
    """A fit of a real problem, or the proof of "seed,k"."""
    if "," not in case:
        from chita_sklearn import ChitaRegressor

        data = problems.find(case).make()
        model = ChitaRegressor(data.k, ridge=1e-10, random_state=0)
        return lambda: model.fit(data.X_train, data.y_train)
    from chita_sklearn.core import Cardinality, LeastSquares, solve

    from .proofs import data as proof_data

    seed, k = map(int, case.split(","))
    A, y, beta, _ = proof_data(seed)
    options = {"solver": "exact", "tol": 1e-4, "random_state": 0, "max_iter": 10**5}
    return lambda: solve(
        LeastSquares(A, y, ridge=2 * beta / len(y)), Cardinality(k), **options
    )


def measured(case: str, repeat: int) -> dict:
    """Seconds of a solve, and of the calls in it."""
    timer, best = installed(), {}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = call_of(case)
        call()
        for _ in range(repeat):
            added, noted = timer.cost()
            timer.clear()
            start = time.thread_time()
            call()
            spent = time.thread_time() - start - added * timer.timed
            if not best or spent < best["all"]:
                lines = timer.lines.most_common()
                best = {"all": spent, "calls": dict(timer.calls)}
                for kind, seconds in timer.seconds.items():
                    best[kind] = seconds - noted * timer.calls[kind]
                best["lines"] = [[*place, spent] for place, spent in lines]
    return best


def in_a_process(root: Path, case: str, repeat: int) -> dict:
    """Measure the core of a checkout."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import benchmarks.calls as c; "
        f"sys.path.insert(0, {str(root)!r}); import json; "
        f"print(json.dumps(c.measured({case!r}, {repeat})))"
    )
    command = [sys.executable, "-P", "-B", "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def row(case: str, roots: list[Path], repeat: int) -> str:
    """Measure a case on each side, in turn; a row of the table."""
    cells = []
    for root in roots:
        found = in_a_process(root, case, repeat)
        small, large = (found.get(kind, 0.0) / found["all"] for kind in KINDS_OF_CALL)
        calls = found["calls"].get("small", 0)
        cells += [f"{calls:,}", f"{small:.0%}", f"{large:.0%}"]
    name = f"proof, seed and k {case}" if "," in case else case
    return f"| {name} | " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    """Print a row for each case; or the lines of this core that take most."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls")
    parser.add_argument("before", type=Path, nargs="?", help="another checkout")
    parser.add_argument("--cases", nargs="*", default=[*FITS, *PROOFS])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--lines", type=int, help="print so many lines of this core")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args(argv)
    if args.lines:
        for case in args.cases:
            found = in_a_process(ROOT, case, args.repeat)
            print(case, {k: v for k, v in found.items() if k != "lines"})
            for file, line, spent in found["lines"][: args.lines]:
                print(f"  {spent:.4f} s  {file}.py:{line}")
        return 0
    roots = [ROOT] if args.before is None else [args.before.resolve(), ROOT]
    sides = ["now"] if args.before is None else ["before", "after"]
    parts = "small calls", "their share of the time", "share of others"
    heads = [f"{side}: {part}" for side in sides for part in parts]
    lines = ["| case | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
    for case in args.cases:
        lines.append(row(case, roots, args.repeat))
        print(lines[-1], flush=True)
    if args.table:
        args.table.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
