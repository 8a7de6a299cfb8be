"""Distributed optimizers: exact recursions, an exact lattice chain, quadrature, and one step by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import erf, erfc

import jaxsde as js
from jaxsde.optimizers._received import Workers
from jaxsde.problems._source import Epochs, FreshKeys

Q = np.array([[1.0, 0.6], [0.6, 0.8]])
CORRELATED = js.Problem(js.Quadratic([1.0, 3.0]), js.Gaussian(covariance=Q))


def _covariance(sde, x):
    """Of one step over eta, from the SDE's diffusion."""
    flat, unravel = jax.flatten_util.ravel_pytree(sde.noise_shaped(x))
    root = jax.vmap(lambda w: sde.diffusion(0.0, x)(unravel(w)), out_axes=1)(jnp.eye(flat.size))
    return np.asarray(root @ root.T, float)


def _steps(opt, problem, x, n):
    """(x_1 - x) / eta of the package's chain, n times."""
    chain = opt.chain(problem)
    step = lambda key: chain.step(chain.init(x), key).x
    return (np.asarray(jax.vmap(step)(jax.random.split(jax.random.key(0), n)), float) - np.asarray(x)) / float(opt.rate)


def _agree(sample, mean, covariance):
    """Mean and covariance of a sample, to 5 standard errors from its own moments up to the fourth."""
    n, centred = len(sample), sample - sample.mean(axis=0)
    assert np.all(np.abs(sample.mean(axis=0) - mean) < 5 * sample.std(axis=0) / np.sqrt(n))
    products = centred[:, :, None] * centred[:, None, :]
    assert np.all(np.abs(products.mean(axis=0) - covariance) < 5 * products.std(axis=0) / np.sqrt(n) + 1e-6)


def test_one_step_of_compressed_sgd():
    """By draws of NumPy, by those of the chain, and by the SDE, with correlated noise."""
    workers, omega, eta, n, x = 3, 1.5, 0.1, 50_000, jnp.array([0.7, -0.4])
    opt, gradient = js.CompressedSGD(eta, workers, omega), np.array([0.7, -1.2])
    rng = np.random.default_rng(1)
    g = gradient + rng.multivariate_normal([0, 0], Q, (n, workers))
    sent = np.where(rng.random(g.shape) < 1 / (1 + omega), (1 + omega) * g, 0)
    sde = opt.sde(CORRELATED)
    drift, covariance = np.asarray(sde.drift(0.0, x)), _covariance(sde, x) / eta
    for sample in (-sent.mean(axis=1), _steps(opt, CORRELATED, x, n)):
        _agree(sample, drift, covariance)
    np.testing.assert_allclose(opt.sde(CORRELATED, "ode").drift(0.0, x), drift, rtol=1e-6)


def test_one_step_of_distributed_sign_sgd():
    workers, eta, n, x = 3, 0.1, 50_000, jnp.array([0.7, -0.1])
    opt, gradient = js.DistributedSignSGD(eta, workers), np.array([0.7, -0.3])
    g = gradient + np.random.default_rng(1).multivariate_normal([0, 0], Q, (n, workers))
    sde = opt.sde(CORRELATED)
    drift, covariance = np.asarray(sde.drift(0.0, x)), _covariance(sde, x) / eta
    for sample in (-np.sign(g).mean(axis=1), _steps(opt, CORRELATED, x, n)):
        _agree(sample, drift, covariance)
    np.testing.assert_allclose(opt.sde(CORRELATED, "ode").drift(0.0, x), drift, rtol=1e-6)


def test_compressed_sgd_follows_its_exact_second_moments():
    """On a quadratic, E x^2 of the chain and of the SDE both have closed recursions, compression of the gradient included."""
    h, sigma, eta, workers, omega, steps, seeds, d = 2.0, 0.5, 0.2, 2, 3.0, 10, 2000, 16
    opt, problem = js.CompressedSGD(eta, workers, omega), js.Problem(js.Quadratic(jnp.full(d, h)), js.Gaussian(sigma))
    run = dict(steps=steps, seeds=seeds, key=jax.random.key(1), progress=False, observe={"x^2": lambda x: jnp.mean(x**2)})
    substeps = 4
    dt = eta / substeps
    chain = sde = 1.0
    for _ in range(steps):
        chain = (1 - eta * h) ** 2 * chain + eta**2 / workers * ((1 + omega) * sigma**2 + omega * h**2 * chain)
    for _ in range(steps * substeps):
        sde = (1 - dt * h) ** 2 * sde + dt * eta / workers * ((1 + omega) * sigma**2 + omega * h**2 * sde)
    assert abs(sde / chain - 1) > 0.2  # so far is Euler's scheme with four substeps from the optimizer
    for process, exact, more in ((opt.chain(problem), chain, {}), (opt.sde(problem), sde, dict(substeps=substeps))):
        got = js.simulate(process, jnp.ones(d), **run, **more)["x^2"]
        assert abs(float(got.mean[-1]) - exact) < 5 * float(got.stderr[-1])
        assert float(got.stderr[-1]) < 0.02 * exact


