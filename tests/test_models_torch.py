"""Every row of rules/models/torch.toml against the real library: what autograd says, the row must say."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from torch_examples import EXAMPLES

from gradaudit.models import Row, library

torch = pytest.importorskip("torch")

TORCH = library("torch")
NAMES = sorted(TORCH.groups)
HANDLED = frozenset({"transform", "grad_mode", "optimizer", "container", "parameter", "raises", "none", "constant"})
UNCALLED = frozenset(
    "torch.nn.Module torch.distributions.Distribution torch.distributions.Transform torch.func torch.nn.utils torch.jit"
    " torch.nn.utils.parametrizations torch.nn.parallel torch.compiler".split()
)
MODULES = frozenset({"module", "plain_module", "loss_module"})


def values() -> dict[str, Any]:
    """Fresh tensors, all of them differentiable and in general position, and some that are not."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Any:
        return (torch.rand(*shape, generator=generator, dtype=torch.float64) * 0.6 + 0.2).requires_grad_()

    eye = torch.eye(3, dtype=torch.float64)
    return {
        "torch": torch,
        "capture": lambda *args, **kwargs: (list(args), kwargs),
        "x": leaf(2, 3), "y": leaf(2, 3), "z": leaf(2, 3), "e": leaf(2, 4), "v": leaf(3), "w": leaf(3), "r": leaf(4),
        "t": leaf(12),
        "q": (leaf(3, 3) * 0.1 + eye).detach().requires_grad_(), "n": leaf(2, 3).log().detach().requires_grad_(),
        "b": leaf(3, 3, 3), "s": leaf(1, 2, 8), "h": leaf(1, 8, 6), "l": leaf(2, 2, 3), "k": leaf(4, 4, 2, 2),
        "g": leaf(1, 4, 6, 6), "o": leaf(1, 2, 4, 4, 4), "c": torch.complex(leaf(2, 3), leaf(2, 3)),
        "u": leaf(2, 3).detach(), "i": torch.tensor([[0, 1, 2], [2, 1, 0]]), "j": torch.tensor([0, 1]),
        "m": torch.tensor([[True, False, True], [False, True, True]]),
    }  # fmt: skip


def resolve(path: str) -> Any:
    value: Any = torch
    owner, _, name = path.rpartition(".")
    if owner == "torch.distributions.Distribution":
        kinds = [kind for kind in vars(torch.distributions).values() if inspect.isclass(kind)]
        base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1)
        return next(
            k for k in kinds if hasattr(base, name) or hasattr(k, name) or name in inspect.signature(k).parameters
        )
    if owner == "torch.nn.ModuleList":
        kinds = [torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.ParameterList, torch.nn.Sequential]
        return next(kind for kind in kinds if hasattr(kind, name))
    if path.startswith("einops"):
        return getattr(importlib.import_module(pytest.importorskip(owner).__name__), name)
    for part in path.split(".")[1:]:
        if not hasattr(value, part) and inspect.ismodule(value):
            __import__(f"{value.__name__}.{part}")
        value = getattr(value, part)
    return value


