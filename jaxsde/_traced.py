"""Users' functions, known by what they compute: equal computations share a compiled program, and what they close over is data.

JAX keys compiled programs by the identity of functions. A lambda that is written anew at each call would compile anew at each
call, with the arrays it closes over built into the program, and JAX would keep all of that alive. Here such a function is
traced once, where it enters. Its constants become leaves of a pytree, and its program is compared by its equations.
"""

import abc
import functools
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

# Functions of these packages live as long as the process does, so their identity says what they compute.
_PACKAGES = ("jaxsde", "jax", "jaxlib", "equinox", "optax", "diffrax", "lineax", "numpy")

# A constant of an inner program, which cannot be hoisted, is compared by its values; a larger one by its identity.
_LARGEST_INNER_CONSTANT = 256


class AbstractFunctionHolder(eqx.Module):
    """A module that holds functions of a user's."""

    @abc.abstractmethod
    def traced(self, params: PyTree) -> Any:
        """The module with its functions traced, for parameters like `params`."""


class TracedFunction(eqx.Module):
    """A function as its program, which is static, and the arrays that it holds or closes over, which are data.

    It takes arguments of the shapes and dtypes that it was traced with.
    """

    constants: list[Array]
    program: "_Program" = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        if structure != self.program.takes:
            raise TypeError(f"this function was traced for arguments of the structure {self.program.takes}, got {structure}")
        leaves = [_fitted(leaf, aval) for leaf, aval in zip(leaves, self.program.inputs, strict=True)]
        return jax.tree.unflatten(self.program.gives, self.program.evaluate(self.constants, leaves))


def traced(function: Callable[..., Any], *like: Any) -> Callable[..., Any]:
    """`function`, known by what it computes for arguments like `like` (arrays, or shapes and dtypes).

    **Returns:** `function` itself where its identity will do, because it belongs to this package or to one that it builds on;
    a [`TracedFunction`][] otherwise. Functions with side effects, or with callbacks to Python, are returned as they are.

    **Raises:** what the function raises.
    """
    if isinstance(function, AbstractFunctionHolder):
        return function.traced(*like)
    if is_traced(function) or is_lasting(function):
        return function
    avals = jax.tree.map(_aval, like)
    leaves, structure = jax.tree.flatten(function)
    held = [leaf for leaf in leaves if isinstance(leaf, (jax.Array, np.ndarray))]
    memory, place = _memory(leaves), (structure, *map(_place, leaves), *map(_place, jax.tree.leaves(avals)), _settings())
    try:
        found = memory[place]
    except (KeyError, TypeError):  # new, or not to be hashed
        found = _trace(function, held, avals)
        if not any(isinstance(c, Tracer) for c in found[0]) and _is_hashable(place):
            memory[place] = found
    constants, program = found
    return function if program is None else TracedFunction([*constants, *map(jnp.asarray, held)], program)


def is_traced(value: Any) -> bool:
    """Whether `value` is a [`TracedFunction`][]."""
    return isinstance(value, TracedFunction)


def with_traced(tree: PyTree, params: PyTree) -> PyTree:
    """`tree` with the functions of all its [`AbstractFunctionHolder`][]s traced, for parameters like `params`."""
    holds = lambda node: isinstance(node, AbstractFunctionHolder)
    return jax.tree.map(lambda node: node.traced(params) if holds(node) else node, tree, is_leaf=holds)


