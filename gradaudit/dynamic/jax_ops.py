"""From jax's primitives to the operations that rules know: tables, and the few cases that need more than a name."""

from __future__ import annotations

from typing import Any

from gradaudit.dynamic.jax_flatten import Step

PLAIN = {
    "add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "div": "div", "neg": "neg", "rem": "mod", "pow": "pow",
    "square": "square", "sqrt": "sqrt", "rsqrt": "rsqrt", "abs": "abs", "exp": "exp", "exp2": "exp", "log": "log",
    "max": "maximum", "min": "minimum", "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min",
    "reduce_prod": "prod", "cumsum": "cumsum", "dot_general": "matmul", "logistic": "sigmoid", "tanh": "tanh",
    "stop_gradient": "stop", "gather": "gather", "dynamic_slice": "getitem", "slice": "getitem", "split": "getitem",
    "concatenate": "cat", "stack": "stack", "scatter": "store", "dynamic_update_slice": "store", "scatter-add": "store",
    "iota": "const",
    "argmax": "argmax", "argmin": "argmax", "sign": "sign", "round": "round", "floor": "floor", "ceil": "ceil",
    "phi": "phi", "getitem": "getitem", "optimization_barrier": "identity", "copy": "identity", "copy_p": "identity",
    "pure_callback": "stop", "io_callback": "stop",
}  # fmt: skip

RESHAPES = frozenset(
    "broadcast_in_dim reshape squeeze expand_dims transpose rev pvary pcast pbroadcast reduce_precision device_put "
    "sharding_constraint reshard psum2 all_gather".split()
)
COMPARES = frozenset("eq ne lt le gt ge is_finite and or not xor reduce_and reduce_or shift_right_logical".split())
RANDOM = frozenset("random_bits random_seed random_wrap random_unwrap random_split random_fold_in threefry2x32".split())
ACTIVATIONS = frozenset("relu relu6 silu gelu elu selu celu leaky_relu softplus squareplus mish hard_tanh".split())

CLOSED = {
    "_where": "where", "clip": "clamp", "norm": "norm", "log_softmax": "log_softmax", "softmax": "softmax",
    "_softmax": "softmax", "logsumexp": "logsumexp", "_var": "var", "_std": "std", "floor_divide": "floordiv",
    "remainder": "mod", "take_along_axis": "gather", "_take": "gather", "dynamic_index_in_dim": "getitem",
    "_roll_static": "reshape", "cumsum": "cumsum", "_one_hot": "one_hot", "sigmoid": "sigmoid", "round": "round",
    "diagonal": "getitem", "_diag": "getitem", "_normal": "random", "_uniform": "random", "_bernoulli": "random",
    "_gumbel": "random", "_randint": "random", "_shuffle": "random", "_permutation": "random", "_choice": "random",
    "_categorical": "random", "_truncated_normal": "random", "_multivariate_normal": "random", "_laplace": "random",
    "_exponential": "random", "_beta": "rsample", "_gamma": "rsample", "_dirichlet": "rsample",
    "quantile": "quantile", "percentile": "quantile", "nanquantile": "quantile", "nanpercentile": "quantile",
} | dict.fromkeys(ACTIVATIONS, "activation") | {"log_sigmoid": "logsigmoid"}  # fmt: skip
"""Functions that a library jits under a name: one operation each, not the equations inside."""

REDUCTIONS = frozenset({"norm", "var", "std", "logsumexp"})

INDEXED = {"gather": 1, "getitem": 1, "argmax": 1}
"""Operations whose inputs from this position on are indices."""


def operation(step: Step) -> tuple[str, str, list[tuple[int, bool]]]:
    """(op, detail, [(operand, is an index)]) of a step: the canonical name and its inputs in canonical order."""
    name = step.primitive
    everything = [(i, False) for i in range(len(step.operands))]
    special = _SPECIAL.get(name)
    if special is not None:
        return special(step)
    if step.join:
        condition = len(step.operands) - 1 if step.detail == "switch" else -1
        op = "phi" if name == "phi" else PLAIN.get(name, name)
        detail = "" if step.detail == "exit" else step.detail
        return op, detail, [(i, i == condition) for i, _ in everything]
    if name in PLAIN:
        op = PLAIN[name]
        first = INDEXED.get(op, len(everything))
        return op, _detail(step), [(i, i >= first) for i, _ in everything]
    if name in RESHAPES:
        return "reshape", name, everything[:1]
    if name in COMPARES:
        return "compare", name, everything
    if name in RANDOM:
        return "random", name, everything
    return "call", name, everything


