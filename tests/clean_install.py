"""Wheel and sdist in empty environments, used as by someone new.

`make package` runs it and shows the times. Its name keeps it out of `make test`: it
builds, installs and takes minutes.
"""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S
)
# The wheel with what pruning needs, the sdist with nothing beside its dependencies.
CASES = {"wheel": ("*.whl", "[torch]"), "sdist": ("*.tar.gz", "")}


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    # The sdist from the tree, the wheel from the sdist.
    run(sys.executable, "-m", "build", "--outdir", str(folder), cwd=ROOT)
    return folder


@pytest.fixture(scope="session", params=CASES)
def python(request, built, tmp_path_factory):
    """The interpreter of an environment that holds one of them and nothing else."""
    pattern, extras = CASES[request.param]
    (archive,) = built.glob(pattern)
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=True)
    python = next(folder.glob("[bS]*/python*"))
    constraints = ["-c", str(ROOT / "constraints.txt")]
    install = [str(python), "-m", "pip", "install", "--quiet", *constraints]
    run(*install, f"{archive}{extras}", cwd=folder)
    return python


def test_both_packages_are_there_with_their_types_and_nothing_else(python, tmp_path):
    code = (
        "from importlib.metadata import files\n"
        "print(*{str(file) for file in files('chita-sklearn')}, sep='\\n')"
    )
    names = run(python, "-I", "-c", code, cwd=tmp_path).split()
    packages = {"chita_sklearn", "chita_torch", "chita_dask"}
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    folders = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert folders == packages


def test_a_type_checker_reads_the_types(python, tmp_path):
    code = "from chita_sklearn import ChitaRegressor\nreveal_type(ChitaRegressor())"
    command = [sys.executable, "-m", "mypy", "--python-executable", str(python)]
    revealed = run(*command, "-c", code, cwd=tmp_path)
    assert "chita_sklearn.regressor.ChitaRegressor" in revealed


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_readme_block_runs(python, code, tmp_path, request):
    extras = CASES[request.node.callspec.params["python"]][1]
    if "torch" in code and not extras:
        pytest.skip("needs torch")
    script = tmp_path / "block.py"
    script.write_text(code, "utf-8")
    assert run(python, "-I", str(script), cwd=tmp_path)