def shape_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, as shapes and dtypes."""
    function = traced(function, *arguments)
    if isinstance(function, TracedFunction):
        return jax.tree.unflatten(function.program.gives, list(map(_aval, function.program.results)))
    if not is_lasting((function, arguments)):
        return eqx.filter_eval_shape(function, *arguments)
    # Remembered, where `jax.eval_shape` would trace it each time.
    leaves, structure = jax.tree.flatten((function, arguments))
    is_array = lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
    arrays = [leaf if is_array(leaf) else None for leaf in leaves]
    rest = structure, tuple(None if is_array(leaf) else leaf for leaf in leaves)
    try:
        hash(rest)
    except TypeError:
        return eqx.filter_eval_shape(function, *arguments)
    return _called.eval_shape(rest, arrays)


@functools.partial(jax.jit, static_argnums=0)
def _called(rest: tuple[Any, tuple[Any, ...]], arrays: list[Any]) -> Any:
    structure, others = rest
    leaves = [other if array is None else array for array, other in zip(arrays, others, strict=True)]
    function, arguments = jax.tree.unflatten(structure, leaves)
    return function(*arguments)


class _Program:
    """A jaxpr without its constants, equal to any other of the same equations.

    It takes the arrays that a function closes over, those that it holds, and its arguments' leaves.
    """

    def __init__(self, jaxpr: jex.Jaxpr, held: int, takes: Any, gives: Any, key: Hashable):
        self.jaxpr, self.takes, self.gives = jaxpr, takes, gives
        self._held, self._key, self._hash = held, key, hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: Any) -> bool:
        return self is other or (isinstance(other, _Program) and self._hash == other._hash and self._key == other._key)

    @property
    def key(self) -> Hashable:
        """What it computes, as nested tuples."""
        return self._key

    def __repr__(self) -> str:
        return f"<program {self._hash & 0xFFFFFFFF:08x}>"

    @property
    def inputs(self) -> list[Any]:
        """The shapes and dtypes of the arguments' leaves."""
        return [v.aval for v in self.jaxpr.invars[self._held :]]

    @property
    def results(self) -> list[Any]:
        """The shapes and dtypes of the result's leaves."""
        return [v.aval for v in self.jaxpr.outvars]

    def evaluate(self, constants: list[Array], leaves: list[Any]) -> list[Any]:
        """The result's leaves."""
        closed_over = len(self.jaxpr.constvars)
        closed = jex.ClosedJaxpr(self.jaxpr, constants[:closed_over])
        return jex.jaxpr_as_fun(closed)(*constants[closed_over:], *leaves)


class _NotKnown(Exception):
    """A program cannot be compared by what it computes."""


# What tracing a function gave, while the function lives; and programs, while something uses them, so that most comparisons are
# of identities.
_TRACES: "weakref.WeakKeyDictionary[Any, dict[Any, Any]]" = weakref.WeakKeyDictionary()
_PROGRAMS: "weakref.WeakValueDictionary[Hashable, _Program]" = weakref.WeakValueDictionary()


def _memory(leaves: list[Any]) -> dict[Any, Any]:
    """Where traces are remembered: with the first of a user's functions among the leaves, so that it goes when that goes."""
    functions = (leaf for leaf in leaves if isinstance(leaf, types.FunctionType) and not is_lasting(leaf))
    function = next(functions, None)
    return {} if function is None else _TRACES.setdefault(function, {})


def _place(leaf: Any) -> Any:
    """What tells a leaf from others in memory: of an array its shape and dtype; functions are not kept alive."""
    if isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        return leaf.shape, leaf.dtype
    return weakref.ref(leaf) if isinstance(leaf, types.FunctionType) else (type(leaf), leaf)