def called(equation: Any) -> str:
    """The name of the function that a call primitive calls, "" where it does not say."""
    params = equation.params
    if params.get("name"):
        return str(params["name"])
    closed = params.get("call_jaxpr", params.get("fun_jaxpr"))
    debug = getattr(getattr(closed, "jaxpr", closed), "debug_info", None)
    return str(getattr(debug, "func_name", "") or "")


def _closed(step: Step) -> tuple[str, str, list[tuple[int, bool]]]:
    name = called(step.equation) or step.primitive
    op = CLOSED.get(name, "call")
    first = 1 if op in ("gather", "getitem") else len(step.operands)
    # A float is no index: the transposed function takes a cotangent in its place.
    indices = {i for i in range(first, len(step.operands)) if not step.operands[i].inexact}
    inputs = [(i, i in indices or (op == "where" and i == 0)) for i in range(len(step.operands))]
    detail = "" if op == name else name.removeprefix("_")
    if op in REDUCTIONS:
        before, after = (step.operands[0].aval.shape, step.results[0].aval.shape)
        kept = [size for size in after if size != 1]
        detail = f"axis={len(before) - 1}" if kept else ""
    elif op == "quantile":  # of everything, as many as are asked for
        asked = step.operands[1].aval.size if len(step.operands) > 1 else 1
        detail = "axis=0" if step.results[0].aval.size != asked else ""
    return op, detail, inputs


def _select(step: Step) -> tuple[str, str, list[tuple[int, bool]]]:
    """`select_n(which, case 0, case 1)` is `where(which, case 1, case 0)`."""
    return "where", "", [(0, True), *((i, False) for i in range(len(step.operands) - 1, 0, -1))]


def _clamp(step: Step) -> tuple[str, str, list[tuple[int, bool]]]:
    return "clamp", "", [(1, False), (0, False), (2, False)]


def _convert(step: Step) -> tuple[str, str, list[tuple[int, bool]]]:
    return "cast", str(step.results[0].aval.dtype), [(0, False)]


def _power(step: Step) -> tuple[str, str, list[tuple[int, bool]]]:
    exponent = step.equation.params["y"]
    return ("square", "", [(0, False)]) if exponent == 2 else ("pow", str(exponent), [(0, False)])


def _update(step: Step) -> tuple[str, str, list[tuple[int, bool]]]:
    """scatter(old, indices, written) and dynamic_update_slice(old, written, indices...)."""
    if step.primitive.startswith("scatter"):
        return "store", step.primitive.partition("-")[2], [(0, False), (2, False), (1, True)]
    return "store", "", [(0, False), (1, False), *((i, True) for i in range(2, len(step.operands)))]


_SPECIAL = {
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "integer_pow": _power,
    "scatter": _update,
    "scatter-add": _update,
    "scatter-mul": _update,
    "scatter-min": _update,
    "scatter-max": _update,
    "dynamic_update_slice": _update,
    **dict.fromkeys(("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"), _closed),
}


def _detail(step: Step) -> str:
    """The constants that tell two operations of one name apart."""
    if step.equation is None:
        return step.detail
    params = step.equation.params
    before = getattr((step.operands or step.results)[0].aval, "shape", ())
    if step.primitive == "slice":
        return _slices(params, before)
    if step.primitive == "iota":  # the same numbers every time
        return f"arange({params['dimension']}, {list(before)}, {params['dtype']})"
    if step.primitive.startswith("reduce_"):
        return _axes(params["axes"], before)
    if step.primitive == "split":
        return f"dim={params['axis']}"
    for key in ("axis", "dimension", "dimension_numbers", "slice_sizes"):
        if key in params:
            return f"{key}={params[key]}"
    return ""


def _axes(axes: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """`axis=1`; nothing where everything is reduced."""
    left = [size for i, size in enumerate(shape) if i not in axes and size != 1]
    return f"axis={','.join(map(str, axes))}" if left else ""


def _slices(params: dict[str, Any], shape: tuple[int, ...]) -> str:
    """A slice as it would be written: `[1:]`, `[:, 0]`."""
    starts, limits, strides = params["start_indices"], params["limit_indices"], params["strides"] or (1,) * len(shape)
    parts = []
    for start, limit, stride, size in zip(starts, limits, strides, shape, strict=True):
        if limit - start == 1 and size > 1:
            parts.append(str(start))
            continue
        text = f"{start or ''}:{limit if limit < size else ''}"
        parts.append(text if stride == 1 else f"{text}:{stride}")
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    return f"[{', '.join(parts)}]"
