"""The model files are well formed, and the loader reads them as it says."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import resources

import pytest

from gradaudit.models import KINDS, Models, expand, library

FILES = sorted(
    file.name.removesuffix(".toml") for file in resources.files("gradaudit.rules").joinpath("models").iterdir()
)
LIBRARIES = [name for name in FILES if name != "index"]
RESULTS = frozenset("tensor first pair lstm none list struct dict".split())
KEYS = frozenset(
    "names op kind call result order unverified property parameters handler mode overloads single wraps rsample "
    "discrete straight_through random initializer replace flag default unstopped kind_of returns frozen packed".split()
)
HANDLERS = frozenset(
    "grad value_and_grad grad_and_value vjp jvp linearize linear_transpose jit vmap pmap scan while_loop "
    "fori_loop cond switch tree_map tree_leaves tree_flatten tree_unflatten tree_transpose tree_reduce "
    "ravel_pytree checkpoint checkpoint_sequential custom_vjp custom_jvp custom_gradient functional_call "
    "functional_vjp autograd_grad autograd_function backward deepcopy kl_divergence apply_updates "
    "incremental_update periodic_update haiku_transform at at_apply dataclass jacfwd jacrev jacobian "
    "jacobian_transform hessian map associative_scan reduce custom_root custom_linear_solve module_method "
    "module_function module_grad module_scan module_control container_method optimizer_init optimizer_update "
    "optimizer_step add_param_group zero_grad requires_grad parameters_to_vector vector_to_parameters "
    "averaged_model averaged_model_update stack_module_state grad_scaler scaler_step nnx_state "
    "nnx_update nnx_split nnx_merge nnx_filter diff_state train_state "
    "apply_gradients replace partition combine tree_at unroll gradient_tape tape_gradient minimize assign "
    "tf_scan tf_while without_apply_rng is_array "
    "keras_compile set_weights tensordict_module prepare manual_backward rearrange soft_update loss_module".split()
)


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_row_is_well_formed(name: str) -> None:
    read = library(name)
    for path in read.groups:
        row = read.row(path)
        assert row is not None and row.path == path
        assert row.kind in KINDS, path
        assert row.result in RESULTS or row.result.startswith("tuple:"), path
        assert set(row.extra) <= KEYS, path
        assert set(row.index) <= set(row.stops), path
        assert sorted(row.order) == list(range(len(row.order))), path
        assert row.kind != "transform" or row.extra["handler"] in HANDLERS, path
        assert row.kind != "grad_mode" or row.extra["mode"] in ("off", "on", "set", "keep"), path
        assert row.op and all(part.isidentifier() or part == "*" for part in path.split(".")), path


@pytest.mark.parametrize("name", LIBRARIES)
def test_no_name_has_two_rows(name: str) -> None:
    source = resources.files("gradaudit.rules").joinpath("models", f"{name}.toml").read_text(encoding="utf-8")
    seen: dict[str, int] = {}
    for number, group in enumerate(tomllib.loads(source).get("rows", ())):
        for pattern in group["names"].replace(",\n", ",").split():
            for path in expand(pattern):
                assert seen.setdefault(path, number) == number, path


@pytest.mark.parametrize("name", LIBRARIES)
def test_aliases_end_somewhere(name: str) -> None:
    models = Models()
    for alias in library(name).aliases:
        dotted = alias.replace("*", "module") + ".Name"
        assert models.canonical(models.canonical(dotted)) == models.canonical(dotted), alias


def test_every_root_has_a_file_and_every_file_a_root() -> None:
    index = tomllib.loads(resources.files("gradaudit.rules").joinpath("models", "index.toml").read_text())
    assert set(index["roots"].values()) == set(LIBRARIES)
    assert {file for files in index["frameworks"].values() for file in files.split()} <= set(LIBRARIES)


@pytest.mark.parametrize(
    ("dotted", "path"),
    [
        ("torch.nn.modules.linear.Linear", "torch.nn.Linear"),
        ("torch.functional.F.mse_loss", "torch.nn.functional.mse_loss"),
        ("torch.distributions.normal.Normal", "torch.distributions.Normal"),
        ("torch.distributions.transforms.TanhTransform", "torch.distributions.TanhTransform"),
        ("torch.optim.adam.Adam", "torch.optim.Adam"),
        ("jax.tree_util.tree_map", "jax.tree.map"),
        ("jax.remat", "jax.checkpoint"),
        ("flax.linen.relu", "jax.nn.relu"),
        ("flax.linen.initializers.orthogonal", "jax.nn.initializers.orthogonal"),
        ("haiku.nets.MLP", "haiku.MLP"),
        ("tensorflow.compat.v1.square", "tf.math.square"),
        ("keras.layers.Dense", "tf.keras.layers.Dense"),
        ("tensorflow_probability.substrates.jax.distributions.Normal", "tfp.distributions.Normal"),
        ("rlax._src.value_learning.td_learning", "rlax.td_learning"),
        ("pytorch_lightning.LightningModule", "torch.nn.Module"),
        ("somewhere.else", "somewhere.else"),
    ],
)
def test_canonical(dotted: str, path: str) -> None:
    assert Models().canonical(dotted) == path


def test_what_passes() -> None:
    models = Models.load(["torch"])
    gather = models.function("torch.gather")
    assert gather is not None and gather.passes(0) and not gather.passes("index") and "index" in gather.index
    first = models.method("Tensor", "topk")
    assert first is not None and first.result == "first" and first.args[0] == "self"
    loss = models.function("torch.nn.functional.cross_entropy")
    assert loss is not None and loss.passes("target") and not loss.passes("reduction")
    older = models.function("tensorflow.compat.v1.nn.softmax_cross_entropy_with_logits")
    newer = models.function("tensorflow.nn.softmax_cross_entropy_with_logits")
    assert older is not None and newer is not None and newer.passes("labels") and not older.passes("labels")
    anything = models.function("numpy.anything.at_all")
    assert anything is not None and not anything.passes(0)
    assert models.function("torch.no_such_name") is None and models.method("Tensor", "no_such_name") is None


def test_methods_follow_the_framework() -> None:
    models = Models()
    torch, jax = models.method("Distribution", "sample", "torch"), models.method("Distribution", "sample", "jax")
    assert torch is not None and torch.kind == "stop"
    assert jax is not None and jax.op == "rsample"


def test_a_star_is_any_class() -> None:
    models = Models()
    model, tokenizer = (
        models.function(f"transformers.{name}.from_pretrained") for name in ("NewModel", "AutoTokenizer")
    )
    assert model is not None and model.kind == "module" and tokenizer is not None and tokenizer.kind == "constant"


def test_names_in_rows_are_expanded() -> None:
    assert expand("a.{b,c}{,_}") == ["a.b", "a.b_", "a.c", "a.c_"]


def test_an_order_puts_the_value_first() -> None:
    row = Models().function("jax.lax.clamp")
    assert row is not None and [row.args[place] for place in row.order] == ["x", "min", "max"]


def test_reading_is_quick() -> None:
    """Both large files, in a fresh interpreter: lint pays for this at every start."""
    code = """
import time
from gradaudit.models import Models
start = time.process_time()
models = Models.load(["torch", "jax"])
models.function("torch.abs"), models.function("jax.numpy.abs")
print(time.process_time() - start)
"""
    spent = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )
    assert spent < 0.06 * 3  # it takes 0.02 s; slow machines are not a failure
