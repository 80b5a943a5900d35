import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from spillover.statistics.clustered import (
    ClusteredMean,
    clustered_mean,
    draw_clusters,
    equivalence_p,
    sign_flip_p,
)

STREAM = np.random.SeedSequence(0)


def clustered_values(sizes, seed=0):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=len(sizes))[clusters] + rng.normal(size=sum(sizes)), clusters


def fit(values, clusters):
    model = sm.OLS(values, np.ones(len(values)))
    return model.fit(cov_type="cluster-crv3", cov_kwds={"groups": clusters}, use_t=True)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 40, 8, 120, 16), (1,) * 30])
@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_error_and_interval_equal_those_of_statsmodels(sizes, alpha):
    values, clusters = clustered_values(sizes)
    mean, reference = clustered_mean(values, clusters), fit(values, clusters)
    assert mean.value == pytest.approx(reference.params[0], abs=1e-12)
    assert mean.se == pytest.approx(reference.bse[0], rel=1e-9)
    assert mean.interval(alpha) == pytest.approx(reference.conf_int(alpha)[0], rel=1e-9)


def test_the_case_worked_by_hand_in_the_docs():
    # four templates of three items; 3, 2, 2 and 1 of them now wrong
    values = -np.array([1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 0, 0], dtype=float)
    clusters = np.repeat(["a", "b", "c", "d"], 3)
    mean = clustered_mean(values, clusters)
    assert mean.value == pytest.approx(-8 / 12)
    assert mean.se == pytest.approx(np.sqrt(3 / 4 * 2 / 81))
    assert mean.interval() == pytest.approx((-1.0997, -0.2336), abs=1e-4)
    assert sign_flip_p(values, clusters, 10_000, STREAM) == 1 / 8


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3, 3), (1, 9, 2, 5, 30, 4), (2, 2, 60, 2, 2, 2, 2)])
def test_sign_flips_equal_brute_force_with_the_t_of_statsmodels(sizes):
    values, clusters = clustered_values(sizes, seed=len(sizes))
    observed = abs(fit(values, clusters).tvalues[0])
    count = 0
    for signs in itertools.product([1, -1], repeat=len(sizes)):
        flipped = values * np.array(signs)[clusters]
        count += abs(fit(flipped, clusters).tvalues[0]) >= observed * (1 - 1e-9)
    assert sign_flip_p(values, clusters, 10_000, STREAM) == count / 2 ** len(sizes)


def test_sign_flips_of_equal_clusters_equal_the_permutation_test_of_scipy():
    values, clusters = clustered_values((5,) * 8, seed=3)
    totals = values.reshape(8, 5).sum(axis=1)
    reference = stats.permutation_test(
        (totals,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(values, clusters, 10_000, STREAM) == reference.pvalue


@pytest.mark.parametrize("unit", [0.1, 1])
def test_no_change_but_for_rounding_is_no_change(unit):
    values = unit * np.array([1, 2, -3, 4, -4])
    assert sign_flip_p(values, np.arange(5), 10_000, STREAM) == 1
    twice = unit * np.array([1, 2, -3, 1, 2, -3])
    assert sign_flip_p(twice, np.arange(6), 10_000, STREAM) == 1


def test_random_sign_flips_come_close_to_all_of_them(monkeypatch):
    values, clusters = clustered_values((4, 8, 12) * 5, seed=4)
    exact = sign_flip_p(values, clusters, 100_000, STREAM)
    monkeypatch.setattr("spillover.statistics.clustered.EXACT_UP_TO", 0)
    drawn = sign_flip_p(values, clusters, 100_000, STREAM)
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 100_000))


def test_random_p_is_never_0_and_counts_the_data_themselves():
    # twenty clusters that all rise: only 2 in 2**20 patterns are as extreme
    values, clusters = np.ones(40), np.repeat(np.arange(20), 2)
    assert sign_flip_p(values, clusters, 999, STREAM) == 1 / 1000


