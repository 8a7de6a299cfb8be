"""What the package does not know, it refuses: optimizers, losses and noise laws of a user's own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde._commands._setup import Setup
from jaxsde.estimation._weak_error import at_rate
from jaxsde.optimizers import AbstractOptimizer
from jaxsde.theory import (
    asymptotic_loss,
    birth_death,
    discrete_moments,
    discrete_stationary,
    fixed_rate_scaled,
    loss_bound,
    moments,
    power_verdict,
    scaled,
    schedule_integrals,
    schedule_loss_bound,
    schedule_moments,
    stationary,
)

PROBLEM, X0, TS = js.Problem(js.Quadratic([1.0, 2.0]), js.Gaussian(1.0)), jnp.ones(2), jnp.linspace(0.0, 1.0, 3)
KEY = jax.random.key(0)


class Lion(AbstractOptimizer):
    """With the hyperparameters of AdamW, by name, and another meaning."""

    learning_rate: Any
    b1: jax.Array
    b2: jax.Array
    weight_decay: jax.Array
    reference_rate: Any

    def __init__(self, learning_rate):
        self.learning_rate = jnp.asarray(learning_rate)
        self.b1, self.b2, self.weight_decay = jnp.asarray(0.9), jnp.asarray(0.99), jnp.asarray(0.1)
        self.reference_rate = None

    def transform(self):
        return optax.lion(self.learning_rate, b1=self.b1, b2=self.b2, weight_decay=self.weight_decay)

    def sde(self, problem, model="compagnoni"):
        raise NotImplementedError("nobody knows Lion's SDE")


class Cautious(js.Adam):
    """A subclass, which inherits Adam's hyperparameters and not its law."""

    def transform(self):
        return optax.chain(optax.adam(1.0, b1=self.b1, b2=self.b2, eps=self.eps), optax.scale(0.5 * self.learning_rate))


OWN = [Lion(0.01), Cautious(0.01)]
USES = {
    "moments": lambda opt: moments(opt, PROBLEM, X0, TS),
    "stationary": lambda opt: stationary(opt, PROBLEM),
    "discrete_moments": lambda opt: discrete_moments(opt, PROBLEM, X0, [0, 1]),
    "discrete_stationary": lambda opt: discrete_stationary(opt, PROBLEM),
    "loss_bound": lambda opt: loss_bound(opt, PROBLEM, X0, TS),
    "asymptotic_loss": lambda opt: asymptotic_loss(opt, PROBLEM),
    "schedule_moments": lambda opt: schedule_moments(opt, PROBLEM, X0, TS),
    "schedule_loss_bound": lambda opt: schedule_loss_bound(opt, PROBLEM, X0, TS),
    "power_verdict": lambda opt: power_verdict(opt, PROBLEM, 0.5),
    "scaled": lambda opt: scaled(opt, 2.0),
    "fixed_rate_scaled": lambda opt: fixed_rate_scaled(opt, 2.0),
    "at_rate": lambda opt: at_rate(opt, 0.02),
    "weak_error": lambda opt: js.weak_error(opt, PROBLEM, X0, T=1.0, learning_rates=(0.5, 0.25), key=KEY, seeds=4),
}


@pytest.mark.parametrize("opt", OWN, ids=lambda opt: type(opt).__name__)
@pytest.mark.parametrize("use", USES)
def test_what_needs_theory_refuses_other_optimizers(use, opt):
    with pytest.raises(
        ValueError,
        match=f"not known for the optimizer {type(opt).__name__}, only for Adam, AdamW, .*RMSprop, RMSpropW, SGD, SignSGD",
    ):
        USES[use](opt)


@pytest.mark.parametrize("use", USES)
def test_what_is_no_optimizer_is_refused(use):
    with pytest.raises(TypeError, match=r"opt must be an optimizer such as jaxsde\.SGD\(0\.01\), got 'lion'"):
        USES[use]("lion")