def tensors(value: Any) -> list[Any]:
    """The tensors in a value, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [value.data]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors(item)]
    return []


def example(path: str, row: Row) -> str:
    text = EXAMPLES.get(path, EXAMPLES.get(path.rpartition(".")[2]))
    if text is not None:
        return text
    live = 0
    while live < len(row.args) and row.passes(live) and live < 3:
        live += 1
    if row.kind in ("stop", "inplace", "identity"):
        live = 1 if len(row.args) < 2 or row.args[1] != "other" else 2
    call = ", ".join("xyz"[:live])
    return f"| {call}" if row.kind in MODULES else call


def function(path: str, row: Row) -> Callable[..., Any]:
    """What the row names, as a function of its arguments (a method's receiver first)."""
    owner, _, name = path.rpartition(".")
    if owner not in ("torch.Tensor",):
        return resolve(path)
    assert hasattr(torch.Tensor, name)
    if row.extra.get("property"):
        return lambda receiver: getattr(receiver, name)
    return lambda receiver, *args, **kwargs: getattr(receiver, name)(*args, **kwargs)


def flows(result: Any, sources: list[Any]) -> list[bool]:
    """Which of these tensors get gradient from `result`?"""
    outputs = [tensor for tensor in tensors(result) if tensor.requires_grad]
    wanted = [source for source in sources if source.requires_grad]
    if not outputs or not wanted:
        return [False] * len(sources)
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        real = torch.view_as_real(output.resolve_conj()) if output.is_complex() else output
        total = total + (real * torch.rand(real.shape, generator=generator)).sum()
    grads = (
        iter(torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=True))
        if total.requires_grad
        else iter(())
    )
    reached = {
        id(source): grad is not None and bool((grad != 0).any()) for source, grad in zip(wanted, grads, strict=True)
    }
    return [reached.get(id(source), False) for source in sources]


def shape_of(result: Any, row: Row) -> Any:
    """Check that the result comes in the form that the row says; the part of it that passes."""
    if row.result == "first":
        assert isinstance(result, tuple) and len(tensors(result[1:])) == len(result) - 1 > 0
        assert not any(tensor.requires_grad for tensor in tensors(result[1:]))
        return result[0]
    if row.result == "pair":
        assert isinstance(result, tuple) and len(result) == 2
    elif row.result.startswith("tuple:"):
        assert isinstance(result, tuple) and len(result) == int(row.result[6:])
    elif row.result == "list":
        assert isinstance(result, list | tuple) and len(result) == len(tensors(result))
    elif row.result == "lstm":
        output, (hidden, cell) = result
        assert len(tensors([output, hidden, cell])) == 3
    elif row.result == "none":
        assert not tensors(result)
    elif row.kind in ("op", "identity", "random", "alloc", "inplace", *MODULES):
        assert len(tensors(result)) == 1 and not isinstance(result, list | tuple) or hasattr(result, "batch_sizes")
    return result


def check_call(path: str, row: Row) -> None:
    """Call it, and compare what gets gradient with what the row says, argument by argument."""
    scope = values()
    text = example(path, row)
    call = function(path, row)
    parameters: list[Any] = []
    if row.kind in MODULES:
        built, _, text = text.partition("|")
        module = eval(f"call({built})", {**scope, "call": call})
        if isinstance(module, torch.nn.Module):
            module = module.double()
        call = module
    args, kwargs = eval(f"capture({text})", scope)
    first = args[:1]
    if path.endswith("_") and row.kind in ("inplace", "stop"):
        first = [[item.clone() for item in args[0]] if isinstance(args[0], list) else args[0].clone()]
    result = call(*first, *args[1:], **kwargs)
    result = first[0] if result is None and row.kind == "inplace" else result
    if row.kind in MODULES and isinstance(call, torch.nn.Module):
        parameters = list(call.parameters())
        assert bool(parameters) == (row.kind == "module")
        for name in row.extra.get("parameters", "").split():
            assert name in dict(call.named_parameters())
    result = shape_of(result, row)
    given = [(key, source) for key, value in [*enumerate(args), *kwargs.items()] for source in tensors(value)]
    given = [(key, source) for key, source in given if source.requires_grad]
    reached = flows(result, [source for _, source in given] + parameters)
    for (key, _), flow in zip(given, reached, strict=False):
        assert flow == row.passes(key), f"{row.argument(key) if isinstance(key, int) else key}: {flow}"
    # A key's bias adds the same to every score of a softmax: exactly zero is right for some parameters.
    assert not parameters or any(reached[len(given) :])
    assert given or row.kind not in ("op", "identity"), "the example gives it no differentiable argument"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NAMES)
