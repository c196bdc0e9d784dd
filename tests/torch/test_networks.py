"""Random networks, pruned in every way (`tests.fuzz_networks`): some of them here."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
_spec = importlib.util.spec_from_file_location(
    "chita_fuzz_networks", Path(__file__).parents[1] / "fuzz_networks.py"
)
fuzz = importlib.util.module_from_spec(_spec)
sys.modules["chita_fuzz_networks"] = fuzz
_spec.loader.exec_module(fuzz)


# Those beyond the first found something: frozen layers in a checkpoint (44, 87),
# experts that get other samples once layers before them are pruned (93, 137), a
# parametrization computed under no_grad (185).
SEEDS = [*range(16), 44, 87, 93, 137, 185]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", SEEDS)
def test_budgets_are_exact_and_the_rest_untouched_or_an_error_is_clear(seed):
    assert fuzz.faults(seed) == []


def test_the_networks_are_of_many_kinds():
    kinds = set()
    for seed in range(60):
        fuzz.torch.manual_seed(seed)
        model, dtype = fuzz.Maker(fuzz.random.Random(seed)).network()
        kinds |= {dtype, *(type(m).__name__ for m in model.modules())}
        kinds |= {m.function for m in model.modules() if isinstance(m, fuzz.Called)}
    assert {"GRU", "MultiheadAttention", "ConvTranspose2d", "DataParallel"} <= kinds
    assert {fuzz.mixed, fuzz.listed, fuzz.adapted, fuzz.checkpointed} <= kinds
    assert fuzz.torch.bfloat16 in kinds
