"""`multilevel`: expectations of the SDE itself, against exact ones and a simulation written another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.estimation import _multilevel

KEY = jax.random.key(0)
RATE, HESSIAN, START = 0.4, 1.5, 0.7
PROBLEM = js.Problem(js.Quadratic([HESSIAN]), js.Gaussian(1.0))
FUNCTIONS = {"square": lambda x: x[0] ** 2, "cos": lambda x: jnp.cos(x[0])}


def _exact(time):
    mean, variance = START * np.exp(-HESSIAN * time), RATE * (1 - np.exp(-2 * HESSIAN * time)) / (2 * HESSIAN)
    return {"square": mean**2 + variance, "cos": np.cos(mean) * np.exp(-variance / 2)}


@pytest.mark.parametrize("start", [jnp.full(1, START), lambda key: jnp.full(1, START)], ids=["controlled", "plain"])
def test_the_law_of_sgds_sde_is_exact(start):
    wanted = {"square": 5e-4, "cos": 3e-4}
    found = js.multilevel(js.SGD(RATE).sde(PROBLEM), start, FUNCTIONS, steps=3, stderr=wanted, key=KEY, progress=False)
    for name, exact in _exact(3 * RATE).items():
        value = found[name]
        assert value.stderr <= wanted[name]
        assert abs(value.bias) < wanted[name]
        assert abs(value.mean - exact) < 6 * value.stderr + 2 * abs(value.bias)
    assert found.t == pytest.approx(3 * RATE)
    if callable(start):
        seeds = [level.seeds for level in found.levels]
        assert seeds == sorted(seeds, reverse=True) and seeds[0] > 20 * seeds[-1]
        assert found.gain > 2


@pytest.mark.sweep
def test_sign_sgds_sde_is_that_of_small_steps():
    problem = js.Problem(js.Quadratic([1.0]), js.StudentT(3.0, 1.0))
    opt = js.SignSGD(0.3)
    found = js.multilevel(
        opt.sde(problem), jnp.full(1, 1.0), {"loss": problem.loss}, steps=5, stderr=2e-4, key=KEY, progress=False
    )
    # dX = -(2 F(x) - 1) dt + sqrt(eta) sqrt(1 - (2 F - 1)^2) dW with F of Student's t with three degrees of freedom.
    rng, x, small = np.random.default_rng(1), np.ones(400_000), 0.3 / 64
    for _ in range(5 * 64):
        u = x / np.sqrt(3)
        drift = 2 / np.pi * (np.arctan(u) + u / (1 + u**2))
        x = x - small * drift + np.sqrt(0.3 * small * (1 - drift**2)) * rng.standard_normal(x.size)
    brute, stderr = np.mean(0.5 * x**2), np.std(0.5 * x**2) / np.sqrt(x.size)
    assert abs(found["loss"].mean - brute) < 6 * np.hypot(stderr, found["loss"].stderr) + 2e-4


def test_levels_are_added_until_the_solver_is_exact_enough():
    sde = js.SGD(RATE).sde(PROBLEM)
    run = dict(steps=3, key=KEY, progress=False)
    rough, fine = (js.multilevel(sde, jnp.full(1, START), FUNCTIONS, stderr=e, **run) for e in (1e-2, 1e-4))
    assert len(rough.levels) == 3 < len(fine.levels)
    assert [level.substeps for level in fine.levels] == [2**i for i in range(len(fine.levels))]
    # Each difference is half the one before, as of a scheme of weak order 1.
    last, before = (level.mean["square"] for level in (fine.levels[-1], fine.levels[-2]))
    assert before / last == pytest.approx(2, abs=0.2)


def test_a_solver_error_that_stays_is_said(monkeypatch):
    monkeypatch.setattr(_multilevel, "_MOST_LEVELS", 3)
    with pytest.warns(UserWarning, match="solver's error in square"):
        js.multilevel(
            js.SGD(RATE).sde(PROBLEM), jnp.full(1, START), {"square": lambda x: x[0] ** 2}, steps=3, stderr=1e-4, key=KEY,
            progress=False,
        )  # fmt: skip


def test_values_of_any_shape_have_the_error_in_each_place():
    sde = js.SignSGD(0.2).sde(js.Problem(js.Quadratic([1.0, 3.0]), js.Gaussian(1.0)))
    found = js.multilevel(sde, jnp.ones(2), {"xx": lambda x: x**2}, steps=5, stderr=2e-3, key=KEY, progress=False)
    assert found["xx"].mean.shape == (2,) and np.all(found["xx"].stderr <= 2e-3)
    table = js.reporting.multilevel_table(found)
    assert "xx[1]" in table and "substeps" in table and "times as many solver steps" in table


def test_a_seed_is_drawn_once():
    """Levels and rounds have keys of their own, and the same call gives the same numbers."""
    run = dict(steps=3, stderr=1e-3, progress=False)
    sde = js.SGD(RATE).sde(PROBLEM)
    start = lambda key: jnp.full(1, START)
    one, same, other = (js.multilevel(sde, start, FUNCTIONS, key=jax.random.key(n), **run)["cos"].mean for n in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(stderr={"square": 1e-3}), ValueError, "stderr must have a number for each of square, cos"),
        (dict(stderr=0.0), ValueError, "stderr"),
        (dict(stderr=1e-9), ValueError, "2\\^30"),
        (dict(pilot=1), ValueError, "pilot"),
        (dict(substeps=0), ValueError, "substeps"),
        (dict(sde=js.SGD(RATE).chain(PROBLEM)), TypeError, "sde must be"),
        (dict(functions={}), ValueError, "functions"),
    ],
)
def test_what_cannot_be_is_refused(change, error, message):
    start = lambda key: jnp.full(1, START)
    arguments = dict(
        sde=js.SGD(RATE).sde(PROBLEM), x0=start, functions=FUNCTIONS, steps=3, stderr=1e-3, key=KEY, progress=False
    )
    with pytest.raises(error, match=message):
        js.multilevel(**(arguments | change))


def test_where_all_seeds_diverge_there_is_no_expectation():
    problem = js.Problem(lambda x: -jnp.sum(x**4), js.Gaussian(1.0))
    with pytest.raises(ValueError, match="no finite mean and variance: 1024 of 1024 seeds diverged"):
        js.multilevel(
            js.SGD(0.5).sde(problem),
            jnp.ones(1),
            {"square": lambda x: x[0] ** 2},
            steps=50,
            stderr=0.1,
            key=KEY,
            progress=False,
        )


def test_every_run_has_a_key_of_its_own(monkeypatch):
    """Seeds that are added to a level are others than those it has, and no two levels share theirs."""
    keys = []

    def kept(function):
        def called(*arguments, key, **more):
            keys.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))
            return function(*arguments, key=key, **more)

        return called

    for name in ("expectations", "two_levels"):
        monkeypatch.setattr(_multilevel, name, kept(getattr(_multilevel, name)))
    start = lambda key: jnp.full(1, START)
    js.multilevel(js.SGD(RATE).sde(PROBLEM), start, FUNCTIONS, steps=3, stderr=1e-3, key=KEY, progress=False)
    assert len(keys) > 4 and len(set(keys)) == len(keys)


def test_the_standard_error_counts_the_last_difference_twice():
    sums = [
        _multilevel._Sums(n, {"g": np.asarray(m)}, {"g": np.asarray(v)}, {"g": np.asarray(v)}, 0)
        for n, m, v in ((100, 1.0, 4.0), (50, 0.5, 2.0), (10, 0.25, 1.0))
    ]
    limit = _multilevel._limit(sums, "g")
    assert limit.mean == 1 + 0.5 + 2 * 0.25
    assert limit.stderr == pytest.approx(np.sqrt(4 / 100 + 2 / 50 + 4 * 1 / 10))
    # Least cost: seeds in proportion to the weighted deviation over the root of the cost of 1, 3 and 6 solver steps.
    seeds = np.array(_multilevel._seeds(sums, {"g": 1e-3}, 1))
    np.testing.assert_allclose(seeds / seeds[0], [1, np.sqrt(2 / 3) / 2, 2 * np.sqrt(1 / 6) / 2], rtol=1e-3)
    assert np.sum(np.array([4.0, 2.0, 4.0]) / seeds) == pytest.approx(1e-6, rel=1e-3)
