"""The documentation says what the source does: messages, snippets, tables, pages."""

import ast
import doctest
import importlib
import re
import runpy
import sys
import threading
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PLACEHOLDER = "…"
# Raised and caught inside the package, or by Python's own import machinery.
INTERNAL = {"chita_sklearn/core/linalg.py", "chita_sklearn/__init__.py"}

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="docs are not here")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")


# --- Messages: source, page, reality --------------------------------------------------


def template(node):
    """Return a string literal with its values replaced, None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = node.values
        return "".join(
            p.value if isinstance(p, ast.Constant) else PLACEHOLDER for p in parts
        )
    return None


def messages_of_the_source():
    from chita_sklearn.core import Status

    found = {Status.MAX_ITER.value, Status.NOT_UNIQUE.value}
    files = [*(ROOT / "chita_sklearn").rglob("*.py")]
    files += (ROOT / "adapters" / "chita_torch").glob("*.py")
    for path in files:
        if path.relative_to(ROOT).as_posix() in INTERNAL or "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                text = template(node.value)
                if node.targets[0].id == "msg" and text:
                    found.add(text.strip())
    return {text for text in found if text.strip(PLACEHOLDER + " ")}


def messages_of_the_page():
    if not DOCS.exists():  # collected from a source distribution
        return []
    text = (DOCS / "troubleshooting.rst").read_text(encoding="utf-8")
    return re.findall(r"^``(.+)``$", text, re.MULTILINE)


def test_every_message_of_the_source_is_on_the_page():
    assert sorted(messages_of_the_source() - set(messages_of_the_page())) == []


def test_every_message_on_the_page_is_in_the_source():
    assert sorted(set(messages_of_the_page()) - messages_of_the_source()) == []


def test_no_message_is_listed_twice():
    listed = messages_of_the_page()
    assert len(listed) == len(set(listed))


X = np.random.default_rng(0).standard_normal((20, 6))
Y = X[:, 0] + 0.1 * X[:, 1]


class _OnDevice:
    """What an array in GPU memory looks like from outside."""

    shape = (20, 6)

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **_):
        raise BufferError


class _Elsewhere:
    """What a dask collection looks like from outside."""

    def __dask_graph__(self):
        return {}


def _regression():
    """Calls that provoke each message of `chita_sklearn`."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import make_scorer

    from chita_sklearn import (
        ChitaRegressor,
        ChitaRegressorCV,
        ChitaSelector,
        CVDisplay,
        Moments,
        PathDisplay,
        aic,
        bic,
        chita_path,
        ebic,
        moments,
    )
    from chita_sklearn.core import (
        BlockDiagonal,
        BlockLeastSquares,
        Cardinality,
        Groups,
        Including,
        LeastSquares,
        ManyTargets,
        WithFloor,
        solve,
    )
    from chita_sklearn.core.refit.backsolve import backsolver

    def fit(X=X, y=Y, sample_weight=None, **options):
        return ChitaRegressor(2, **options).fit(X, y, sample_weight)

    def cv(sample_weight=None, ks=2, **options):
        return ChitaRegressorCV(ks, **options).fit(X, Y, sample_weight)

    twice = np.hstack([X, X])
    rng = np.random.default_rng(1)
    wide = rng.standard_normal((40, 60))
    first_half = np.arange(20) < 10
    halves = [(np.arange(10), np.arange(10, 20)), (np.arange(10, 20), np.arange(10))]
    problem = LeastSquares(X, Y, ridge=1.0)
    blocks = BlockLeastSquares([problem, problem])
    fitted = fit()

    def elsewhere():
        from array_api_strict import asarray

        fitted.coef_ = asarray(np.ones(6))
        fitted.predict(X)

    def without_matplotlib():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
            PathDisplay.from_path(chita_path(X, Y, 2)).plot()

    def without_pandas():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(__import__("sys").modules, "pandas", None)
            fitted.summary()

    def without_tqdm():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(__import__("sys").modules, "tqdm", None)
            moments(X, Y, progress=True)

    def on_strict():
        from array_api_strict import asarray
        from sklearn import config_context

        with config_context(array_api_dispatch=True):
            ChitaRegressor(2).partial_fit(asarray(X), asarray(Y))

    def gram(x=X, y=Y, yty=None, **means):
        means = {"x_mean": x.mean(axis=0), "y_mean": y.mean(), **means}
        yty = y @ y if yty is None else yty
        return Moments.from_gram(x.T @ x, x.T @ y, yty, len(y), **means)

    def seen(names=None, y=Y):
        import pandas

        return Moments().update(pandas.DataFrame(X, columns=names or [*"abcdef"]), y)

    def frame(**columns):
        import pandas

        return pandas.DataFrame(X, columns=[*"abcdef"]).assign(**columns)

    sums, two = Moments().update(X, Y), Moments().update(X, np.column_stack([Y, Y]))

    def of_an_older_release():
        model = fit()
        del model.standardize
        model.fit(X, Y)

    return [
        of_an_older_release,
        lambda: cv(cv=[]),
        lambda: cv(cv=[0, 1]),
        lambda: fit(X=np.ma.masked_less(X, -1.0)),
        lambda: fit(X=wide[:2], y=[0.0, 1.0]),
        lambda: ChitaSelector(2, estimator=ChitaRegressorCV()).fit(X, Y),
        without_pandas,
        lambda: ChitaRegressor(1, 1e-2, standardize=False).fit(X * [1e-3, *[1] * 5], Y),
        lambda: ChitaRegressorCV(1, [1.0, 10.0]).fit(X, X @ np.arange(6.0)),
        lambda: cv(cv=[(np.arange(0), np.arange(20))]),
        lambda: cv(cv=[(np.ones(12) > 0, np.arange(20))]),
        lambda: cv(cv=[(np.arange(10), np.arange(30))]),
        lambda: fit().partial_fit(X, Y),
        lambda: ChitaRegressor().fit_moments(Moments()),
        lambda: Moments().update(np.broadcast_to(1.0, (2, 30_000)), [1.0, 2.0]),
        lambda: Moments().update(X * np.nan, Y),
        lambda: Moments().update(frame(a="text"), Y),
        lambda: seen().update(frame().rename(columns={"a": "z"}), Y),
        lambda: Moments().update(X, Y).update(X[:, :2], Y),
        lambda: Moments().update(X, Y).update(X, np.column_stack([Y, Y])),
        lambda: Moments().update(X, Y[:3]),
        lambda: moments(X, Y[:3]),
        lambda: chita_path(two, None, 2),
        lambda: sums.merge(X),
        lambda: seen().merge(seen([*"fedcba"])),
        lambda: gram(x_mean=[0.0]),
        lambda: gram(x=twice),
        lambda: gram(yty=0.1),
        lambda: sums.mean_squared_error([1.0]),
        lambda: ChitaRegressor().fit_moments(X),
        lambda: chita_path(sums, Y, 2),
        lambda: ChitaRegressorCV(2).fit_moments(sums),
        lambda: ChitaRegressorCV(2, scoring="neg_max_error").fit_moments([sums, sums]),
        lambda: moments(X, Y, folds=1),
        lambda: moments(X, Y, folds=[0, 1]),
        lambda: moments(X, Y, np.zeros(20)),
        without_tqdm,
        on_strict,
        lambda: fit(X=wide, y=wide @ rng.standard_normal(60), ridge=0.0, max_iter=1),
        lambda: ChitaRegressor(10, 0.0, max_iter=1, solver="iht").fit(
            wide, wide @ rng.standard_normal(60)
        ),
        lambda: ChitaRegressor(8, 0.0).fit(twice, Y),
        lambda: fit(y=scipy.sparse.csr_array(Y[:, None])),
        lambda: fit(sample_weight=-np.ones(20)),
        lambda: fit(sample_weight=np.zeros(20)),
        lambda: fit(coef_prior=[1.0]),
        lambda: fit(coef_prior={"a": 1.0}),
        lambda: fit(coef_prior=[np.nan] * 6),
        lambda: chita_path(X, np.column_stack([Y, Y]), 2),
        lambda: fit(X=X * 1e200),
        lambda: fit(ridge=1.0, coef_prior=np.full(6, 1e200)),
        lambda: chita_path(X, Y, 2, ridge=1.0, coef_prior=np.full(6, 1e200)),
        lambda: fit(solver="dual", ridge=0.0, X=wide[:20]),
        lambda: chita_path(X, Y, []),
        lambda: chita_path(X, Y, [-1]),
        lambda: cv(ridges=[-1.0]),
        lambda: cv(ridges=[]),
        lambda: cv(criterion="bic", selection="one_se"),
        lambda: cv(sample_weight=first_half.astype(float), cv=halves),
        lambda: cv(sample_weight=first_half.astype(float), cv=halves[:1]),
        lambda: cv(sample_weight=first_half.astype(float), cv=halves[1:]),
        lambda: cv(scoring=make_scorer(lambda *_: np.nan)),
        lambda: ebic(10, 1.0, 1, n_features=5, gamma=2),
        lambda: ebic(10, 1.0, 9, n_features=5),
        lambda: bic(0, 1.0, 1),
        lambda: aic(10, -1.0, 1),
        lambda: PathDisplay.from_path(chita_path(X, Y, 2)).plot(kind="neither"),
        lambda: PathDisplay.from_estimator(fit()),
        lambda: PathDisplay.from_estimator(Ridge().fit(X, Y), X, Y),
        lambda: CVDisplay.from_estimator(fit()),
        lambda: ebic(10, 1.0, 2, n_features=2.5),
        without_matplotlib,
        lambda: fit(X=_OnDevice()),
        lambda: fit(X=_Elsewhere()),
        elsewhere,
        lambda: solve(problem, Cardinality(2), solver="magic"),
        lambda: BlockLeastSquares([]),
        lambda: BlockDiagonal([]),
        lambda: ManyTargets(np.eye(2), np.ones((1, 3))),
        lambda: ManyTargets(np.eye(2), np.ones((1, 2)), mu=-1),
        lambda: ManyTargets(np.eye(2), np.ones((1, 2)), weights=np.zeros(1)),
        lambda: BlockLeastSquares([problem, LeastSquares(X, Y)]),
        lambda: WithFloor(1, [0, 0, 1, 1], [1, 1]),
        lambda: Including(1, [0, 1]),
        lambda: fit(always_include=[0, 1, 2]),
        lambda: fit(always_include=["age"]),
        lambda: fit(always_include=[6]),
        lambda: fit(positive=[1, 2]),
        lambda: Groups(1, [0, 1], [0, 1]),
        lambda: fit(groups=[0, 1]),
        lambda: fit(groups=[0] * 6, positive=True),
        lambda: PathDisplay.from_path(
            chita_path(X, np.column_stack([Y, X]), 2, target_support="shared")
        ),
        lambda: fit(n_solutions=2, positive=True),
        lambda: fit(solver="dual", positive=True),
        lambda: solve(blocks, Cardinality(2), solver="swap"),
        lambda: backsolver(SimpleNamespace(structure="diagonal")),
    ]


