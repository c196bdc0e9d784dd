"""Removing groups one by one: against refits of every set on the way."""

import numpy as np
import pytest

from chita_sklearn.core.search.groups import GroupSearch


def problem(seed, lengths=(2, 2, 1, 3, 2), t=4):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(lengths)), lengths)
    A = rng.standard_normal((40, len(labels)))
    A += 0.8 * A[:, :1]
    H = A.T @ A + 0.1 * np.eye(len(labels))
    return H, A.T @ rng.standard_normal((40, t)), labels


def explained(H, g, S):
    return 0.5 * np.sum(g[S] * np.linalg.solve(H[np.ix_(S, S)], g[S]))


@pytest.mark.parametrize("seed", range(5))
def test_each_step_costs_what_a_refit_says_and_no_other_group_costs_less(seed):
    H, g, labels = problem(seed)
    search = GroupSearch(H, g, labels, 1, np.empty(0, dtype=int))
    order, lost = search.backward()
    assert sorted(order) == list(range(5))
    whole = explained(H, g, np.arange(len(labels)))
    left = set(range(5))
    for step, group in enumerate(order):
        costs = {
            G: whole - explained(H, g, np.flatnonzero(np.isin(labels, [*left - {G}])))
            for G in left
        }
        assert costs[group] == pytest.approx(min(costs.values()))
        left.remove(group)
        assert lost[step + 1] == pytest.approx(costs[group])
    assert lost[-1] == pytest.approx(whole)


def test_several_at_once_end_at_the_same_total_and_rise_all_the_way():
    H, g, labels = problem(0, lengths=(1,) * 12)
    search = GroupSearch(H, g, labels, 1, np.empty(0, dtype=int))
    order, lost = search.backward(at_once=3)
    assert sorted(order) == list(range(12))
    assert (np.diff(lost) >= 0).all()
    assert lost[-1] == pytest.approx(explained(H, g, np.arange(12)))


def test_groups_without_any_effect_go_first_at_no_cost():
    H, g, labels = problem(1)
    for group in (1, 3):
        index = labels == group
        H[index], H[:, index], g[index] = 0.0, 0.0, 0.0
    search = GroupSearch(H, g, labels, 1, np.empty(0, dtype=int))
    order, lost = search.backward()
    assert set(order[:2]) == {1, 3}
    assert lost[2] == pytest.approx(0.0, abs=1e-12)