def _settings() -> tuple[Any, ...]:
    """JAX's settings that decide what a function is traced to."""
    return tuple(getattr(jax.config, name) for name in ("jax_enable_x64", "jax_default_matmul_precision"))


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _trace(function: Callable[..., Any], held: list[Any], avals: Any) -> tuple[list[Array], _Program | None]:
    """The arrays that a function closes over, and its program; None where it cannot be known by what it computes."""
    leaves, structure = jax.tree.flatten(function)
    others = [None if isinstance(leaf, (jax.Array, np.ndarray)) else leaf for leaf in leaves]

    def call(held: list[Any], *arguments: Any) -> Any:
        arrays = iter(held)
        parts = [next(arrays) if leaf is None else leaf for leaf in others]
        return jax.tree.unflatten(structure, parts)(*arguments)

    closed, out = jax.make_jaxpr(call, return_shape=True)([_aval(leaf) for leaf in held], *avals)
    if closed.effects:
        return [], None
    if _inner_constants(closed.jaxpr):
        closed = jax.make_jaxpr(lambda *leaves: _inlined(closed.jaxpr, closed.consts, leaves))(*map(_aval, closed.in_avals))
    takes, gives = jax.tree.structure(avals), jax.tree.structure(out)
    try:
        key = len(held), takes, gives, _key(closed.jaxpr)
        hash(key)
    except (_NotKnown, TypeError):
        return [], None
    program = _PROGRAMS.setdefault(key, _Program(closed.jaxpr, len(held), takes, gives, key))
    return [jnp.asarray(c) for c in closed.consts], program


def _key(jaxpr: jex.Jaxpr, rules: tuple[Hashable, ...] = ()) -> Hashable:
    """What a jaxpr computes, as nested tuples: variables are numbers; names and constants' values are left out."""
    numbers: dict[Any, int] = {}

    def number(variable: Any) -> Hashable:
        if isinstance(variable, jex.Literal):
            return _type(variable.aval), _value(variable.val)
        return numbers.setdefault(variable, len(numbers))

    heads = tuple((number(v), _type(v.aval)) for v in (*jaxpr.constvars, *jaxpr.invars))
    body = []
    for equation in jaxpr.eqns:
        inputs = tuple(map(number, equation.invars))
        outputs = tuple((number(v), _type(v.aval)) for v in equation.outvars)
        body.append((equation.primitive.name, inputs, outputs, _parameters(equation, rules)))
    return heads, len(jaxpr.constvars), tuple(body), tuple(map(number, jaxpr.outvars))


def _parameters(equation: Any, rules: tuple[Hashable, ...]) -> Hashable:
    """An equation's parameters. A rule of its own for derivatives is compared by the derivative's program."""
    parameters, name = dict(equation.params), equation.primitive.name
    if "callback" in name:
        raise _NotKnown
    if name in ("jit", "pjit"):
        parameters.pop("name", None)
    if name not in ("custom_jvp_call", "custom_vjp_call"):
        return tuple((k, _parameter(v, rules)) for k, v in sorted(parameters.items()))
    inner = _parameter(parameters["call_jaxpr"], rules)
    if inner in rules:  # the derivative of a function with a rule calls the function again
        return "itself", rules.index(inner)
    rules = (*rules, inner)

    alone = _alone(equation)
    call, inputs = jex.jaxpr_as_fun(alone), [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in alone.jaxpr.invars]

    def backward(arguments: Any, cotangents: Any) -> Any:
        return jax.vjp(call, *arguments)[1](cotangents)

    if name == "custom_jvp_call":
        derivative = jax.make_jaxpr(lambda x, t: jax.jvp(call, x, t))(inputs, inputs)
    else:
        derivative = jax.make_jaxpr(backward)(inputs, jax.eval_shape(call, *inputs))
    return inner, _parameter(derivative, rules)


def _parameter(value: Any, rules: tuple[Hashable, ...]) -> Hashable:
    if isinstance(value, jex.ClosedJaxpr):
        return _key(value.jaxpr, rules), tuple(map(_value, value.consts))
    if isinstance(value, jex.Jaxpr):
        return _key(value, rules)
    if isinstance(value, dict):
        return tuple((k, _parameter(v, rules)) for k, v in sorted(value.items()))
    if isinstance(value, (tuple, list)):
        return type(value).__name__, tuple(_parameter(v, rules) for v in value)
    if isinstance(value, (jax.Array, np.ndarray)):
        return _value(value)
    if isinstance(value, types.FunctionType) and not is_lasting(value):
        raise _NotKnown
    return type(value), value


