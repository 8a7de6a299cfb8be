"""An SDE at two solver steps on the same noise: exact joint moments, and what extrapolation makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.estimation._control import couple
from jaxsde.estimation._levels import two_levels
from jaxsde.processes import TwoLevels

KEY = jax.random.key(0)
RATE, STEPS, HESSIAN, START = 0.4, 5, 1.5, 0.7
PROBLEM = js.Problem(js.Quadratic([HESSIAN]), js.Gaussian(1.0))
START_DRAWN = lambda key: jnp.full(1, START)  # drawn, so that there are no control variates


def _ornstein_uhlenbeck(substeps):
    """Euler's factor over a fine and over a coarse step, and the variance of a fine increment, of SGD's SDE."""
    h = RATE / substeps
    return 1 - h * HESSIAN, 1 - 2 * h * HESSIAN, RATE * h


def _fourth(factor, variance, steps):
    """The fourth moment after steps x -> factor x + n with normal n."""
    mean, spread = factor**steps * START, variance * (1 - factor ** (2 * steps)) / (1 - factor**2)
    return mean**4 + 6 * mean**2 * spread + 3 * spread**2


def test_both_levels_and_their_distance_have_the_exact_second_moments():
    substeps, seeds = 4, 40_000
    pair = TwoLevels(js.SGD(RATE).sde(PROBLEM).discretised(substeps, "three-point"))
    observe = {
        "fine": lambda seen: seen.fine[0] ** 2,
        "coarse": lambda seen: seen.coarse[0] ** 2,
        "apart": lambda seen: (seen.fine[0] - seen.coarse[0]) ** 2,
    }
    run = js.simulate(pair, jnp.full(1, START), steps=STEPS, seeds=seeds, key=KEY, observe=observe, progress=False)
    a, b, variance = _ornstein_uhlenbeck(substeps)
    fine = coarse = product = START**2
    for _ in range(STEPS * substeps // 2):
        # Both take the increments n and n': F <- a (a F + n) + n', C <- b C + n + n'.
        fine = a**4 * fine + (a**2 + 1) * variance
        coarse = b**2 * coarse + 2 * variance
        product = a**2 * b * product + (a + 1) * variance
    for name, exact in (("fine", fine), ("coarse", coarse), ("apart", fine + coarse - 2 * product)):
        stderr = float(run[name].stderr[-1])
        assert abs(float(run[name].mean[-1]) - exact) < 6 * stderr
        assert stderr < 0.01 * exact


@pytest.mark.parametrize("start", [jnp.full(1, START), START_DRAWN], ids=["controlled", "plain"])
def test_fourth_moments_are_those_of_normal_increments_at_both_levels(start):
    """The sums of two-point increments have fourth moments of their own, by which extrapolation would be off."""
    substeps, seeds = 2, 1_000_000
    found = two_levels(
        js.SGD(RATE).sde(PROBLEM), start, {"x^4": lambda x: x[0] ** 4}, steps=STEPS, seeds=seeds, key=KEY, substeps=substeps,
        progress=False,
    )["x^4"]  # fmt: skip
    a, b, variance = _ornstein_uhlenbeck(substeps)
    fine, coarse = _fourth(a, variance, 2 * STEPS), _fourth(b, 2 * variance, STEPS)
    for value, exact in ((found.difference, fine - coarse), (found.extrapolated, 2 * fine - coarse)):
        assert abs(value.mean[-1] - exact) < 6 * value.stderr[-1]
        assert value.stderr[-1] < 0.01 * abs(exact)
    assert (found.extrapolated.reduction[-1] > 1) is not callable(start)


def test_the_fine_level_is_the_run_without_the_coarse_one():
    """Of Adam, whose SDE starts after a few steps of the optimizer, in groups of steps; and the coarse one takes that start."""
    sde = js.AdamW(0.1, b1=0.8, b2=0.9).sde(js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.5)), start_steps=3)
    fine = sde.discretised(4, "three-point")
    run = dict(steps=9, seeds=5, key=KEY, every=1, reduce=js.Samples(), progress=False)
    alone = js.simulate(fine, jnp.ones(2), observe={"x": lambda x: x}, **run)["x"].values
    both = js.simulate(TwoLevels(fine), jnp.ones(2), observe={"f": lambda s: s.fine, "c": lambda s: s.coarse}, **run)
    np.testing.assert_allclose(both["f"].values, alone, rtol=1e-5)
    np.testing.assert_array_equal(both["f"].values[:4], both["c"].values[:4])
    apart = np.abs(np.asarray(both["f"].values[4:] - both["c"].values[4:]))
    assert np.all(apart > 0) and np.max(apart) < 0.05


def test_companions_are_those_of_each_level_alone():
    sde = js.RMSprop(0.1, 0.9).sde(js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(0.5)))
    fine, coarse = (couple(sde, jnp.ones(2), n, "three-point") for n in (4, 2))
    run = dict(steps=6, seeds=4, key=KEY, reduce=js.Samples(), progress=False)
    see = lambda seen: jnp.stack([seen.mean, seen.deviation])
    pair = TwoLevels(fine.process, fine.companion)
    both = js.simulate(pair, jnp.ones(2), observe={"f": lambda s: see(s.fine), "c": lambda s: see(s.coarse)}, **run)
    alone = js.simulate(fine, jnp.ones(2), observe={"f": see}, **run)
    np.testing.assert_allclose(both["f"].values, alone["f"].values, rtol=1e-5, atol=1e-6)
    # Coarse companions have the noiseless trajectory of a run with coarse steps, and noise of their own level's sums.
    slow = js.simulate(coarse, jnp.ones(2), observe={"c": see}, **run)
    np.testing.assert_allclose(both["c"].values[..., 0, :], slow["c"].values[..., 0, :], rtol=1e-5)


def test_two_levels_have_less_noise_than_two_runs():
    problem = js.Problem(js.Quadratic([1.0, 2.0]), js.StudentT(3.0, 1.0))
    sde, functions = js.SignSGD(0.1).sde(problem), {"cos": lambda x: jnp.cos(jnp.sum(x))}
    run = dict(steps=10, seeds=4000, progress=False)
    pair = two_levels(sde, jnp.full(2, 2.0), functions, key=KEY, substeps=8, **run)["cos"]
    one, other = (
        js.expectations(sde, jnp.full(2, 2.0), functions, key=jax.random.key(n), substeps=n, increments="three-point", **run)[
            "cos"
        ]
        for n in (4, 8)
    )
    apart = np.hypot(one.stderr[-1], other.stderr[-1])
    assert abs(pair.difference.mean[-1] - (other.mean[-1] - one.mean[-1])) < 6 * apart
    assert 25 * pair.difference.stderr[-1] ** 2 < apart**2
    assert 3 * pair.extrapolated.stderr[-1] ** 2 < np.hypot(2 * other.stderr[-1], one.stderr[-1]) ** 2


def test_a_seed_that_diverges_at_the_coarse_level_alone_is_counted():
    """1 - 2 h is -0.8 for steps of .9 and -2.6 for steps of 1.8."""
    problem = js.Problem(js.Quadratic([2.0]), js.Gaussian(1.0))
    sde = js.SGD(1.8).sde(problem)
    found = two_levels(sde, START_DRAWN, {"x": lambda x: x[0]}, steps=400, seeds=8, key=KEY, substeps=2, progress=False)
    assert found.diverged[-1] == 8
    alone = js.simulate(sde, jnp.full(1, START), steps=400, seeds=8, key=KEY, substeps=2, progress=False)
    assert alone.diverged[-1] == 0
