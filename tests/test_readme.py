"""Every Python block of the README runs on its own, and prints what is below it."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL
)
NUMBER = re.compile(r"\d+\.\d+")


def blocks():
    text = README.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield pytest.param(line, *match.groups(), id=f"line-{line}")


@pytest.mark.parametrize(("line", "code", "shown"), list(blocks()))
def test_a_block_of_the_readme_prints_what_is_below_it(line, code, shown, capsys):
    for package in ("torch", "chita_torch"):
        if re.search(rf"^(import|from) {package}\b", code, re.MULTILINE):
            spec = find_spec(package)
            if spec is None or spec.origin is None:
                pytest.skip(f"needs {package}")
    # Blank lines in front make a traceback name the README's own line.
    source = "\n" * line + code
    exec(compile(source, str(README), "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert shown is not None, f"nothing is below this, which prints:\n{printed}"
    assert NUMBER.sub("x", printed) == NUMBER.sub("x", shown)
    # Losses after training depend on the release of torch and on the processor.
    tolerance = 0.05 if "torch" in code else 1e-9
    numbers = ([*map(float, NUMBER.findall(text))] for text in (printed, shown))
    assert next(numbers) == pytest.approx(next(numbers), abs=tolerance)


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