def _value(value: Any) -> Hashable:
    """A number or a small array, by its bits."""
    if isinstance(value, Tracer) or np.size(value) > _LARGEST_INNER_CONSTANT:
        raise _NotKnown
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return str(value.dtype), _value(jax.random.key_data(value))
    array = np.asarray(value)
    return type(value) if array.ndim == 0 else None, str(array.dtype), array.shape, array.tobytes()


def _type(aval: Any) -> Hashable:
    return getattr(aval, "shape", None), str(getattr(aval, "dtype", aval)), getattr(aval, "weak_type", False)


def _inner_constants(jaxpr: jex.Jaxpr) -> bool:
    """Whether a compiled function within the program closes over arrays, which JAX leaves where they are."""
    calls = [e.params["jaxpr"] for e in jaxpr.eqns if _is_call(e)]
    return any(call.consts or _inner_constants(call.jaxpr) for call in calls)


def _is_call(equation: Any) -> bool:
    return equation.primitive.name in ("jit", "pjit") and isinstance(equation.params.get("jaxpr"), jex.ClosedJaxpr)


def _inlined(jaxpr: jex.Jaxpr, constants: Any, arguments: Any) -> list[Any]:
    """Evaluates a jaxpr with the compiled functions in it written out, so that their constants become its own."""
    known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))
    read = lambda v: v.val if isinstance(v, jex.Literal) else known[v]
    for equation in jaxpr.eqns:
        if _is_call(equation):
            inner, inputs = equation.params["jaxpr"], map(read, equation.invars)
            known.update(zip(equation.outvars, _inlined(inner.jaxpr, inner.consts, inputs), strict=True))
        else:
            alone = _alone(equation)
            inputs = map(read, alone.jaxpr.invars)
            known.update(zip(alone.jaxpr.outvars, jex.jaxpr_as_fun(alone)(*inputs), strict=True))
    return list(map(read, jaxpr.outvars))


def _alone(equation: Any) -> jex.ClosedJaxpr:
    """A program of one equation, from its variable inputs to its results."""
    inputs = list(dict.fromkeys(v for v in equation.invars if not isinstance(v, jex.Literal)))
    return jex.ClosedJaxpr(jex.Jaxpr((), inputs, equation.outvars, [equation], equation.effects, debug_info=_unnamed()), [])


@functools.cache
def _unnamed() -> Any:
    """What JAX wants to know of a program's origin, and warns without: nothing of its arguments and results."""
    return jax.make_jaxpr(lambda: ())().jaxpr.debug_info._replace(arg_names=None, result_paths=None)


def is_lasting(value: Any) -> bool:
    """Whether no part of `value` is a function that may be written anew for each use. Arrays are data and don't count."""
    return all(_is_lasting_leaf(leaf) for leaf in jax.tree.leaves(value))


def _is_lasting_leaf(leaf: Any) -> bool:
    if not callable(leaf):
        return True
    package = (getattr(leaf, "__module__", None) or "").partition(".")[0]
    return package in _PACKAGES and "<locals>" not in getattr(leaf, "__qualname__", "<locals>")


def _aval(value: Any) -> Any:
    if isinstance(value, jax.ShapeDtypeStruct):
        return value
    if not eqx.is_array_like(value) and not hasattr(value, "shape"):
        return value
    dtype = value.dtype if hasattr(value, "dtype") else jnp.result_type(value)
    return jax.ShapeDtypeStruct(np.shape(value) if not hasattr(value, "shape") else value.shape, dtype)


def _fitted(leaf: Any, aval: Any) -> Any:
    """An argument as it was traced: a step, which may be an int of Python's or of another width, becomes an int32."""
    array = jnp.asarray(leaf)
    if array.dtype == aval.dtype:
        return array
    if jnp.issubdtype(array.dtype, jnp.integer) and jnp.issubdtype(aval.dtype, jnp.integer):
        return array.astype(aval.dtype)
    raise TypeError(f"this function was traced for {aval.str_short()}, got {array.dtype}{list(array.shape)}")