def test_row_says_what_autograd_does(path: str) -> None:
    row = TORCH.row(path)
    assert row is not None
    if row.extra.get("unverified"):
        pytest.skip(row.extra["unverified"])
    resolve(path)
    owner = path.rpartition(".")[0]
    if row.kind in HANDLED or row.kind == "distribution" or owner in UNCALLED or path == "torch.compile":
        return
    torch.manual_seed(0)
    check_call(path, row)


DISTRIBUTIONS = {
    "MultivariateNormal": "v, scale_tril=q.tril()",
    "LowRankMultivariateNormal": "v, q[:, :1] * 1, w",
    "Uniform": "x * 0.5, y + 1",
    "Weibull": "x + 1, y + 1",
    "Pareto": "x, y + 1",
    "HalfNormal HalfCauchy Exponential Dirichlet Chi2 Poisson": "x + 0.1",
    "FisherSnedecor": "x + 4, y + 4",
    "StudentT": "x + 4, y, z",
    "ContinuousBernoulli Categorical Bernoulli OneHotCategorical Geometric": "logits=x",
    "OneHotCategoricalStraightThrough": "logits=x",
    "RelaxedBernoulli RelaxedOneHotCategorical": "torch.tensor(0.5), logits=x",
    "Binomial NegativeBinomial Multinomial": "4, logits=x",
    "Independent": "torch.distributions.Normal(x, y), 1",
    "TransformedDistribution": "torch.distributions.Normal(x, y), [torch.distributions.TanhTransform()]",
    "MixtureSameFamily": "torch.distributions.Categorical(logits=x), torch.distributions.Normal(y, z)",
}
EXAMPLES_OF_DISTRIBUTIONS = {name: text for names, text in DISTRIBUTIONS.items() for name in names.split()}
NO_ENTROPY = frozenset(
    "RelaxedBernoulli RelaxedOneHotCategorical LogisticNormal MixtureSameFamily NegativeBinomial Binomial Poisson "
    "TransformedDistribution VonMises FisherSnedecor Multinomial".split()
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path", [name for name in NAMES if TORCH.row(name).kind == "distribution" and not name.endswith(".Distribution")]
)
def test_distribution(path: str) -> None:
    """Where the parameters' gradient goes: log_prob and entropy always, sample never, rsample if the row says so."""
    row = TORCH.row(path)
    assert row is not None
    name = path.rpartition(".")[2]
    scope = values()
    args, kwargs = eval(f"capture({EXAMPLES_OF_DISTRIBUTIONS.get(name, 'x, y')})", scope)
    parameters = [scope[letter] for letter in "xyzvwq" if letter in EXAMPLES_OF_DISTRIBUTIONS.get(name, "x, y")]
    dist = resolve(path)(*args, **kwargs)
    torch.manual_seed(0)
    for key in [*range(len(args)), *kwargs]:
        assert (key if isinstance(key, str) else row.argument(key)) in inspect.signature(resolve(path)).parameters
    sample = dist.sample()
    assert not sample.requires_grad
    assert dist.has_rsample == row.extra["rsample"]
    if row.extra["rsample"]:
        assert any(flows(dist.rsample(), parameters))
    assert all(flows(dist.log_prob(sample), parameters)) or name == "Uniform"
    if name not in NO_ENTROPY:
        assert any(flows(dist.entropy(), parameters))


def test_few_rows_are_unverified() -> None:
    assert sum(bool(TORCH.row(name).extra.get("unverified")) for name in NAMES) < 40


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path", [name for name in NAMES if "loss" in name or TORCH.row(name).op in ("where", "clamp", "lerp")]
)
def test_parameters_are_called_what_the_row_says(path: str) -> None:
    """The two sides of a loss may be given by name: the names must be the library's."""
    row = TORCH.row(path)
    assert row is not None
    if row.kind in MODULES or path.startswith("torch.Tensor.") or row.variadic:
        return
    try:
        parameters = list(inspect.signature(resolve(path)).parameters)
    except ValueError:
        return
    live = [name for name in row.args if row.passes(name)]
    assert not parameters or set(live) <= set(parameters)