def _pruning():
    """Calls that provoke each message of `chita_torch`."""
    import torch
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.checkpoint import checkpoint

    import chita_torch
    from chita_torch import (
        GradualPruner,
        distributed,
        gradients,
        keep_pruned,
        prune,
        ranks,
        refit,
    )
    from chita_torch import statistics as moments

    torch.manual_seed(0)
    data = torch.randn(64, 8)
    batches = list(data.split(8))

    def net():
        return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))

    def loss(model, batch):
        return (model(batch) - batch[:, :2]).square().mean()

    def run(model=None, data=batches, loss=loss, **options):
        given = {"sparsity", "density", "pattern", "scope"} & set(options)
        options = {
            **({} if given else {"sparsity": 0.5}),
            "samples_per_gradient": 2,
            "random_state": 0,
            "progress": False,
            **options,
        }
        return prune(net() if model is None else model, data, loss, **options)

    def optimizer(model):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    class Extra(nn.Module):
        def __init__(self, extra):
            super().__init__()
            self.layer, self.extra = nn.Linear(8, 2), extra

        def forward(self, x):
            return self.layer(x)

    def parameter(values):
        return nn.Parameter(values, requires_grad=False)

    class Moving:
        def __iter__(self):
            return iter(torch.randn(64, 8, generator=self.source).split(8))

        source = torch.Generator()

    def overflow(model, batch):
        return (model(batch) * 1e30).square().mean()

    def only_after(model, batch):
        # Finite for the model as given alone.
        value = loss(model, batch)
        zeros = sum(int((p == 0).sum()) for p in model.parameters())
        return value * (float("nan") if zeros else 1.0)

    def no_memory():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gradients, "available_bytes", lambda device: 1000)
            run(objective="gradients")

    def no_memory_for_moments():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moments, "available_bytes", lambda device: 1000)
            run(objective="reconstruction")

    def overlapping():
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        whole = torch.randn(12, 8)
        model[0].weight.data, model[1].weight.data = whole[:8], whole[4:]
        run(model)

    def greedy(model, batch):
        torch.empty(2**50)
        return loss(model, batch)

    def spread():
        model = net()
        with FakeTensorMode():
            model[2].weight = nn.Parameter(torch.empty(2, 4, device="cuda"))
        run(model)

    def removed():
        hold = keep_pruned(model, optimizer(model))
        hold.remove()
        with hold:
            pass

    def resumed():
        other = net()
        pruner = GradualPruner(
            other,
            optimizer(other),
            batches,
            loss,
            at=[0],
            sparsity=0.5,
            samples_per_gradient=2,
            progress=False,
        )
        pruner.load_state_dict({"count": 3})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codes = torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8)
        csr = torch.eye(3).to_sparse_csr()
    eighths = torch.ones(3, 3).to(torch.float8_e4m3fn)
    holds_codes = nn.Module()
    holds_codes.register_buffer("qweight", torch.ones(3, dtype=torch.int8))

    class Again(nn.Module):
        """A checkpoint of a frozen network."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner.requires_grad_(requires_grad=False)

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Wide(nn.Module):
        """Knows how wide its first layer is."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 4), nn.Linear(4, 2)
            nn.init.zeros_(self.second.weight[:, :2])

        def forward(self, x):
            return self.second(torch.relu(self.first(x))) / self.first.out_features

    class Experts(nn.Module):
        """Two, the second of which no sample reaches."""

        def __init__(self):
            super().__init__()
            self.gate, self.up = nn.Linear(8, 2), parameter(torch.randn(2, 8, 2))

        def forward(self, x):
            return self.gate(x)[:, :1] + x @ self.up[0]

    def without_torch():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "torch", None)
            importlib.reload(chita_torch)

    def sharded():
        from torch.distributed.tensor import DTensor, Shard, init_device_mesh

        with fake_ranks():
            mesh = init_device_mesh("cpu", (2,))
            model, half = net(), [Shard(0)]
            weight = DTensor.from_local(torch.ones(2, 8), mesh, half)
            model[0].weight = nn.Parameter(weight)
            keep_pruned(model, optimizer(model))

    def held_by_others():
        from torch.distributed import new_group
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import init_device_mesh

        with fake_ranks():
            model = fully_shard(net(), mesh=init_device_mesh("cpu", (2,)))
            run(model, group=new_group([0]))

    def gathered_behind_our_back():
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import init_device_mesh

        from chita_torch.shards import Whole

        with fake_ranks():
            model = fully_shard(net(), mesh=init_device_mesh("cpu", (2,)))
            model.unshard()
            with Whole(model) as change:
                model.unshard()
                change.commit()

    def wrapped():
        from torch.distributed.fsdp import FullyShardedDataParallel

        class Wrapper(FullyShardedDataParallel):
            def __init__(self):
                nn.Module.__init__(self)

        keep_pruned(Wrapper(), "SGD")

    def masked_by_head():
        from chita_torch.attention import FewerHeads

        x, mask = torch.randn(1, 3, 4), torch.zeros(2, 3, 3)
        FewerHeads(nn.MultiheadAttention(4, 2))(x, x, x, attn_mask=mask)

    def on_one_of_two():
        with fake_ranks():
            run()

    def on_two(fail=None, **options):
        from torch.distributed import all_gather

        def closed(*args, **kwargs):
            raise RuntimeError("Connection closed by peer")

        with fake_ranks() as group, pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranks, "_channel_of", lambda group, timeout: group)
            if fail == "raised":
                said = ["", "ValueError: no."]
                patch.setattr(ranks.Ranks, "_flags", lambda self, text: said)
            if fail == "gone":
                patch.setattr(ranks.dist, "all_gather", closed)
            run(group=group, **options)
        assert all_gather is ranks.dist.all_gather

    def without_threads():
        def refused(thread):
            raise RuntimeError("can't start new thread")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            run(objective="reconstruction")

    def group_of_another():
        with fake_ranks():
            run(group=-100)

    def other_targets():
        with pytest.MonkeyPatch.context() as patch:
            every = [torch.zeros(32), torch.ones(32)]
            patch.setattr(distributed._Packets, "gather", lambda self, x: every)
            distributed.fit_columns(data, data[:, 0], k=1)

    def not_solved():
        from chita_sklearn.core import Cardinality, Sharded, solve

        comm = distributed._Arrays(ranks.Ranks())
        problem = Sharded(data.numpy(), data[:, 0].numpy(), comm)
        solve(problem, Cardinality(2), time_limit=1.0)

    def two_types():
        from chita_sklearn.core import Sharded

        comm = distributed._Arrays(ranks.Ranks())
        comm.gather = lambda x: [x, x + 4]
        Sharded(data.numpy(), data[:, 0].numpy(), comm)

    class Padded:
        class batch_sampler:
            even_batches, split_batches, num_processes = True, False, 2

            class batch_sampler:
                sampler, batch_size = range(63), 8

        def __iter__(self):
            return iter(batches)

    class DataLoaderDispatcher(Padded):
        """As accelerate's is called."""

    model = net()
    return [
        without_torch,
        without_threads,
        lambda: run(Extra(nn.Linear(3, 3))),
        lambda: prune(net(), batches, loss, progress=False),
        lambda: run(sparsity=0.5, density=0.5),
        lambda: run(sparsity=1.0),
        lambda: run(pattern="4:2"),
        lambda: run(pattern="2:4", sparsity=0.5),
        lambda: run(pattern="units", sparsity=0.5, objective="gradients"),
        lambda: on_two(pattern="units", sparsity=0.5),
        lambda: run(nn.Linear(8, 2), pattern="units", sparsity=0.5),
        lambda: run(pattern="units", sparsity=0.999),
        masked_by_head,
        lambda: run(scope="all"),
        lambda: run(scope={"0": 0.5}, exclude="0"),
        lambda: run(scope="layer", sparsity=0.5, min_density=0.1),
        lambda: run(sparsity=0.9, min_density=0.2),
        lambda: run(include="nothing"),
        lambda: run(cost="time"),
        lambda: run(cost="flops", pattern="2:4"),
        lambda: run(include=[1]),
        lambda: run(nn.LayerNorm(8)),
        lambda: run(nn.Sequential(nn.LazyLinear(2))),
        lambda: run(nn.Linear(6, 2, device="meta")),
        spread,
        lambda: run(device="mps"),
        lambda: run(nn.utils.parametrizations.weight_norm(nn.Linear(6, 2))),
        lambda: run(Extra(parameter(torch.ones(3).long())), include="*extra"),
        lambda: run(
            Extra(parameter(torch.ones(3).long())), include=lambda n, p: n == "extra"
        ),
        lambda: run(Extra(parameter(torch.tensor(1.0))), include=lambda n, p: True),
        lambda: run(schedule="square"),
        lambda: run(schedule=lambda t, stages: 0.5),
        lambda: run(stages=0),
        lambda: run(first_order="never"),
        lambda: run(ridge=-1.0),
        lambda: run(calibration=0, objective="gradients"),
        lambda: run(data=iter(batches)),
        lambda: run(data=[]),
        lambda: run(data=Moving()),
        lambda: run(samples_per_gradient=16),
        lambda: run(data=batches[:1]),
        lambda: run(data=["text"]),
        lambda: run(data=[(torch.ones(8, 8), torch.ones(7))] * 3),
        lambda: run(split="samples"),
        lambda: run(split=lambda batch: batch),
        lambda: run(loss=lambda model, batch: model(batch).sum().item()),
        lambda: run(
            data=[*batches[:-1], batches[0] * float("nan")],
            calibration=0,
            ridge=1.0,
            first_order=True,
            objective="gradients",
        ),
        lambda: run(data=[*batches[:-1], batches[0] * float("nan")], calibration=0),
        lambda: run(loss=overflow),
        lambda: run(loss=only_after),
        lambda: run(loss=only_after, objective="gradients"),
        no_memory,
        no_memory_for_moments,
        lambda: run(objective="speed"),
        lambda: run(loss=None, objective="gradients"),
        lambda: run(
            nn.Sequential(net(), nn.Flatten(0)), loss=None, objective="reconstruction"
        ),
        lambda: refit(net(), batches),
        lambda: refit(net(), batches, masks={"x": torch.ones(2) > 0}),
        lambda: refit(net(), batches, dense={"0.weight": torch.ones(2)}),
        lambda: keep_pruned(model, "SGD"),
        lambda: keep_pruned(model, []),
        lambda: keep_pruned(model, optimizer(net())),
        lambda: run(torch.jit.script(net())),
        lambda: run(loss=lambda model, batch: loss(model, batch).detach()),
        lambda: run(loss=lambda _, batch: loss(model, batch)),
        lambda: run(Extra(parameter(codes)), include="extra"),
        lambda: run(holds_codes),
        lambda: run(Extra(parameter(csr)), include="extra"),
        lambda: run(Extra(parameter(eighths)), include="extra"),
        lambda: run(Experts()),
        lambda: run(Again(net()), objective="reconstruction"),
        overlapping,
        lambda: run(loss=greedy),
        lambda: keep_pruned(model, optimizer(model), {"x": torch.ones(2) > 0}),
        lambda: GradualPruner(model, optimizer(model), batches, loss, at=[]),
        lambda: run(scope={}),
        lambda: run(nn.Sequential(nn.Linear(8, 2), nn.LazyBatchNorm1d())),
        lambda: run(random_state=2**64),
        lambda: run(device="gpu"),
        lambda: run([net()]),
        lambda: run(loss=nn.MSELoss()),
        lambda: run(data=[(torch.ones(8, 8), np.ones(8))] * 3),
        lambda: keep_pruned(model, optimizer(model), []),
        lambda: run().apply_to(net(), weights={}),
        lambda: chita_torch.compact(Branching(), torch.ones(3)),
        lambda: chita_torch.compact(Wide(), torch.randn(3, 8)),
        lambda: keep_pruned(model, optimizer(model), {"0.weight": torch.ones(4, 8)}),
        removed,
        resumed,
        sharded,
        held_by_others,
        gathered_behind_our_back,
        wrapped,
        on_one_of_two,
        on_two,  # (The stand-in for a second rank has what this one has.)
        lambda: on_two("raised"),
        lambda: on_two("gone"),
        lambda: on_two(data=Padded()),
        lambda: on_two(data=DataLoaderDispatcher()),
        lambda: on_two(
            model=nn.Sequential(nn.Linear(8, 2), nn.SyncBatchNorm(2)),
        ),
        lambda: run(group="all"),
        lambda: run(timeout=0),
        group_of_another,
        lambda: distributed.fit_columns(data, data, k=1),
        lambda: distributed.fit_columns(data * float("nan"), data[:, 0], k=1),
        other_targets,
        not_solved,
        two_types,
        lambda: ranks._check_equal("x", [torch.ones(1), torch.zeros(1)]),
    ]