def _lattice_variance(h, sigma, eta, workers):
    """E x^2 of the stationary law of the chain, on one coset of the lattice of steps 2 eta / N, averaged over offsets."""
    reach, step, values = int(np.ceil(14 * np.sqrt(eta * sigma / h / workers) / (2 * eta / workers))), 2 * eta / workers, []
    for offset in (np.arange(8) + 0.5) / 8 * step:
        x = offset + step * np.arange(-reach, reach + 1)
        up = scipy.stats.norm.cdf(-h * x / sigma)
        moves = scipy.stats.binom.pmf(np.arange(workers + 1)[:, None], workers, up)
        # Of k signs that lead up the step is (2 k - N) / N; the lattice is centred for even N, and shifted by half for odd.
        law = np.zeros((len(x), len(x)))
        for k in range(workers + 1):
            target = np.clip(np.arange(len(x)) + k - workers // 2, 0, len(x) - 1)
            law[np.arange(len(x)), target] += moves[k]
        pi = np.full(len(x), 1 / len(x))
        for _ in range(12):
            law = law @ law
        pi = pi @ law
        values.append(np.sum(pi * x**2))
    return np.mean(values)


def _density_variance(h, sigma, eta, workers):
    """E x^2 of the density (1 / D) exp(int b / D), b = -erf(z), D = eta / (2 N) (1 - erf(z)^2)."""
    x = np.linspace(-5 * sigma / h, 5 * sigma / h, 200_001)
    z = h * x / (np.sqrt(2) * sigma)
    spread = eta / workers / 2 * erfc(z) * erfc(-z)
    slope = -erf(z) / spread
    log = np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(x))]) - np.log(spread)
    density = np.exp(log - log.max())
    return np.sum(density * x**2) / density.sum()


@pytest.mark.parametrize("law", ["gaussian", "student-t"])
def test_the_sdes_stationary_density_is_a_quadrature(law):
    h, scale, eta, workers = 2.0, 0.7, 0.2, 4
    noise = js.Gaussian(scale) if law == "gaussian" else js.StudentT(2.5, scale)
    density = js.theory.density(js.DistributedSignSGD(eta, workers).sde(js.Problem(js.Quadratic([h]), noise)))
    if law == "gaussian":
        assert density.variance == pytest.approx(_density_variance(h, scale, eta, workers), rel=1e-4)
    # N workers at N eta are one worker at eta.
    alone = js.theory.density(js.SignSGD(eta / workers).sde(js.Problem(js.Quadratic([h]), noise)))
    assert density.variance == pytest.approx(alone.variance, rel=1e-5)


@pytest.mark.sweep
def test_stationary_variances_of_distributed_sign_sgd():
    h, sigma, eta, workers, d, seeds = 1.0, 1.0, 0.2, 4, 50, 4000
    opt, problem = js.DistributedSignSGD(eta, workers), js.Problem(js.Quadratic(jnp.full(d, h)), js.Gaussian(sigma))
    start = lambda key: jax.random.uniform(key, (d,), maxval=eta)
    run = dict(steps=60, seeds=seeds, key=jax.random.key(2), progress=False)
    chain, sde = _lattice_variance(h, sigma, eta, workers), _density_variance(h, sigma, eta, workers)
    assert abs(sde / chain - 1) > 0.01
    for process, exact, more in ((opt.chain(problem), chain, {}), (opt.sde(problem), sde, dict(substeps=64))):
        got = np.mean(js.simulate(process, start, **run, **more)["x"].variance[-1])
        # Euler's step adds a eta / (2 substeps) with a = sqrt(2 / pi) h / sigma.
        assert got == pytest.approx(exact, rel=6 * np.sqrt(2 / (d * seeds)) + (0.0013 if more else 0))


def test_each_worker_draws_for_itself_and_goes_through_its_own_epochs():
    source = Workers(Epochs(12, 4), 3)
    assert source.period == 3
    block = source.draw_block(jax.random.key(0))
    batches = [source.read_step(block, jnp.asarray(place)) for place in range(3)]
    for worker in range(3):
        seen = np.concatenate([batch.gradients.examples[worker] for batch in batches])
        assert sorted(seen) == list(range(12))
    assert len({tuple(np.asarray(batches[0].gradients.examples[w])) for w in range(3)}) == 3
    assert len({tuple(np.asarray(jax.random.key_data(batch.key))) for batch in batches}) == 3
    fresh = Workers(FreshKeys(), 5)
    draws = fresh.read_step(fresh.draw_block(jax.random.key(0)), jnp.asarray(0))
    assert len(np.unique(jax.random.key_data(draws.gradients), axis=0)) == 5


