"""Annotations hold: while tests run, every call of the package's functions is checked against them."""

import jax.numpy as jnp
import jaxtyping
import pytest

import jaxsde as js
from jaxsde import _checks
from jaxsde._special import erf


@pytest.mark.parametrize(
    "call", [lambda: _checks.choice("a", "b", ["b"]), lambda: erf(jnp.arange(3)), lambda: js.Chain(1, 2, 3)]
)
def test_what_an_annotation_forbids_is_an_error(call):
    try:
        call()
    except jaxtyping.TypeCheckError:
        return
    pytest.fail("nobody checked the annotations")


def test_a_whole_number_is_a_number():
    _checks.number("a", 0.5, low=0, high=1)


def test_where_an_error_is_expected_it_is_the_packages_own():
    with pytest.raises(TypeError, match="example_loss") as caught:
        js.Problem.from_data(1.0, (jnp.ones((4, 3)), jnp.ones(4)), batch_size=2)  # type: ignore[arg-type]
    assert type(caught.value) is TypeError