@contextmanager
def fake_ranks():
    """Let torch.distributed say that there are two ranks."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def _said(calls):
    """What the calls warn of and fail with."""
    texts = []
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                call()
            except Exception as error:
                texts.append(str(error))
        texts += [str(warning.message) for warning in caught]
    return texts


@pytest.fixture(scope="module")
def said():
    texts = _said(_regression())
    if find_spec("torch") is not None:
        texts += _said(_pruning())
    return texts


@needs_torch
@pytest.mark.parametrize("message", messages_of_the_page())
def test_every_message_on_the_page_can_be_provoked(said, message):
    pattern = re.escape(message).replace(re.escape(PLACEHOLDER), ".*")
    assert any(re.search(pattern, text, re.DOTALL) for text in said)


# --- Snippets, tables, files ----------------------------------------------------------


def snippets():
    if not DOCS.exists():
        return
    text = (DOCS / "quick_start.rst").read_text(encoding="utf-8")
    block = re.compile(r"^\.\. run::\n\n((?:   .*\n|\n)+)", re.MULTILINE)
    for match in block.finditer(text):
        code = re.sub(r"^   ", "", match.group(1), flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 3
        yield pytest.param(line, code, id=f"line-{line}")


@pytest.mark.parametrize(("line", "code"), list(snippets()))
def test_quick_start_runs(line, code):
    if "torch" in code and find_spec("torch") is None:
        pytest.skip("needs torch")
    source = "\n" * (line - 1) + code
    exec(compile(source, "docs/quick_start.rst", "exec"), {"__name__": "__main__"})


def test_every_python_block_of_the_how_tos_runs_in_the_build():
    pages = [DOCS / "index.rst", DOCS / "quick_start.rst", *DOCS.glob("how_to/*.rst")]
    assert len(pages) > 8
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "code-block:: python" not in text, page
        assert "code:: python" not in text, page


def test_a_run_block_shows_what_a_session_would():
    pytest.importorskip("sphinx")
    executed = runpy.run_path(str(DOCS / "_ext" / "run.py"))["_executed"]
    names = {}
    assert executed("a = 2\nprint('said')\na + 1", names, "page:1") == "said\n3"
    assert executed("a", names, "page:2") == "2"
    assert executed("None", names, "page:3") == ""
    warned = executed("import warnings\nwarnings.warn('odd')", names, "page:4")
    assert warned == "UserWarning: odd"
    with pytest.raises(ZeroDivisionError):
        executed("1 / 0", names, "page:5")


def test_dead_links_and_pictures_without_text_are_found(tmp_path):
    faults = runpy.run_path(str(DOCS / "_ext" / "links.py"))["faults"]
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#here"></a><a href="#top"></a>'
        '<a href="https://x.org/none"></a><img src="b.html" alt="text">'
    )
    (tmp_path / "b.html").write_text('<p id="here"></p>')
    assert not faults(tmp_path)
    (tmp_path / "c.html").write_text(
        '<a href="none.html"></a><a href="b.html#there"></a><img src="b.html">'
    )
    assert len(faults(tmp_path)) == 3


def test_the_constraints_of_the_guide_do_what_it_says():
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    page = str(DOCS / "guide" / "constraints.rst")
    failed, ran = doctest.testfile(page, module_relative=False, optionflags=options)
    assert ran > 5
    assert not failed


def snippets_for_contributors():
    text = (DOCS / "contributing.rst").read_text(encoding="utf-8")
    found = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", text)
    return [re.sub(r"^   ", "", code, flags=re.MULTILINE) for code in found]


def test_the_pattern_of_the_contributors_guide_works():
    from chita_sklearn.core import LeastSquares, solve

    names = {}
    exec(snippets_for_contributors()[0], names)
    for solver in ("swap", "dual", "iht"):
        problem = LeastSquares(X, Y + X[:, 2], ridge=1e-3)
        solution = solve(problem, names["EveryOther"](2, 6), solver=solver)
        assert np.flatnonzero(solution.coef).tolist() == [0, 2]


def test_the_improver_of_the_contributors_guide_works():
    names = {}
    exec(snippets_for_contributors()[1], names)
    assert np.flatnonzero(names["found"].coef).tolist() == [3, 5]
    again = names["screening"](names["problem"], names["Cardinality"](2), None)
    kept = names["screening"](names["problem"], names["Cardinality"](1), again)
    assert kept is again


def test_every_table_that_the_benchmarks_page_names_exists():
    # Those that neither it nor another table names are found by "others".
    pages = (path.read_text(encoding="utf-8") for path in DOCS.glob("benchmarks*.md"))
    shown = {name for page in pages for name in re.findall(r"\{measured\} (\w+)", page)}
    written = {p.stem.removeprefix("benchmarks_") for p in DOCS.glob("benchmarks_*.md")}
    assert "others" in shown
    assert shown - {"others"} <= written


def test_every_file_that_the_pages_name_exists():
    folders = ["", "chita_sklearn", "chita_sklearn/core", "adapters", "benchmarks"]
    folders += ["adapters/chita_torch", "docs", "tests"]
    for page in (*DOCS.glob("*.rst"), *DOCS.glob("guide/*.rst")):
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"``([\w/]+\.py)``", text):
            assert any((ROOT / folder / name).exists() for folder in folders), name


def test_examples_do_not_reach_for_the_network():
    for path in (ROOT / "examples").glob("plot_*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"fetch_|urllib|requests|http://|https://", text), path