@pytest.mark.parametrize("opt", OWN, ids=lambda opt: type(opt).__name__)
def test_svag_and_references_refuse_other_optimizers(opt):
    with pytest.raises(
        ValueError, match=f"whether SVAG tends to an SDE is not known for the optimizer {type(opt).__name__}, only"
    ):
        js.svag(opt, PROBLEM, 2)
    with pytest.raises(ValueError, match=f"must be a jaxsde.SignSGD.*got {type(opt).__name__}"):
        birth_death(opt, js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0)))


@pytest.mark.parametrize("change", [dict(optimizer="lion"), dict(noise="poisson"), dict(problem="imagenet")])
def test_commands_refuse_what_they_do_not_know(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be one of .*, got '{next(iter(change.values()))}'"):
        Setup(**(dict(optimizer="sgd") | change)).build()


def test_commands_make_the_optimizer_they_are_told():
    for name, kind in (("sign_sgd", js.SignSGD), ("rmsprop", js.RMSprop), ("rmspropw", js.RMSpropW), ("adamw", js.AdamW)):
        opt, problem, _ = Setup(name, learning_rate=0.02).build()
        assert type(opt) is kind and float(opt.rate) == pytest.approx(0.02)
        assert getattr(opt, "initial_scale", 4.0) == 4.0 and isinstance(problem.noise, js.Gaussian)


def test_other_known_optimizers_are_refused_where_something_is_for_one_kind():
    with pytest.raises(ValueError, match="SGD's model must be one of .*, got 'phase-1'"):
        js.SGD(0.1).sde(PROBLEM, "phase-1")
    with pytest.raises(ValueError, match="SVAG does not tend to an SDE of SignSGD"):
        js.svag(js.SignSGD(0.1), PROBLEM, 2)
    with pytest.raises(ValueError, match="schedules have closed forms for SGD and SignSGD, got Adam"):
        schedule_moments(js.Adam(0.1), PROBLEM, X0, TS)


class Heavy(AbstractOptimizer):
    """SGD with weight decay and an average, under names of its own, which its class declares."""

    roles = js.optimizers.Roles(averages=("beta",), gradients=("clip",), decays=("theta",), svag=True)
    learning_rate: Any
    beta: jax.Array
    clip: jax.Array
    theta: jax.Array
    reference_rate: Any = None

    def transform(self):
        return optax.sgd(self.learning_rate)

    def sde(self, problem, model="compagnoni"):
        return js.SGD(self.learning_rate).sde(problem, model)


class Heavier(Heavy):
    """Which declares nothing."""


def test_what_a_class_declares_of_its_own_hyperparameters_is_used_and_not_inherited():
    numbers = [jnp.asarray(v) for v in (0.01, 0.9, 4.0, 0.5)]
    opt = scaled(Heavy(*numbers), 4.0)
    # Four times fewer steps, four times as long: the decay over all of them is the same.
    assert [float(v) for v in (opt.learning_rate, opt.beta, opt.clip, opt.theta)] == pytest.approx([0.04, 0.6, 2.0, 0.5])
    assert float(at_rate(Heavy(*numbers), 0.02).beta) == pytest.approx(0.8)
    small = js.svag(Heavy(*numbers), PROBLEM, 4).make_transform
    assert js.svag(Heavy(*numbers), PROBLEM, 4).learning_rate == pytest.approx(0.01 / 4) and small.steps == 4
    for use in (lambda opt: scaled(opt, 4.0), lambda opt: at_rate(opt, 0.02), lambda opt: js.svag(opt, PROBLEM, 2)):
        with pytest.raises(ValueError, match="not known for the optimizer Heavier, only for .*Heavy"):
            use(Heavier(*numbers))


class Decaying(Heavy):
    """SGD with weight decay, whose closed forms are registered below."""

    def transform(self):
        return optax.chain(optax.add_decayed_weights(self.theta), optax.sgd(self.learning_rate))


class Decaying2(Decaying):
    """Of which nothing is registered."""


@js.theory.register(Decaying)
class DecayingTheory(js.theory.AbstractLinearTheory):
    def system(self, opt, eta, hessian, noise, minimum):
        return js.theory.LinearSystem(hessian + opt.theta * jnp.eye(hessian.shape[0]), hessian @ minimum, eta * noise)

    def recursion(self, opt, s):
        (hessian, noise, minimum), eta = s.systems, float(s.rate)
        kept = np.eye(minimum.shape[-1]) - eta * (hessian + float(opt.theta) * np.eye(minimum.shape[-1]))
        return js.theory.LinearRecursion(kept, eta * (hessian @ minimum[..., None])[..., 0], eta**2 * noise)


@pytest.mark.parametrize("hessian", [[1.0, 2.0], [[1.0, 0.0], [0.0, 2.0]]])
def test_a_registered_theory_makes_all_moments_and_is_not_inherited(hessian):
    numbers = [jnp.asarray(v) for v in (0.1, 0.9, 4.0, 0.5)]
    opt, problem = Decaying(*numbers), js.Problem(js.Quadratic(hessian, minimum=jnp.ones(2)), js.Gaussian(1.0))
    pull = np.array([1.5, 2.5])
    law, chain = stationary(opt, problem), discrete_stationary(opt, problem)
    np.testing.assert_allclose(law.mean, np.array([1.0, 2.0]) / pull, rtol=1e-5)
    np.testing.assert_allclose(np.diag(law.covariance), 0.1 / (2 * pull), rtol=1e-5)
    np.testing.assert_allclose(np.diag(chain.covariance), 0.1 / (pull * (2 - 0.1 * pull)), rtol=1e-5)
    early = moments(opt, problem, X0, TS)
    np.testing.assert_allclose(early.mean[-1], (1 - np.exp(-pull)) * law.mean + np.exp(-pull), rtol=1e-5)
    np.testing.assert_allclose(discrete_moments(opt, problem, X0, [1]).mean[0], 1 - 0.1 * 0.5 * np.ones(2), rtol=1e-6)
    with pytest.raises(ValueError, match="past the limit of Decaying on this quadratic"):
        stationary(Decaying(jnp.asarray(0.81), *numbers[1:]), problem)
    for function in (loss_bound, schedule_moments):
        with pytest.raises(ValueError, match="no bound for Decaying|for SGD and SignSGD, got Decaying"):
            function(opt, problem, X0, TS)
    with pytest.raises(
        ValueError, match="not known for the optimizer Decaying2, only for Adam, AdamW, Decaying, Momentum, RMSprop"
    ):
        stationary(Decaying2(*numbers), problem)


def test_another_optimizers_chain_runs_all_the_same():
    run = js.simulate(Lion(0.01).chain(PROBLEM), X0, steps=4, seeds=3, key=KEY, progress=False, reduce=js.Samples())
    assert np.all(np.abs(np.asarray(run["x"].values[-1]) - 1) < 4 * 0.01 * 1.2)
    assert not np.any(np.asarray(run["x"].values[-1]) == 1)
    law = js.stationary(Lion(0.01).chain(PROBLEM), X0, key=KEY, seeds=8, steps=8, groups=2, diagnostic_seeds=4, progress=False)
    assert np.all(np.isfinite(law.mean))
    result = js.compare(Lion(0.01), PROBLEM, X0, steps=8, seeds=40, progress=False)
    assert result.sde is None and result.theory is None and result.bound is None
    assert result.notes[0] == "no SDE: nobody knows Lion's SDE"
    assert result.notes[1].startswith("no theory: a closed form is not known for the optimizer Lion")


class Plain(AbstractOptimizer):
    """As little as an optimizer needs, with a number of Python's and an SDE."""

    learning_rate: float
    reference_rate: None = None

    def transform(self):
        return optax.sgd(self.learning_rate)

    def sde(self, problem, model="compagnoni"):
        return js.SGD(self.learning_rate).sde(problem, model)


def test_an_optimizer_with_an_sde_of_its_own_is_simulated_and_has_no_theory():
    opt, sgd = Plain(0.1), js.SGD(0.1)
    common = dict(seeds=40, progress=False)
    for model in ("compagnoni", "ode"):
        own, known = (js.compare(o, PROBLEM, X0, steps=8, model=model, **common) for o in (opt, sgd))
        np.testing.assert_array_equal(own.optimizer.curves.loss, known.optimizer.curves.loss)
        np.testing.assert_array_equal(own.sde.curves.loss, known.sde.curves.loss)
        assert own.theory is None and own.notes == [note for note in own.notes if "not known for the optimizer Plain" in note]
    with pytest.raises(ValueError, match="model must be one of 'compagnoni', .*, got 'malladi'"):
        js.compare(opt, PROBLEM, X0, steps=8, model="malladi", **common)
    # With control variates by its SDE, exact on a quadratic.
    law, exact = (
        js.stationary(o.chain(PROBLEM), X0, key=KEY, steps=128, seeds=8, diagnostic_seeds=4, progress=False) for o in (opt, sgd)
    )
    np.testing.assert_allclose(law.covariance, exact.covariance, rtol=1e-5, atol=1e-7)
    assert np.all(law.reduction.covariance.diagonal() > 100)


class Tilted(js.Quadratic):
    def __call__(self, x):
        return super().__call__(x) + jnp.sum(x**4)


class Skewed(js.Gaussian):
    def stochastic_gradient(self, loss, params, key):
        return jax.tree.map(lambda g: jnp.abs(g), super().stochastic_gradient(loss, params, key))


def test_theory_refuses_other_losses_and_laws():
    opt, noise, loss = js.SGD(0.1), js.Gaussian(1.0), js.Quadratic([1.0, 2.0])
    for other, message in (
        (js.Problem(Tilted([1.0, 2.0]), noise), "hold for jaxsde.Quadratic losses, got a Tilted"),
        (js.Problem(lambda x: jnp.sum(x**4), noise), "hold for jaxsde.Quadratic losses, got a function"),
        (js.Problem(loss, Skewed(1.0)), "noise of constant law, got Skewed"),
    ):
        for use in (moments, loss_bound):
            with pytest.raises(ValueError, match=message):
                use(opt, other, X0, TS)
    with pytest.raises(ValueError, match="needs noise of constant law, got Skewed"):
        js.theory.with_batch(js.Problem(loss, Skewed(1.0)), 2.0)
    with pytest.raises(ValueError, match="fourth moments of the gradient noise.*got Skewed"):
        js.Adam(0.1).sde(js.Problem(loss, Skewed(1.0)), model="compagnoni-full")
    with pytest.raises(ValueError, match="the phases are those of Gaussian noise, got Skewed"):
        js.theory.phase(js.Problem(loss, Skewed(1.0)), X0)


def test_what_is_no_problem_is_refused():
    for use in (
        lambda: stationary(js.SGD(0.1), js.Quadratic([1.0])),
        lambda: js.theory.with_batch(js.Gaussian(1.0), 2.0),
        lambda: js.theory.phase(js.Gaussian(1.0), X0),
        lambda: js.SGD(0.1).sde(js.Gaussian(1.0)),
        lambda: js.AdamW(0.1).sde(js.Gaussian(1.0)),
        lambda: js.RMSprop(0.1).sde(js.Gaussian(1.0)),
        lambda: js.SignSGD(0.1).chain(js.Gaussian(1.0)),
        lambda: js.svag(js.SGD(0.1), js.Gaussian(1.0), 2),
        lambda: js.noise_report(js.Gaussian(1.0), X0),
        lambda: js.weak_error(js.SGD(0.1), js.Gaussian(1.0), X0, T=1.0, learning_rates=(0.5, 0.25), key=KEY),
    ):
        with pytest.raises(TypeError, match=r"problem must be a jaxsde\.Problem\(loss, noise\), got (Gaussian|Quadratic)"):
            use()
    with pytest.raises(TypeError, match="opt must be an optimizer"):
        schedule_integrals("sgd", TS)
    with pytest.raises(TypeError, match=r"sde must be an optimizer's sde\(problem\)"):
        js.theory.density(js.SGD(0.1).chain(PROBLEM))
