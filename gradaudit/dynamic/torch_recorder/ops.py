"""Which canonical operation a torch function is, and which of its arguments are positions.

Only names and shapes of calls stand here; what passes gradient is read off autograd's own graph, never from a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SAME = """
    add sub mul div neg pow square sqrt abs exp log maximum minimum max min mean sum prod std var norm logsumexp cumsum
    quantile
    clamp matmul einsum softmax log_softmax sigmoid tanh where gather stack cat sign round floor ceil argmax mse_loss
    l1_loss smooth_l1_loss huber_loss cross_entropy nll_loss kl_div cosine_similarity normalize floordiv mod
    binary_cross_entropy
"""

_RENAMED = {
    "add": "__add__ __radd__ __iadd__ add_ addcmul addcdiv logaddexp",
    "sub": "__sub__ __rsub__ __isub__ rsub sub_ subtract",
    "mul": "__mul__ __rmul__ __imul__ mul_ multiply",
    "div": "__truediv__ __rtruediv__ __rdiv__ __itruediv__ div_ divide true_divide",
    "floordiv": "__floordiv__ __rfloordiv__ floor_divide",
    "mod": "__mod__ fmod remainder",
    "neg": "__neg__ negative neg_",
    "pow": "__pow__ __rpow__ pow_ float_power",
    "square": "square_",
    "abs": "__abs__ absolute abs_",
    "exp": "exp_ expm1",
    "log": "log_ log2 log10 log1p",
    "sqrt": "sqrt_ rsqrt",
    "max": "amax",
    "min": "amin",
    "mean": "nanmean",
    "sum": "nansum sum_to_size",
    "norm": "linalg_norm linalg_vector_norm vector_norm",
    "quantile": "nanquantile",
    "cumsum": "cumsum_ cumprod",
    "clamp": "clip clamp_ clip_ clamp_min clamp_max hardtanh clamp_min_",
    "matmul": "__matmul__ __rmatmul__ mm bmm mv dot addmm baddbmm linear bilinear inner outer vdot conv1d"
    " conv2d conv3d",
    "softmax": "softmin gumbel_softmax",
    "sigmoid": "sigmoid_ expit",
    "tanh": "tanh_",
    "activation": "relu relu_ elu elu_ gelu silu mish leaky_relu leaky_relu_ selu celu softplus softsign logsigmoid"
    " hardswish hardsigmoid relu6 prelu glu threshold tanhshrink softshrink hardshrink",
    "normalize": "layer_norm group_norm instance_norm batch_norm rms_norm local_response_norm",
    "random": "rand randn randint randperm rand_like randn_like randint_like bernoulli multinomial normal normal_"
    " uniform_ bernoulli_ exponential_ poisson random_ dropout dropout_ feature_dropout alpha_dropout dropout2d",
    "reshape": "view reshape squeeze unsqueeze flatten unflatten transpose t permute expand expand_as contiguous"
    " swapaxes view_as reshape_as movedim narrow ravel squeeze_ unsqueeze_ T mT H mH repeat tile broadcast_to"
    " repeat_interleave flip roll clone atleast_1d atleast_2d moveaxis unfold diagonal diag triu tril",
    "getitem": "__getitem__ select index_select masked_select take take_along_dim chunk split unbind tensor_split"
    " hsplit vsplit split_with_sizes unsafe_chunk unsafe_split __iter__",
    "cat": "concat concatenate hstack vstack dstack",
    "stack": "column_stack",
    "store": "__setitem__ copy_ scatter scatter_ scatter_add scatter_add_ index_add index_add_ index_copy index_copy_"
    " index_fill index_fill_ masked_fill masked_fill_ masked_scatter index_put index_put_ fill_ zero_ put_ lerp_"
    " addcmul_ addcdiv_ slice_scatter",
    "cast": "to float double half bfloat16 long int bool type type_as short byte cpu cuda",
    "stop": "detach detach_ data",
    "compare": "__eq__ __ne__ __lt__ __le__ __gt__ __ge__ eq ne lt le gt ge isnan isfinite isinf logical_and logical_or"
    " logical_not __and__ __or__ __invert__ __xor__ any all equal allclose isclose heaviside signbit",
    "argmax": "argmin argsort searchsorted bucketize count_nonzero nonzero unique histc multinomial",
    "sign": "sgn",
    "round": "round_ trunc fix",
    "alloc": "zeros ones empty full zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full"
    " new_tensor tensor as_tensor from_numpy one_hot",
    "const": "arange linspace logspace eye tril_indices triu_indices",
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
    "kl_div": "kl_divergence",
    "normal": "",
    "call": "grad",
}

OPS: dict[str, str] = {name: name for name in _SAME.split()}
for _canonical, _names in _RENAMED.items():
    OPS.update(dict.fromkeys(_names.split(), _canonical))

SWAPPED = frozenset("__rsub__ __rtruediv__ __rpow__ __rfloordiv__ __rmatmul__ rsub __rdiv__".split())
"""The second operand stands on the left of the written operation."""

GETTERS = frozenset(("data", "T", "mT", "H", "mH", "real", "imag"))
"""Properties that give a tensor; `grad` and all others are not operations."""

IGNORED = frozenset(
    """__set__ __len__ __repr__ __str__ __hash__ __format__ __bool__ __index__ __contains__ size dim ndimension numel
    nelement stride storage_offset element_size is_contiguous is_floating_point is_complex is_signed is_same_size
    get_device type_ retain_grad register_hook register_post_accumulate_grad_hook has_names is_inference
    untyped_storage storage data_ptr is_shared is_pinned __reduce_ex__ __deepcopy__ result_type can_cast
    set_grad_enabled _is_view __setstate__ __dir__ is_tensor is_conj is_neg names _has_compatible_shallow_copy_type
    broadcast_tensors backward share_memory_ pin_memory is_nonzero promote_types finfo get_default_dtype
    _backward_hooks requires_grad_""".split()
) - {"broadcast_tensors"}

ESCAPES = frozenset("item tolist numpy __array__ __float__ __int__ __index__ __complex__ cpu_numpy".split())
"""Operations whose result leaves torch: data goes on where no tape can follow."""

FROM_DATA = frozenset(("tensor", "as_tensor", "asarray", "from_numpy", "frombuffer"))
"""Operations that bring data in from outside: what they make is an input, unless it is a single number."""

FLAT = frozenset(("round", "sign", "floor", "ceil"))
"""Operations that autograd follows and whose gradient is zero wherever it is defined: stops, to the rules."""

SET_DATA = "data ="
"""`parameter.data = value`, as a name."""

OF_TWO = {"max": "maximum", "min": "minimum"}
"""What an operation is if it is given two tensors."""

INDEX_ARGUMENTS = {
    "where": (0,),
    "gather": (1,),
    "index_select": (1,),
    "take": (1,),
    "take_along_dim": (1,),
    "masked_select": (1,),
    "embedding": (0,),
    "masked_fill": (1,),
    "masked_fill_": (1,),
    "scatter": (1,),
    "scatter_": (1,),
    "scatter_add": (1,),
    "scatter_add_": (1,),
    "index_add": (1,),
    "index_add_": (1,),
    "index_copy_": (1,),
}
"""Which tensor arguments (counted among tensors) are positions or conditions: their value matters, gradient never."""

CONSTANTS = frozenset("add sub mul div pow floordiv mod clamp maximum minimum".split())
"""Operations whose plain numbers are operands, too."""

LOSSES = frozenset(
    "mse_loss l1_loss smooth_l1_loss huber_loss cross_entropy nll_loss kl_div cosine_similarity"
    " binary_cross_entropy".split()
)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a torch function is recorded."""

    name: str
    op: str
    swapped: bool = False
    inplace: bool = False
    escape: bool = False
    index: tuple[int, ...] = ()
    subscript: bool = False
    constants: bool = False


def kind_of(function: Any) -> Kind | None:
    """The kind of a function as `__torch_function__` gets it; None where there is nothing to record."""
    name = getattr(function, "__name__", "") or str(function)
    if name == "__get__":
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        if attribute not in GETTERS:
            return None
        name = attribute
    if name == "__set__" and getattr(getattr(function, "__self__", None), "__name__", "") == "data":
        return Kind(SET_DATA, "store", inplace=True)
    if name in ESCAPES:
        return Kind(name, "stop", escape=True)
    if name in IGNORED:
        return None
    op = OPS.get(name, "call")
    return Kind(
        name,
        op,
        swapped=name in SWAPPED,
        inplace=in_place(name),
        index=INDEX_ARGUMENTS.get(name, ()),
        subscript=name in ("__getitem__", "__setitem__"),
        constants=op in CONSTANTS,
    )


def in_place(name: str) -> bool:
    if name in ("__setitem__", SET_DATA) or (
        name.startswith("__i") and name not in ("__invert__", "__iter__", "__index__")
    ):
        return True
    return name.endswith("_") and not name.endswith("__")