def test_quantities_tested_together_get_what_they_get_alone():
    values, clusters = clustered_values((3,) * 20)
    several = np.column_stack([values, values - 0.5, 0 * values])
    together = sign_flip_p(several, clusters, 5000, STREAM)
    alone = [sign_flip_p(column, clusters, 5000, STREAM) for column in several.T]
    assert together.tolist() == alone
    assert together[2] == 1


def test_nothing_changed_is_p_1_and_no_error():
    clusters = np.repeat(np.arange(20), 3)
    assert sign_flip_p(np.zeros(60), clusters, 100, STREAM) == 1
    assert clustered_mean(np.zeros(60), clusters) == ClusteredMean(0, 0, 20, 60)
    assert clustered_mean(np.zeros(3), np.zeros(3)) == ClusteredMean(0, 0, 1, 3)


def test_changes_that_cancel_in_every_cluster_are_p_1():
    values = np.tile([0.1, 0.2, -0.3], 20)  # sums that are 0 but for the last bit
    assert sign_flip_p(values, np.repeat(np.arange(20), 3), 100, STREAM) == 1


def test_one_cluster_tells_nothing_about_its_variation():
    mean = clustered_mean(np.array([1.0, 0.0]), ["a", "a"])
    assert (mean.value, mean.clusters) == (0.5, 1)
    assert np.isnan([mean.se, *mean.interval(), equivalence_p(mean, 0.02)]).all()
    assert sign_flip_p(np.array([1.0, 0.0]), ["a", "a"], 100, STREAM) == 1


def test_undefined_values_stay_undefined():
    values, clusters = np.full(4, np.nan), np.array([0, 0, 1, 1])
    assert np.isnan(sign_flip_p(values, clusters, 100, STREAM))
    assert np.isnan(sign_flip_p(np.array([]), np.array([]), 100, STREAM))
    assert np.isnan(clustered_mean(values, clusters).se)
    assert np.isnan(clustered_mean(np.array([]), np.array([])).value)


def test_equivalence_is_two_one_sided_t_tests():
    values, clusters = clustered_values((6,) * 12)
    margin = abs(values.mean()) + 0.5
    reference = fit(values, clusters)
    one_sided = [
        reference.t_test(([[1.0]], -margin)).pvalue / 2,  # mean above -margin
        reference.t_test(([[1.0]], margin)).pvalue / 2,
    ]
    found = equivalence_p(clustered_mean(values, clusters), margin)
    assert found == pytest.approx(float(np.max(one_sided)), rel=1e-9)


@pytest.mark.parametrize(("value", "p"), [(0, 0.98**200), (0.019, 0.98**200), (0.02, 1), (-0.5, 1)])
def test_without_any_variation_equivalence_goes_by_how_many_did_not_vary(value, p):
    assert equivalence_p(ClusteredMean(value, 0.0, 5, 200), 0.02) == pytest.approx(p)


def test_that_few_did_not_change_is_not_equivalence():
    # 149 is the first n with 0.98^n below 0.05.
    for n, shown in ((20, False), (148, False), (149, True)):
        mean = clustered_mean(np.zeros(n), np.arange(n) % 10)
        assert (equivalence_p(mean, 0.02) < 0.05) is shown
    # Changes that cancel within each template: templates are what did not vary.
    swapped = clustered_mean(np.tile([1.0, -1.0], 100), np.repeat(np.arange(100), 2))
    assert (swapped.value, swapped.se, swapped.alike) == (0, 0, 100)
    assert equivalence_p(swapped, 0.02) == pytest.approx(0.98**100)


def test_means_of_clusters_that_are_drawn_anew_vary_as_their_standard_error():
    values = np.random.default_rng(0).normal(size=6)
    weights = draw_clusters(6, 20_000, STREAM)
    assert weights[0].tolist() == [1] * 6
    means = weights[1:] @ values / weights[1:].sum(1)
    assert means.std() == pytest.approx(values.std(ddof=1) / np.sqrt(6), rel=0.02)
    assert (draw_clusters(1, 10, STREAM) == 1).all()
