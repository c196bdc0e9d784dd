"""The rules of the house: what may import what, and what an import brings along."""

import ast
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import tokenize
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

import chita_sklearn

ROOT = Path(__file__).parents[1]
ESTIMATOR = ROOT / "chita_sklearn"
CORE = ESTIMATOR / "core"
ADAPTERS = ROOT / "adapters"
TORCH = ADAPTERS / "chita_torch"


def python_files(folder):
    return sorted(path for path in folder.rglob("*.py") if "tests" not in path.parts)


def imports(path, types=True):
    """Every import of a file as a list of absolute dotted names.

    ``from a.b import c`` counts as ``a.b.c``. Imports inside functions count too, those
    under ``if TYPE_CHECKING`` unless `types` is False.
    """
    base = ADAPTERS if ADAPTERS in path.parents else ROOT
    package = path.relative_to(base).parent.parts
    names = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unread = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            unread |= set() if types else set(ast.walk(node))
    for node in ast.walk(tree):
        if node in unread:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def is_in(name, package):
    return name == package or name.startswith(package + ".")


def offenders(folder, forbidden):
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files(folder)
        for name in imports(path)
        if forbidden(name)
    ]


def run(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_import_reader_resolves_relative_and_nested_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "ADAPTERS", tmp_path / "adapters")
    path = tmp_path / "pkg" / "core" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import numpy as np\n"
        "from . import b\n"
        "from .c import d\n"
        "def f():\n"
        "    from ..e import g\n"
    )
    expected = ["numpy", "pkg.core.b", "pkg.core.c.d", "pkg.e.g"]
    assert sorted(imports(path)) == expected


# The rooms of the core, from the ground up: each may import those above it in this list
# and files of its own room, and nothing else. The picture in docs/contributing.rst.
FLOORS = [
    "arrays limits",
    "deadline",
    "certificate doubled linalg",
    "patterns solution",
    "problem",
    "initial refit",
    "search",
    "improvers",
    "plans",
    "solve",
    "path",
]


def graph_of(folder):
    """Which modules each module imports, those of the type checker alone left out."""
    modules = {}
    for path in python_files(folder):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts).removesuffix(".__init__")] = path
    graph = {}
    for name, path in modules.items():
        known = {
            found if found in modules else found.rpartition(".")[0]
            for found in imports(path, types=False)
        }
        graph[name] = {other for other in known if other in modules and other != name}
    return graph


def test_no_import_goes_in_a_circle():
    graph = graph_of(ESTIMATOR)
    assert graph["chita_sklearn.core.solve"] >= {"chita_sklearn.core.plans"}
    tuple(TopologicalSorter(graph).static_order())  # a CycleError names the circle


def test_rooms_of_the_core_import_those_below_alone():
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}
    found = {path.stem for path in CORE.glob("[a-z]*")} | set(floor)
    assert found == set(floor)
    for name, others in graph_of(CORE).items():
        if name == "chita_sklearn.core":
            continue
        room = name.split(".")[2]
        for other in others - {"chita_sklearn.core"}:
            below = other.split(".")[2]
            assert below == room or floor[below] < floor[room], f"{name}: {other}"


def test_no_file_of_the_core_asks_what_class_a_problem_is():
    inside = CORE / "problem"
    classes = {
        node.name
        for path in python_files(inside)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    assert classes >= {"LeastSquares", "ManyTargets"}
    for path in python_files(CORE):
        if inside in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "isinstance",
                "issubclass",
                "type",
            ):
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                assert not names & classes, f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert node.attr != "__class__", f"{path}:{node.lineno}"


def lines_of_code(path):
    """(name, lines) of each function, without docstrings, comments and blank lines."""
    source = path.read_text(encoding="utf-8")
    silent = (
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
        *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
    )
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            code |= set(range(token.start[0], token.end[0] + 1))
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for node in functions:
        if ast.get_docstring(node) is not None:
            code -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    for node in functions:
        lines = code & set(range(node.lineno, node.end_lineno + 1))
        yield f"{path.stem}.{node.name}", len(lines)


def test_functions_of_the_core_have_at_most_60_lines():
    lengths = dict(pair for path in python_files(CORE) for pair in lines_of_code(path))
    assert lengths["solve.solve"] > 30  # the count counts
    assert not {name: lines for name, lines in lengths.items() if lines > 60}


def test_adapters_folder_is_not_a_package():
    assert ADAPTERS.is_dir()
    assert not (ADAPTERS / "__init__.py").exists()


def test_both_packages_are_marked_as_typed():
    assert (ESTIMATOR / "py.typed").exists()
    assert (TORCH / "py.typed").exists()


def test_core_knows_no_scikit_learn():
    assert python_files(CORE)
    assert not offenders(CORE, lambda name: is_in(name, "sklearn"))


def test_core_imports_nothing_above_it():
    def above(name):
        return is_in(name, "chita_sklearn") and not is_in(name, "chita_sklearn.core")

    assert not offenders(CORE, above)


@pytest.mark.parametrize("package", ["torch", "array_api_compat.torch", "chita_torch"])
def test_the_estimator_never_imports_torch(package):
    assert not offenders(ESTIMATOR, lambda name: is_in(name, package))


def test_private_parts_of_scikit_learn_pass_through_compat_alone():
    def private(name):
        return is_in(name, "sklearn") and any(
            part.startswith("_") for part in name.split(".")
        )

    found = offenders(ESTIMATOR, private)
    assert not [line for line in found if not line.startswith("chita_sklearn/_compat")]


