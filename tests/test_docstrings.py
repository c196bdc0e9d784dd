"""Docstrings of all that is public follow numpydoc."""

import inspect
from importlib import import_module
from importlib.util import find_spec

import pytest

PACKAGES = ("chita_sklearn", "chita_sklearn.core", "chita_torch", "chita_dask")
# As in the project's lint: an extended summary, examples and "See Also" are not asked
# for everywhere, nor a description of each cross-reference.
IGNORED = {"ES01", "EX01", "SA01", "SA04"}
# Docstrings of a line or two name their parameters in the sentence.
IN_A_SENTENCE = {"PR01", "RT01", "RT03", "YD01"}


def public_objects():
    for package in PACKAGES:
        library = {"chita_torch": "torch", "chita_dask": "dask"}.get(package)
        if library and find_spec(library) is None:
            continue
        module = import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            yield f"{package}.{name}"
            if inspect.isclass(thing):
                for method, value in vars(thing).items():
                    # Methods that a base class describes need not do so again.
                    described = inspect.isfunction(value) and (
                        value.__doc__ or not inspect.getdoc(getattr(thing, method))
                    )
                    if described and not method.startswith("_"):
                        yield f"{package}.{name}.{method}"


def errors_of(path):
    from numpydoc.validate import validate

    result, ignored = validate(path), set(IGNORED)
    if "Parameters\n" not in result["docstring"]:
        # Dataclasses describe their fields as attributes, which they are as well.
        ignored |= IN_A_SENTENCE
    if path.startswith("chita_sklearn.core."):
        # Descriptions may be formulas: "A w. One pass over X."
        ignored |= {"PR08", "SS02", "SS05"}
    return [f"{code}: {text}" for code, text in result["errors"] if code not in ignored]


@pytest.mark.parametrize("path", list(public_objects()))
def test_docstring_is_valid(path):
    pytest.importorskip("numpydoc")
    assert errors_of(path) == []
