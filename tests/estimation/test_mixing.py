"""How laws come to the stationary one: against the exact laws of SGD, and of SignSGD's chain by its transition matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsde as js

KEY = jax.random.key(0)
ONE = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
ETA, START = 0.1, 3.0


def _mix(process, x0=START, **more):
    settings = dict(key=KEY, seeds=4000, steps=512, progress=False) | more
    return js.mixing(process, jnp.full(1, x0), **settings)


def _exact(cdf_at, steps, grid):
    """Distances of SGD-like laws, of two neighbouring steps each, from the mean of those of the second half."""
    pairs = np.stack([(cdf_at(k, grid) + cdf_at(k + 1, grid)) / 2 for k in range(1, steps, 2)])
    difference = pairs - pairs[len(pairs) // 2 :].mean(axis=0)
    return np.trapezoid(np.abs(difference), grid, axis=1), np.max(np.abs(difference), axis=1)


@pytest.fixture(scope="module")
def sgd():
    """What is found, and what is exact: the distances, and the largest differences, at the times of 256 pairs."""
    found = _mix(js.SGD(ETA).chain(ONE))
    grid = np.linspace(-4, 4, 4001)

    def cdf(k, x):
        variance = ETA**2 * (1 - (1 - ETA) ** (2 * k)) / (1 - (1 - ETA) ** 2)
        return scipy.stats.norm.cdf(x, START * (1 - ETA) ** k, np.sqrt(variance))

    return found, *_exact(cdf, 512, grid)


def test_distances_are_those_of_the_exact_laws(sgd):
    found, exact, _ = sgd
    x = found.laws["x"]
    # With stride 1 there are as many pairs as halves of 512 steps.
    assert found.ts.shape == (256,) and found.ts[0] == pytest.approx(1.5 * ETA)
    far = exact > 3 * x.chance[:, 0]
    assert far.sum() > 12
    off = np.abs(x.distance[:, 0] - exact)[far]
    assert np.all(off < 5.5 * x.stderr[far, 0] + 0.01 * exact[far])
    # In the end nothing but sampling is left, which chance bounds in 95 % of cases.
    late = slice(128, None)
    assert np.mean(x.distance[late, 0] > x.chance[late, 0]) < 0.2
    assert np.all(x.chance < 0.02)


def test_the_rate_is_that_of_the_mean(sgd):
    found, _, _ = sgd
    rate = found.laws["x"].rates[0]
    assert rate.interval[0] - rate.stderr < -np.log(1 - ETA) / ETA < rate.interval[1] + 3 * rate.stderr
    assert rate.stderr < 0.02 * rate.rate
    # The loss falls like the square, once the start is far; here its law has both.
    assert found.laws["loss"].rates[0].rate > rate.rate


def test_the_mixing_time_is_that_of_the_exact_laws(sgd):
    found, _, largest = sgd
    x = found.laws["x"]
    ts = ETA * (np.arange(1, 512, 2) + 0.5)
    i = np.flatnonzero(largest > 0.25)[-1]
    exact = np.interp(-0.25, -largest[i : i + 2], ts[i : i + 2])
    assert abs(x.mixing_time[0] - exact) < 5.5 * x.mixing_time_stderr[0] + 0.01
    assert 0 < x.mixing_time_stderr[0] < 0.1


def test_sign_sgds_lattice_has_two_parities_and_an_exact_law():
    """The transition matrix of the walk on its lattice, in the place of a simulation."""
    found = _mix(js.SignSGD(ETA).chain(ONE), x0=1.0)
    points = ETA * np.arange(-30, 31)
    up = scipy.stats.norm.cdf(-points)
    matrix = np.diag(up[:-1], 1) + np.diag(1 - up[1:], -1)
    law, cdfs = (np.abs(points - 1.0) < 1e-9).astype(float), []
    for _ in range(513):
        cdfs.append(np.cumsum(law))
        law = law @ matrix
    grid = points + ETA / 2
    exact, _ = _exact(lambda k, _: cdfs[k], 512, grid)
    x = found.laws["x"]
    far = exact > 3 * x.chance[:, 0]
    assert far.sum() > 8
    assert np.all(np.abs(x.distance[:, 0] - exact)[far] < 5.5 * x.stderr[far, 0] + 0.03 * exact[far])
    late = slice(128, None)
    assert np.mean(x.distance[late, 0] > x.chance[late, 0]) < 0.2


def test_a_picture_of_mixing(sgd, tmp_path):
    found, _, _ = sgd
    ax = js.reporting.plot_mixing({"optimizer": found})
    assert [line.get_label().split(",")[0] for line in ax.lines] == ["optimizer"] * 3 and ax.get_yscale() == "log"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), found.laws["x"].distance[:, 0])
    assert js.reporting.plot_mixing({"one": found, "two": found}, "loss", ax=ax) is ax
    ax.figure.savefig(tmp_path / "mixing.png")


def test_steps_are_found_and_what_does_not_settle_is_said():
    found = _mix(js.SGD(ETA).sde(ONE), x0=0.0, steps=None, seeds=400, observe={"x": lambda x: x})
    assert list(found.laws) == ["x"] and found.steps >= 256
    assert found.laws["x"].rates == (None,)  # whose mean is at the minimum from the start
    with pytest.raises(ValueError, match="has not settled within"):
        _mix(js.SGD(1e-4).chain(ONE), steps=None, seeds=64, max_steps=512)


BAD = {
    "no process": (lambda: js.mixing(js.SGD(0.1), jnp.ones(1), key=KEY), TypeError, "process must be an optimizer's chain"),
    "few steps": (lambda: _mix(js.SGD(0.1).chain(ONE), steps=10), ValueError, "steps must be at least 256, got 10"),
    "one seed": (lambda: _mix(js.SGD(0.1).chain(ONE), seeds=1), ValueError, "seeds must be at least 2, got 1"),
    "no observable": (lambda: _mix(js.SGD(0.1).chain(ONE), observe={}), ValueError, "observe must hold at least one"),
    "a wide observable": (
        lambda: _mix(js.SGD(0.1).chain(ONE), observe={"x": lambda x: jnp.ones(65) * x}, seeds=2),
        ValueError, "observe.'x'. has 65 numbers, of which laws are kept for at most 64",
    ),
    "divergence": (lambda: _mix(js.SGD(30.0).chain(ONE), seeds=4), ValueError, "no law to settle"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    bad, error, message = BAD[name]
    with pytest.raises(error, match=message):
        bad()


def test_edges_increase_whatever_the_values_are():
    from jaxsde.estimation._mixing import _edges

    random = np.random.default_rng(0)
    for values in (random.normal(size=999), np.zeros(9), np.full(5, 7.0), 1e5 + 1e-3 * random.normal(size=99), [np.nan],
                   random.standard_cauchy(9999), np.arange(5.0), 1e-30 * random.normal(size=99)):  # fmt: skip
        edges = _edges(np.asarray(values, np.float32)[None, :, None])
        assert edges.shape == (1, 269) and np.all(np.diff(edges) > 0) and np.all(np.isfinite(edges))