@pytest.mark.parametrize("shuffle", [False, True])
def test_on_mini_batches(shuffle):
    """The covariance of one step of chains on data, each worker with batches of its own, and the SDE's."""
    rng, workers, omega, eta, x = np.random.default_rng(3), 2, 0.5, 0.1, jnp.array([0.5, -0.2])
    data = (jnp.asarray(rng.normal(size=(12, 2)), jnp.float32), jnp.asarray(rng.normal(size=12), jnp.float32))
    problem = js.Problem.from_data(lambda w, e: 0.5 * (w @ e[0] - e[1]) ** 2, data, batch_size=4, shuffle=shuffle)
    opt = js.CompressedSGD(eta, workers, omega)
    sde = opt.sde(problem)
    _agree(_steps(opt, problem, x, 50_000), np.asarray(sde.drift(0.0, x)), _covariance(sde, x) / eta)
    if shuffle:
        run = js.simulate(opt.chain(problem), x, steps=6, seeds=8, key=jax.random.key(1), progress=False)
        assert np.all(np.isfinite(run["x"].mean)) and np.all(run["x"].variance[-1] > 0)


def test_a_schedule_multiplies_drift_and_diffusion():
    rates, x = np.array([0.1, 0.05, 0.02], np.float32), jnp.array([0.5, -0.2])
    for make in (
        lambda rate, **kw: js.CompressedSGD(rate, 2, 1.0, **kw),
        lambda rate, **kw: js.DistributedSignSGD(rate, 2, **kw),
    ):
        plain, scheduled = make(0.1).sde(CORRELATED), make(lambda k: jnp.asarray(rates)[k], reference_rate=0.1).sde(CORRELATED)
        dw = jax.tree.map(jnp.ones_like, plain.noise_shaped(x))
        for k in range(3):
            (b, a), (want, root) = scheduled.fields((k + 0.5) * 0.1, x), plain.fields(0.0, x)
            np.testing.assert_allclose(b, want * rates[k] / 0.1, rtol=1e-5)
            np.testing.assert_allclose(a(dw), root(dw) * rates[k] / 0.1, rtol=1e-5)


def test_a_new_omega_compiles_nothing_and_words_tell_the_run():
    from benchmarks._compiles import count_compiles

    problem = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0))

    def run(omega):
        opt = js.CompressedSGD(0.1, 2, omega)
        return js.simulate(opt.chain(problem), jnp.ones(2), steps=4, seeds=4, key=jax.random.key(0), progress=False)

    words = run(1.0).provenance["process"]
    with count_compiles() as compiles:
        run(2.0)
    assert compiles.count == 0
    assert words["optimizer"]["workers"] == 2 and words["optimizer"]["omega"] == 1.0


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        js.DistributedSignSGD(0.1, 0)
    with pytest.raises(TypeError, match="workers must be a whole number"):
        js.CompressedSGD(0.1, 2.0, 1.0)
    with pytest.raises(ValueError, match=r"omega must lie in \[0, inf\), got -1.0"):
        js.CompressedSGD(0.1, 2, -1.0)
    with pytest.raises(ValueError, match="CompressedSGD's model must be one of 'compagnoni', 'ode', got 'malladi'"):
        js.CompressedSGD(0.1, 2, 1.0).sde(CORRELATED, "malladi")
    heavy = js.Problem(js.Quadratic([1.0]), js.StudentT(1.0, 1.0))
    with pytest.raises(ValueError, match="CompressedSGD's SDE needs the covariance"):
        js.CompressedSGD(0.1, 2, 1.0).sde(heavy)
    assert js.DistributedSignSGD(0.1, 2).sde(heavy).model == "compagnoni"
    for opt in (js.CompressedSGD(0.1, 2, 1.0), js.DistributedSignSGD(0.1, 2)):
        with pytest.raises(TypeError, match="problem must be a jaxsde.Problem"):
            opt.chain("problem")
        with pytest.raises(ValueError, match="SVAG does not tend to an SDE"):
            js.svag(opt, CORRELATED, 2)
        with pytest.raises(ValueError, match="the covariance is that of the optimizer's SDE"):
            js.SGD(0.1).sde(opt.chain(CORRELATED).problem).diffusion(0.0, jnp.ones(2))
