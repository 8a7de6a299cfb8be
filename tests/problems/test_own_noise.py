"""Noise laws of a user's own: two methods serve SGD, two more SignSGD, and what is missing is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde.problems import AbstractIndependentNoise, AbstractNoise, AbstractSignLaw

HESSIAN = np.array([[2.0, 0.5], [0.5, 1.0]])
ROOT = np.array([[1.0, 0.0], [0.8, 0.3]])
X0, ETA, STEPS, KEY = np.array([1.0, -2.0]), 0.1, 12, jax.random.key(0)


class Rotated(AbstractNoise):
    """Coin flips times a matrix: correlated, and not Gaussian."""

    matrix: jax.Array

    def sample(self, params, key):
        return self.sqrt_covariance(params)(jax.random.rademacher(key, params.shape, params.dtype))

    def sqrt_covariance(self, params):
        return lambda increment: jnp.sum(self.matrix.astype(params.dtype) * increment, axis=1)


class Multiplicative(AbstractIndependentNoise):
    """Coin flips times the parameters."""

    def sample(self, params, key):
        return params * jax.random.rademacher(key, params.shape, params.dtype)

    def variance(self, params):
        return params**2


class Coins(Multiplicative, AbstractSignLaw):
    """With the law of the signs as well."""

    def mean_sign(self, gradient, params):
        return 0.5 * (jnp.sign(gradient + params) + jnp.sign(gradient - params))

    def prob_nonzero(self, gradient, params):
        return 0.5 * (jnp.abs(jnp.sign(gradient + params)) + jnp.abs(jnp.sign(gradient - params)))


def _problem(noise):
    return js.Problem(js.Quadratic(HESSIAN), noise)


def _second_moments(covariance):
    """Mean and E xx' of x <- x - eta (H x + Z) along the way, with the covariance of Z given E xx'."""
    mean, second = X0, np.outer(X0, X0)
    found = [(mean, second)]
    for _ in range(STEPS):
        flow = np.eye(2) - ETA * HESSIAN
        mean, second = flow @ mean, flow @ second @ flow.T + ETA**2 * covariance(second)
        found.append((mean, second))
    return [np.array(moments) for moments in zip(*found, strict=True)]


LAWS = {
    "root": (Rotated(jnp.asarray(ROOT)), lambda second: ROOT @ ROOT.T),
    "variance": (Multiplicative(), lambda second: np.diag(np.diag(second))),
}


@pytest.mark.parametrize("kind", ["chain", "sde"])
@pytest.mark.parametrize("name", LAWS)
def test_two_methods_serve_sgd(name, kind):
    """Euler's scheme with one step per optimizer step has the second moments of the chain, exactly."""
    noise, covariance = LAWS[name]
    mean, second = _second_moments(covariance)
    process = getattr(js.SGD(ETA), kind)(_problem(noise))
    functions = {"x": lambda x: x, "xx": lambda x: jnp.outer(x, x)}
    run = dict(steps=STEPS, every=3, key=KEY, progress=False)
    ensemble = js.simulate(process, jnp.asarray(X0, jnp.float32), seeds=20_000, observe=functions, **run)
    fine = js.expectations(process, jnp.asarray(X0, jnp.float32), functions, seeds=2000, **run)
    for found in (ensemble, fine):
        for name, exact in (("x", mean[::3]), ("xx", second[::3])):
            off = np.abs(np.asarray(found[name].mean, float).reshape(exact.shape) - exact)
            assert np.all(off <= 5.5 * np.asarray(found[name].stderr, float).reshape(exact.shape) + 1e-5)
    if name == "root" and kind == "sde":  # constant noise on a quadratic: the control takes all chance away
        assert np.all(fine["xx"].reduction[1:] > 100)


