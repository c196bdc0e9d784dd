"""scikit-learn's own checks on the estimator, and that none of them sleeps."""

import inspect
import os

import numpy as np
import pytest
from sklearn import config_context
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_array_api_input,
    parametrize_with_checks,
)

from chita_sklearn import ChitaRegressor, ChitaSelector
from chita_sklearn._compat import HAS_ARRAY_API


@parametrize_with_checks(
    [
        ChitaRegressor(),
        ChitaRegressor(k=3, ridge=0.1, n_restarts=2),
        ChitaRegressor(k=0.5, solver="iht"),
        ChitaRegressor(k=3, solver="swap", n_restarts=0),
        # Seeded: a check that sets `random_state` does not reach the estimator inside.
        ChitaSelector(estimator=ChitaRegressor(random_state=0)),
        ChitaSelector(2, estimator=ChitaRegressor(ridge=0.1, random_state=0)),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_array_api_dispatch_is_possible_in_this_session():
    # Without it the array API checks above skip silently, and all looks green.
    assert os.environ.get("SCIPY_ARRAY_API") == "1"
    with config_context(array_api_dispatch=True):
        ChitaRegressor().fit(np.eye(3), np.ones(3))


@pytest.mark.array_api
@pytest.mark.parametrize(
    ("namespace", "device", "dtype"),
    [
        ("numpy", None, None),
        ("array_api_strict", "CPU_DEVICE", "float64"),
        ("array_api_strict", "device1", "float32"),
    ],
)
def test_array_api_checks_run(namespace, device, dtype):
    # Called directly, so that a check that skips itself would show as skipped here.
    check_array_api_input(
        "ChitaRegressor",
        ChitaRegressor(),
        array_namespace=namespace,
        device_name=device,
        dtype_name=dtype,
    )


def test_tags_tell_what_is_supported():
    tags = get_tags(ChitaRegressor())
    assert tags.array_api_support is HAS_ARRAY_API
    assert tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
    assert tags.target_tags.multi_output
    assert not tags.regressor_tags.poor_score
    assert not tags.non_deterministic


def test_init_stores_its_parameters_and_nothing_else():
    signature = inspect.signature(ChitaRegressor.__init__)
    defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name != "self"
    }
    assert vars(ChitaRegressor()) == defaults


def test_every_parameter_is_validated():
    parameters = ChitaRegressor().get_params()
    assert set(ChitaRegressor._parameter_constraints) == set(parameters)


@pytest.mark.parametrize("name", list(ChitaRegressor().get_params()))
def test_a_parameter_of_no_sensible_type_is_refused_with_a_remedy(name):
    model = ChitaRegressor(**{name: object()})
    with pytest.raises(
        (TypeError, ValueError), match=rf"'{name}' parameter.*Got.*instead\. Pass"
    ):
        model.fit(np.eye(3), np.ones(3))