def test_the_torch_adapter_sees_the_core_and_nothing_else_of_ours():
    def beside_core(name):
        return is_in(name, "chita_sklearn") and not is_in(name, "chita_sklearn.core")

    assert not offenders(TORCH, beside_core)


def test_array_api_checks_are_switched_on():
    from scipy._lib import _array_api

    assert os.environ["SCIPY_ARRAY_API"] == "1"
    # SciPy read the variable when it was imported: set late, it has no effect.
    assert _array_api.SCIPY_ARRAY_API


def test_version_is_that_of_the_installed_distribution():
    assert importlib.metadata.version("chita-sklearn") == chita_sklearn.__version__


def test_public_names_exist():
    assert "ChitaRegressor" in dir(chita_sklearn)
    for name in chita_sklearn.__all__:
        assert getattr(chita_sklearn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Chita'"):
        chita_sklearn.Chita  # noqa: B018


def test_importing_the_estimator_brings_no_optional_library():
    # scikit-learn loads pandas and rich by itself where they are installed.
    first = "import sys, sklearn.linear_model, sklearn.utils.parallel"
    if find_spec("sklearn.callback"):
        first += ", sklearn.callback"
    code = first + "{}; print(*sys.modules)"
    before = set(run(code.format("")).split())
    after = set(run(code.format(", chita_sklearn.regressor")).split())
    assert "chita_sklearn.core.solve" in after - before
    unwanted = {"torch", "cupy", "matplotlib", "pandas", "rich", "tqdm", "chita_torch"}
    assert not unwanted & (after - before)


def test_core_is_usable_without_scikit_learn():
    code = """
import sys
sys.modules["sklearn"] = None  # any import of it fails from here on
import numpy as np
from chita_sklearn.core import Cardinality, LeastSquares, solve
X = np.random.default_rng(0).standard_normal((20, 5))
solution = solve(LeastSquares(X, 3 * X[:, 2]), Cardinality(1))
print(*np.flatnonzero(solution.support))
"""
    assert run(code).split() == ["2"]


def importable(name):
    """Whether a dotted name is a module, or stands in one."""
    if find_spec(name.rpartition(".")[0]) is None:
        return False
    module = importlib.import_module(name.rpartition(".")[0])
    return hasattr(module, name.rpartition(".")[2]) or find_spec(name) is not None


@pytest.mark.parametrize("folder", ["benchmarks", "docs", "examples"])
def test_scripts_import_only_what_exists(folder):
    """Imports inside functions too: those of a benchmark run hours later."""
    if not (ROOT / folder).is_dir():
        pytest.skip(f"{folder}/ is not in this distribution")
    pytest.importorskip("torch")
    ours = [
        (path, name)
        for path in python_files(ROOT / folder)
        for name in imports(path)
        if name.partition(".")[0] in ("chita_sklearn", "chita_torch") and "." in name
    ]
    assert ours
    assert [(path.name, name) for path, name in ours if not importable(name)] == []


def test_every_file_that_states_the_version_states_the_same():
    if not (ROOT / "CITATION.cff").exists():
        pytest.skip("not in this distribution")
    for name in ("CITATION.cff", "recipe/recipe.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        stated = re.findall(r'^ *version: "?([\d.]+)"?$', text, re.MULTILINE)
        assert stated == [chita_sklearn.__version__], name


# Builtins, and functions of the standard library, NumPy, joblib and torch: what runs
# code that data bring.
EVALUATES, UNPICKLES = {"eval", "exec", "compile", "__import__"}, {"load", "loads"}


def test_nothing_is_unpickled_or_evaluated():
    """A call of such a name is allowed where it is told to read numbers alone."""
    found = []
    for path in [*python_files(ESTIMATOR), *python_files(TORCH)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None)]
                names += [alias.name for alias in node.names]
                unsafe = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
                found += [(path.name, name) for name in names if name in unsafe]
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            numbers = options.get("weights_only") is True
            unpickles = name.split(".")[-1] in UNPICKLES and not numbers
            if name in EVALUATES or unpickles:
                found.append((path.name, f"{name}, line {node.lineno}"))
    assert found == []


def test_every_file_that_is_said_to_test_a_promise_exists():
    page = ROOT / "docs" / "guide" / "promises.rst"
    if not page.exists():
        pytest.skip("docs are not here")
    named = re.findall(r"``(tests/[\w/]+\.py)``", page.read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_profile_knows_the_files_of_the_core():
    from benchmarks.profile import OPERATIONS

    named = {name for files in OPERATIONS.values() for name in files}
    assert named <= {path.stem for path in python_files(CORE)}


@pytest.mark.parametrize("name", ["user_script", "user_network"])
def test_the_scripts_that_type_checkers_read_run(name, tmp_path):
    if name == "user_network":
        pytest.importorskip("torch")
    script = ROOT / "tests" / "typing" / f"{name}.py"
    # As a user has it: SciPy's switch for other array libraries is not set.
    environment = {k: v for k, v in os.environ.items() if k != "SCIPY_ARRAY_API"}
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_picture_of_the_house_names_every_room_of_the_core():
    picture = (ROOT / "docs" / "_static" / "house.svg").read_text()
    core = ROOT / "chita_sklearn" / "core"
    rooms = {path.stem for path in core.rglob("*.py")} - {"__init__"}
    assert {room for room in rooms if not re.search(rf"\b{room}\b", picture)} == set()
