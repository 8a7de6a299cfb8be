"""Mini-batch noise against NumPy, closed forms and its own draws; SVAG against exact recursions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsde as js
from jaxsde.problems._mean_loss import CHUNK

K = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 2.0]])  # the covariance of the features
TRUTH = np.array([1.0, -2.0, 0.5])
NOISE = 0.7


@pytest.fixture(autouse=True)
def _full_precision():
    """Users' products have JAX's default precision, which accelerators take for less than float32's; NumPy's are exact."""
    with jax.default_matmul_precision("highest"):
        yield


def _data(count, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, 3)) @ np.linalg.cholesky(K).T
    return features, features @ TRUTH + NOISE * rng.standard_normal(count)


def _half_square(w, example):
    features, target = example
    return 0.5 * (features @ w - target) ** 2


def _problem(count=300, batch_size=4, seed=0):
    features, targets = (jnp.asarray(a, jnp.float32) for a in _data(count, seed))
    return js.Problem.from_data(_half_square, (features, targets), batch_size=batch_size)


def _gradients(w, count=300, seed=0):
    """Of all examples, in NumPy."""
    features, targets = _data(count, seed)
    return features * (features @ w - targets)[:, None]


def test_covariance_of_a_gaussian_design():
    """One-sample gradients have covariance K r r' K + (r' K r + v^2) K, by Isserlis' theorem."""
    count, batch_size, w = 400_000, 8, np.array([0.5, 0.5, 0.0])
    r = w - TRUTH
    exact = (np.outer(K @ r, K @ r) + (r @ K @ r + NOISE**2) * K) / batch_size
    found = np.asarray(_problem(count, batch_size).noise.covariance(jnp.asarray(w, jnp.float32)))
    centred = _gradients(w, count) - K @ r
    stderr = np.std(np.einsum("ni,nj->nij", centred, centred), axis=0) / np.sqrt(count) / batch_size
    assert np.all(np.abs(found - exact) < 5.5 * stderr)