def test_variance_and_covariance_follow_from_the_root():
    noise, x = Rotated(jnp.asarray(ROOT)), jnp.asarray(X0, jnp.float32)
    np.testing.assert_allclose(noise.covariance(x), ROOT @ ROOT.T, rtol=1e-6)
    np.testing.assert_allclose(noise.variance(x), np.diag(ROOT @ ROOT.T), rtol=1e-6)
    np.testing.assert_allclose(Multiplicative().covariance(x), np.diag(X0**2), rtol=1e-6)
    # Adam's SDE asks for both: the same drift as under a law that knows its covariance, by another root.
    own, known = (js.Adam(ETA).sde(_problem(law)) for law in (noise, js.Gaussian(covariance=ROOT @ ROOT.T)))
    t0, y0 = known.init(x, KEY)
    for a, b in zip(jax.tree.leaves(own.drift(t0, y0)), jax.tree.leaves(known.drift(t0, y0)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_law_of_the_signs_serves_sign_sgd():
    problem, x = _problem(Coins()), jnp.array([0.6, -0.3])
    gradient = HESSIAN @ np.asarray(x)
    signs = np.array([np.sign(gradient + np.asarray(x) * np.array(z)) for z in ((1, 1), (1, -1), (-1, 1), (-1, -1))])
    drift, diffusion = js.SignSGD(ETA).sde(problem).fields(0.0, x)
    np.testing.assert_allclose(drift, -signs.mean(axis=0), atol=1e-6)
    factor = np.asarray(jax.jacfwd(diffusion)(jnp.zeros(2)))
    np.testing.assert_allclose(factor @ factor.T, ETA * np.cov(signs.T, ddof=0), atol=1e-6)


def test_what_a_law_does_not_give_is_named():
    problem, x = _problem(Rotated(jnp.asarray(ROOT))), jnp.asarray(X0, jnp.float32)
    missing = "SignSGD's SDE needs .* signs, and Rotated has no method mean_sign.*AbstractSignLaw"
    for model in js.SignSGD.models:
        with pytest.raises(ValueError, match=missing):
            js.SignSGD(ETA).sde(problem, model)
    with pytest.raises(ValueError, match="SignSGD's lattice law needs .* signs, and Multiplicative has no method mean_sign"):
        js.theory.birth_death(js.SignSGD(ETA), js.Problem(js.Quadratic([1.0]), Multiplicative()))
    with pytest.raises(ValueError, match="noise of constant law, got Multiplicative"):
        js.theory.moments(js.SGD(ETA), _problem(Multiplicative()), x, jnp.ones(1))
    run = js.compare(js.SignSGD(ETA), problem, x, steps=8, seeds=40, progress=False)
    assert run.sde is None and "Rotated has no method mean_sign" in run.notes[0]
    for name in ("sample", "sqrt_covariance"):
        methods = {other: lambda *_: None for other in ("sample", "sqrt_covariance") if other != name}
        with pytest.raises(TypeError, match=f"abstract.* '?{name}"):
            type("Half", (AbstractNoise,), methods)()


def test_signs_that_depend_on_each_other_take_a_covariance():
    class Dependent(Coins):
        @property
        def independent_signs(self):
            return False

    sde = js.SignSGD(ETA).sde(_problem(Dependent()))
    with pytest.raises(ValueError, match="Dependent's signs are not independent, and it has no method sign_covariance"):
        sde.fields(0.0, jnp.ones(2))
    for other in (Rotated, AbstractNoise):
        assert "independent_signs" in type("Own", (other, AbstractSignLaw), {}).__abstractmethods__


def test_noise_that_does_not_fit_the_parameters_is_refused():
    class Scalar(Multiplicative):
        def sample(self, params, key):
            return jnp.sum(params)

    with pytest.raises(ValueError, match=r"sample must return noise like the parameters, float\d+\[2\], got float\d+\[\]"):
        js.simulate(js.SGD(ETA).chain(_problem(Scalar())), jnp.ones(2), steps=1, seeds=2, key=KEY)
