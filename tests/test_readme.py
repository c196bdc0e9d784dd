"""Every Python block of the README runs as it stands, each on its own."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks():
    text = README.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield pytest.param(line, match.group(1), id=f"line-{line}")


@pytest.mark.parametrize(("line", "code"), list(blocks()))
def test_readme_block_runs(line, code):
    for package in ("torch", "chita_torch"):
        if re.search(rf"^(import|from) {package}\b", code, re.MULTILINE):
            spec = find_spec(package)
            if spec is None or spec.origin is None:
                pytest.skip(f"needs {package}")
    # Blank lines in front make a traceback name the README's own line.
    source = "\n" * line + code
    exec(compile(source, str(README), "exec"), {"__name__": "__main__"})


def test_readme_shows_regression_tuning_and_pruning():
    text = "\n".join(param.values[1] for param in blocks())
    for name in ("ChitaRegressor(", "GridSearchCV(", "prune("):
        assert name in text


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "RELEASING.md"])
def test_files_that_are_linked_to_exist(name):
    if not (README.parent / "docs").exists():
        pytest.skip("a source distribution has neither docs nor this file")
    text = (README.parent / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (README.parent / target).exists(), target