@pytest.mark.parametrize("count", [100, CHUNK, 2 * CHUNK, 2 * CHUNK + 88])
def test_variance_root_and_covariance_are_those_of_the_data(count):
    w = np.array([0.5, -0.5, 1.0])
    noise, params = _problem(count, 4).noise, jnp.asarray(w, jnp.float32)
    covariance = np.cov(_gradients(w, count).T, ddof=0) / 4
    np.testing.assert_allclose(noise.covariance(params), covariance, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(noise.variance(params), np.diag(covariance), rtol=2e-5)
    like = noise.increments_like(params)
    assert like.shape == (count,)
    root = np.asarray(jax.jacfwd(noise.sqrt_covariance(params))(like), float)
    np.testing.assert_allclose(root @ root.T, covariance, rtol=2e-4, atol=1e-5)
    # Signs as if the batch gradient were normal.
    gradient = np.array([0.3, -0.7, 0.1])
    negative = scipy.stats.norm.cdf(-gradient / np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(noise.prob_negative(jnp.asarray(gradient, jnp.float32), params), negative, rtol=1e-4)
    np.testing.assert_allclose(noise.mean_sign(jnp.asarray(gradient, jnp.float32), params), 1 - 2 * negative, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_stochastic_gradients_have_the_covariance_claimed(batch_size):
    """Of a nonlinear loss with parameters in a pytree, and data of several sorts."""
    rng = np.random.default_rng(1)
    data = {"x": jnp.asarray(rng.standard_normal((50, 2)), jnp.float32), "label": jnp.asarray(rng.integers(0, 2, 50))}

    def example_loss(params, example):
        logit = params["w"] @ example["x"] + params["b"]
        return jnp.logaddexp(0.0, logit) - example["label"] * logit

    problem = js.Problem.from_data(example_loss, data, batch_size=batch_size)
    params = {"w": jnp.array([0.5, -1.0]), "b": jnp.array(0.3)}
    keys = jax.random.split(jax.random.key(0), 100_000)
    drawn = jax.vmap(lambda key: jax.flatten_util.ravel_pytree(problem.stochastic_gradient(params, key))[0])(keys)
    drawn = np.asarray(drawn, float) - np.asarray(jax.flatten_util.ravel_pytree(problem.gradient(params))[0])
    claimed = np.asarray(problem.noise.covariance(params))
    assert np.all(np.abs(drawn.mean(0)) < 5 * np.sqrt(np.diag(claimed) / len(keys)))
    products = np.einsum("ni,nj->nij", drawn, drawn)
    assert np.all(np.abs(products.mean(0) - claimed) < 5.5 * products.std(0) / np.sqrt(len(keys)) + 1e-6)


def _moments_by_recursion(eta, steps, batch_size):
    """Mean and second moment of w - w* after `steps` of SGD on all batches, or of Euler's scheme for its SDE."""
    features, targets = _data(300)
    best = np.linalg.lstsq(features, targets)[0]
    errors = features @ best - targets
    hessians = np.einsum("ni,nj->nij", features, features)
    mean_hessian = hessians.mean(0)
    r = -best
    second = np.outer(r, r)
    for _ in range(steps):
        # g_i = H_i r + c_i with the c_i's mean 0.
        each = (
            np.einsum("nij,jk,nkl->nil", hessians, second, hessians)
            + np.einsum("nij,j,n,nk->nik", hessians, r, errors, features)
            + np.einsum("n,ni,j,njk->nik", errors, features, r, hessians)
            + np.einsum("n,ni,nk->nik", errors**2, features, features)
        ).mean(0)
        drift = mean_hessian @ second @ mean_hessian
        square = drift + (each - drift) / batch_size
        second = second - eta * (mean_hessian @ second + second @ mean_hessian) + eta**2 * square
        r = r - eta * mean_hessian @ r
    return best, r, second


@pytest.mark.parametrize("kind", ["chain", "sde"])
def test_sgd_on_mini_batches_has_the_exact_moments(kind):
    """On linear regression they follow from a recursion, the same for the chain and for Euler's scheme with h = eta."""
    eta, steps, batch_size, seeds = 0.05, 30, 4, 100_000
    best, mean, second = _moments_by_recursion(eta, steps, batch_size)
    problem, optimizer = _problem(300, batch_size), js.SGD(eta)
    process = optimizer.chain(problem) if kind == "chain" else optimizer.sde(problem)
    center = jnp.asarray(best + mean, jnp.float32)
    observe = {"r": lambda w: w - center, "rr": lambda w: jnp.outer(w - center, w - center)}
    run = js.simulate(process, jnp.zeros(3), steps=steps, seeds=seeds, key=jax.random.key(3), observe=observe)
    covariance = second - np.outer(mean, mean)
    # Sharp enough for 3 % in the covariance.
    assert np.all(5 * np.diag(run["rr"].stderr[-1]) < 0.03 * np.diag(covariance))
    for name, exact in (("r", 0 * mean), ("rr", covariance)):
        assert np.all(np.abs(np.asarray(run[name].mean[-1]) - exact) < 5 * np.asarray(run[name].stderr[-1])), name


@pytest.mark.parametrize(
    "optimizer, batch_size",
    [
        (js.SignSGD(0.01), 128),  # for the signs of smaller batches' gradients the normal law is not good enough
        (js.RMSprop(0.01, 0.9, initial_scale=1.0), 8),
        (js.AdamW(0.01, 0.9, 0.95, weight_decay=0.01), 8),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.sweep
def test_adaptive_optimizers_and_their_sdes_agree_to_first_order(optimizer, batch_size):
    problem = _problem(200, batch_size)
    run = dict(steps=100, every=50, seeds=4000, key=jax.random.key(0), observe={"loss": problem.loss})
    chain = js.simulate(optimizer.chain(problem), jnp.zeros(3), **run)["loss"]
    sde = js.simulate(optimizer.sde(problem), jnp.zeros(3), substeps=2, **run)["loss"]
    assert chain.mean[2] < 0.8 * chain.mean[0]  # there is a way to go
    gap = np.abs(np.asarray(chain.mean - sde.mean))[1:]
    assert np.all(gap < 0.01 * np.asarray(chain.mean)[1:] + 5 * np.hypot(chain.stderr, sde.stderr)[1:])


def test_bad_data_are_named():
    with pytest.raises(ValueError, match="leading axis"):
        js.Problem.from_data(_half_square, (jnp.ones((4, 3)), jnp.ones(5)), batch_size=2)
    with pytest.raises(ValueError, match="leading axis"):
        js.Problem.from_data(_half_square, (jnp.ones((0, 3)), jnp.ones(0)), batch_size=2)
    with pytest.raises(ValueError, match="batch_size"):
        js.Problem.from_data(_half_square, (jnp.ones((4, 3)), jnp.ones(4)), batch_size=0)
    with pytest.raises(TypeError, match="example_loss"):
        js.Problem.from_data(1.0, (jnp.ones((4, 3)), jnp.ones(4)), batch_size=2)
    with pytest.raises(ValueError, match="cannot be evaluated"):
        _problem().validate(jnp.zeros(7))


@pytest.mark.parametrize("ell", [1, 2, 5])
def test_the_weights_of_svag(ell):
    """They add up to 1, and their squares to l for SGD and to its square for adaptive methods."""
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    for optimizer, factor in ((js.SGD(0.1), ell), (js.Adam(0.1), ell * ell)):
        noise = js.svag(optimizer, problem, ell).problem.noise
        weights = (1 + noise.spread) / 2, (1 - noise.spread) / 2
        assert sum(weights) == pytest.approx(1)
        assert sum(w * w for w in weights) == pytest.approx(factor) == noise.factor


@pytest.mark.parametrize("ell", [1, 4, 16])
def test_svag_of_sgd_on_a_quadratic(ell):
    """Each small step is x (1 - h c / l) plus noise of variance h^2 / l: the second moment by recursion."""
    eta, curvature, steps = 0.4, 1.5, 6
    problem = js.Problem(js.Quadratic([curvature] * 50), js.Gaussian(1.0))
    chain = js.svag(js.SGD(eta), problem, ell)
    run = js.simulate(
        chain, jnp.full(50, 0.5), steps=steps * ell, seeds=20_000, key=jax.random.key(ell),
        observe={"square": lambda x: jnp.mean(x**2)},
    )  # fmt: skip
    assert run.ts[-1] == pytest.approx(steps * eta)
    second = 0.25
    for _ in range(steps * ell):
        second = (1 - eta * curvature / ell) ** 2 * second + eta**2 / ell
    assert abs(run["square"].mean[-1] - second) < 5 * run["square"].stderr[-1]


@pytest.mark.sweep
def test_svag_of_adaptive_methods_tends_to_the_sde_without_the_gradient_in_v():
    """Where the gradient is as large as the noise, the two SDEs of RMSprop differ, and SVAG goes to Malladi's."""
    problem = js.Problem(js.Quadratic([1.0] * 20), js.Gaussian(1.0))
    optimizer, x0, steps = js.RMSprop(0.05, 0.8, initial_scale=9.0), jnp.full(20, 2.0), 10
    common = dict(seeds=4000, key=jax.random.key(0), observe={"mean": jnp.mean})

    def end(process, count, **more):
        return js.simulate(process, x0, steps=count, **common, **more)["mean"].mean[-1]

    ell = 6
    reached = end(js.svag(optimizer, problem, ell), steps * ell * ell)
    malladi, compagnoni = (
        end(optimizer.sde(problem, model, start_steps=0), steps, substeps=8) for model in ("malladi", "compagnoni")
    )
    assert abs(compagnoni - malladi) > 0.08
    assert abs(reached - malladi) < 0.15 * abs(compagnoni - malladi)


def test_svag_is_for_those_it_is_defined_for():
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    with pytest.raises(ValueError, match="SVAG does not tend to an SDE of SignSGD"):
        js.svag(js.SignSGD(0.1), problem, 2)
    with pytest.raises(ValueError, match="ell must"):
        js.svag(js.SGD(0.1), problem, 0)


def test_svag_of_a_schedule_counts_the_optimizers_steps():
    """A rate that is cut to nothing after two of them: the walk ends there."""
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    optimizer = js.SGD(lambda count: jnp.where(count < 2, 0.4, 0.0), reference_rate=0.4)
    chain = js.svag(optimizer, problem, 3)
    run = js.simulate(chain, jnp.ones(1), steps=12, every=3, seeds=50, key=jax.random.key(0), reduce=js.Samples())["x"].values
    moved = np.any(np.diff(run, axis=0) != 0, axis=(1, 2))
    assert moved.tolist() == [True, True, False, False]


@pytest.mark.parametrize("count", [100, 2 * CHUNK, 2 * CHUNK + 88])
def test_the_loss_and_its_gradient_are_means_however_the_data_are_cut(count):
    w = np.array([0.5, -0.5, 1.0])
    features, targets = _data(count)
    problem = _problem(count)
    np.testing.assert_allclose(problem.loss(jnp.asarray(w)), 0.5 * np.mean((features @ w - targets) ** 2), rtol=1e-5)
    np.testing.assert_allclose(problem.gradient(jnp.asarray(w)), _gradients(w, count).mean(axis=0), rtol=1e-4, atol=1e-5)


def test_what_is_held_does_not_grow_with_the_data():
    """The temporary memory of the compiled gradient, which all examples' activations at once would outgrow."""

    def temporary(count):
        data = jnp.ones((count, 40))
        loss = js.MeanLoss(lambda w, a: jnp.sum(jnp.tanh(jnp.tanh(w * a[:, None]) @ w)), data)
        compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((40, 40))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Beyond a chunk there is a copy of the data, cut; a chunk's activations are 40 times its data.
    assert temporary(16 * CHUNK) < 2 * temporary(2 * CHUNK)


def test_an_epoch_of_shuffled_batches_takes_every_example_once():
    count, batch_size, rate = 12, 4, 0.5
    problem = js.Problem.from_data(lambda w, row: w @ row, jnp.eye(count), batch_size=batch_size, shuffle=True)
    run = dict(steps=6, every=1, seeds=5, key=jax.random.key(0), reduce=js.Samples(), observe={"x": lambda x: x})
    x = np.asarray(js.simulate(js.SGD(rate).chain(problem), jnp.zeros(count), **run)["x"].values)
    taken = -np.diff(x, axis=0) * batch_size / rate  # (steps, seeds, examples): ones where an example was in the batch
    np.testing.assert_allclose(np.sort(taken, axis=-1), np.broadcast_to(np.r_[np.zeros(8), np.ones(4)], taken.shape), atol=1e-5)
    for epoch in (taken[:3], taken[3:]):
        np.testing.assert_allclose(epoch.sum(axis=0), 1, atol=1e-5)
    orders = {taken[3 * e : 3 * e + 3, s].round().tobytes() for e in range(2) for s in range(5)}
    assert len(orders) == 10


def test_an_epoch_leaves_out_the_batch_that_would_be_too_small():
    problem = js.Problem.from_data(lambda w, row: w @ row, jnp.eye(10), batch_size=4, shuffle=True)
    run = js.simulate(js.SGD(1.0).chain(problem), jnp.zeros(10), steps=4, every=2, seeds=1, key=jax.random.key(0))
    for x, epochs in zip(run["x"].mean[1:], (1, 2), strict=True):
        assert float(jnp.sum(-x) * 4) == pytest.approx(8 * epochs)
        assert float(jnp.max(-x) * 4) <= epochs + 1e-6


def test_a_shuffled_batch_has_the_covariance_of_drawing_without_replacement():
    count, batch_size, draws, w = 20, 8, 100_000, jnp.array([0.5, -0.5, 1.0])
    features, targets = (jnp.asarray(a, jnp.float32) for a in _data(count))
    problem = js.Problem.from_data(_half_square, (features, targets), batch_size=batch_size, shuffle=True)
    keys = jax.random.split(jax.random.key(3), draws)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: problem.stochastic_gradient(w, key)))(keys), float)
    centred = drawn - _gradients(np.asarray(w), count).mean(axis=0)
    products = np.einsum("ni,nj->nij", centred, centred)
    claimed = np.asarray(problem.noise.covariance(w))
    assert np.all(np.abs(products.mean(axis=0) - claimed) < 5.5 * products.std(axis=0) / np.sqrt(draws))
    np.testing.assert_allclose(problem.noise.variance(w), np.diag(claimed), rtol=1e-4)
    root = np.asarray(jax.jacfwd(problem.noise.sqrt_covariance(w))(problem.noise.increments_like(w)), float)
    np.testing.assert_allclose(root @ root.T, claimed, rtol=1e-4, atol=1e-6)


def test_covariance_over_a_subset():
    count, kept, w = 301, 61, np.array([0.5, -0.5, 1.0])
    features, targets = (jnp.asarray(a, jnp.float32) for a in _data(count))
    problem = js.Problem.from_data(_half_square, (features, targets), batch_size=4, covariance_examples=kept)
    params = jnp.asarray(w, jnp.float32)
    expected = np.cov(_gradients(w, count)[::5].T, ddof=0) / 4
    np.testing.assert_allclose(problem.noise.covariance(params), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(problem.noise.variance(params), np.diag(expected), rtol=1e-4)
    np.testing.assert_allclose(problem.gradient(params), _gradients(w, count).mean(axis=0), rtol=1e-4, atol=1e-5)
    assert js.simulate(js.Adam(0.01).sde(problem), params, steps=4, seeds=4, key=jax.random.key(0)).diverged[-1] == 0


def test_signs_of_drawn_batches_against_all_there_are():
    """Four examples in batches of two: sixteen batches, equally likely."""
    rows = np.array([[3.0, 1.0], [-1.0, 2.0], [-1.5, -2.5], [0.2, 0.1]])
    means = 0.5 * (rows[:, None] + rows[None]).reshape(16, 2)
    drawn, w = 20_000, jnp.zeros(2)
    problem = js.Problem.from_data(lambda w, row: w @ row, jnp.asarray(rows), batch_size=2, sign_batches=drawn)
    gradient = problem.gradient(w)
    signs = np.sign(means)
    covariance = np.cov(signs.T, ddof=0)
    stderr = np.sqrt(np.diag(covariance) / drawn)
    assert np.all(np.abs(problem.noise.mean_sign(gradient, w) - signs.mean(axis=0)) < 5.5 * stderr)
    assert np.all(np.abs(problem.noise.prob_negative(gradient, w) - (means < 0).mean(axis=0)) < 5.5 * stderr / 2)
    products = np.einsum("ni,nj->nij", signs - signs.mean(axis=0), signs - signs.mean(axis=0))
    off = np.abs(np.asarray(problem.noise.sign_covariance(gradient, w)) - covariance)
    # The square of the mean's error counts where the products themselves do not vary.
    assert np.all(off < 6 * products.std(axis=0) / np.sqrt(drawn) + 6**2 / drawn)
    # The normal approximation is far from these.
    normal = js.MiniBatch(problem.loss, 2).mean_sign(gradient, w)
    assert np.max(np.abs(np.asarray(normal) - signs.mean(axis=0))) > 0.1


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_root_of_the_signs_covariance(shuffle):
    """A map from one increment for each batch, that makes no matrix."""
    features, targets = (jnp.asarray(a, jnp.float32) for a in _data(30))
    data = features, targets
    problem = js.Problem.from_data(_half_square, data, batch_size=2, shuffle=shuffle, sign_batches=50)
    w = jnp.array([0.5, -0.5, 1.0])
    noise, gradient = problem.noise, problem.gradient(w)
    signs = noise.signs(gradient, w)
    like = noise.sign_increments_like(w)
    assert like.shape == (50,)
    root = np.asarray(jax.jacfwd(signs.sqrt_covariance)(like), float)
    np.testing.assert_allclose(root @ root.T, noise.sign_covariance(gradient, w), atol=1e-6)
    np.testing.assert_allclose(signs.mean, noise.mean_sign(gradient, w), atol=1e-6)


@pytest.mark.parametrize("count, batches", [(100, 5), (100, 100), (2 * CHUNK + 88, 400)])
def test_signs_of_drawn_batches_one_by_one(count, batches):
    """Of a few batches, and of so many that each example's gradient is taken once and for all."""
    batch_size, w = 7, np.array([0.5, -0.5, 1.0])
    features, targets = (jnp.asarray(a, jnp.float32) for a in _data(count))
    noise = js.Problem.from_data(_half_square, (features, targets), batch_size=batch_size, sign_batches=batches).noise
    drawn = np.asarray(jax.vmap(noise.draw)(jax.random.split(jax.random.key(0), batches)))
    signs = np.sign(_gradients(w, count)[drawn].mean(axis=1))
    params = jnp.asarray(w, jnp.float32)
    np.testing.assert_allclose(noise.mean_sign(params, params), signs.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(noise.sign_covariance(params, params), np.cov(signs.T, ddof=0), atol=1e-5)


@pytest.mark.sweep
def test_sign_sgds_sde_with_the_signs_of_drawn_batches_follows_small_batches():
    """Where the normal approximation is off by some 10 % of the loss."""
    features, targets = (jnp.asarray(a, jnp.float32) for a in _data(64))
    build = lambda **more: js.Problem.from_data(_half_square, (features, targets), batch_size=2, **more)
    run = dict(steps=300, seeds=500, every=100, key=jax.random.key(0), observe={"loss": build().loss})
    opt, start = js.SignSGD(0.01), jnp.zeros(3)
    chain = js.simulate(opt.chain(build()), start, **run)["loss"]
    drawn, normal = (
        js.simulate(opt.sde(build(**more)), start, substeps=1, **run)["loss"] for more in ({"sign_batches": 2000}, {})
    )
    gap = lambda other: np.asarray(other.mean / chain.mean - 1)[1:]
    # The signs' own chance, one over the root of 2,000, is more than that of the seeds.
    assert np.max(np.abs(gap(drawn))) < 0.03 and np.max(np.abs(gap(normal))) > 0.1


@pytest.mark.parametrize(
    "more, message",
    [
        ({"batch_size": 21, "shuffle": True}, "batch_size"),
        ({"batch_size": 2, "covariance_examples": 21}, "covariance_examples"),
        ({"batch_size": 2, "sign_batches": 1}, "sign_batches"),
    ],
)
def test_bad_ways_of_drawing_are_named(more, message):
    with pytest.raises(ValueError, match=message):
        js.Problem.from_data(lambda w, row: w @ row, jnp.eye(20), **more)


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_of_different_seeds_are_uncorrelated_at_every_lag(shuffle):
    """A gradient that does not depend on the parameters, so that what a step adds is the batch's mean and nothing else."""
    rows = np.random.default_rng(0).standard_normal(64)
    rows = (rows - rows.mean()) / rows.std()
    problem = js.Problem.from_data(lambda w, row: w * row, jnp.asarray(rows, jnp.float32), batch_size=4, shuffle=shuffle)
    steps, seeds = 128, 500
    run = js.simulate(
        js.SGD(1.0).chain(problem), jnp.zeros(()), steps=steps, every=1, seeds=seeds, key=jax.random.key(0),
        reduce=js.Samples(), observe={"x": lambda x: x},
    )  # fmt: skip
    z = np.diff(np.asarray(run["x"].values, float), axis=0)
    z /= z.std()
    for lag in range(steps - 8):
        early, late = z[: steps - lag], z[lag:]
        # Over all pairs of different seeds: the product of sums less the pairs of a seed with itself.
        pairs = early.sum(axis=1) * late.sum(axis=1) - np.sum(early * late, axis=1)
        stderr = np.sqrt(2 if lag == 0 else 1) * np.sqrt(seeds * (seeds - 1)) * np.sqrt(len(pairs))
        # The sums of successive shuffled batches are correlated themselves, which makes the products so.
        assert abs(pairs.sum()) < 5.5 * stderr, lag
    if not shuffle:
        for lag in range(1, steps - 8):
            products = z[lag:] * z[:-lag]
            assert abs(products.mean()) < 5.5 / np.sqrt(products.size), lag
