"""One fixture judged by both halves: what lint says of its text, and what check measures when it runs.

check audits what a fixture has cases for, its `loss_fn` on its `make_inputs()`, or the whole program (`programs.load`),
its own or one that drives it: every loss that it differentiates. An info of check about a jax argument that is not
differentiated has no counterpart in the text.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

import programs
from expectations import LINT_ONLY, ROOT, Expectation, Fixture, Found, disagreements

from gradaudit.check import CheckReport, Options, check_case, check_target
from gradaudit.config import Config
from gradaudit.dynamic.case import Case
from gradaudit.dynamic.collect import collect_file
from gradaudit.finding import Finding
from gradaudit.lint import lint_paths

OUTSIDE = {
    "GA103": "which network the target should have used is known from an update that a loss alone does not show",
    "GA104": "what a switch would do if it were set otherwise is in the text only",
    "GA403": "a value that is thrown away is not in the loss",
    "GA501": "who holds the target is harmless until a loss reaches it; lint reads it off the constructor",
    "GA502": "one network under two names is only one network when it runs, if its names do not tell",
    "GA503": "that something never happens is in the text only",
    "GA504": "an update that is no part of a loss is not judged",
    "GA505": "an update that is no part of a loss is not judged",
    "GA601": "how members were drawn is decided outside of the framework",
    "GA602": "how members were drawn is decided outside of the framework",
    "GA900": "what cannot be parsed cannot run",
    "GA901": "a comment does not run",
}
"""Codes that a run cannot show, or need not: check may say them, and may not."""

ELSEWHERE = {
    "GA501": "the optimizer was made before the loss runs: check stands at the loss that it steps",
    "GA502": "the second name was given before the loss runs: check stands where the network is used",
}
"""Codes that check says on another line than lint."""

DRIVERS = {
    "clean/reinforce_agent_torch": "act_and_update",
    "ga101/a3c_torch_last_in_list_live": "train_in_environment",
    "ga101/a3c_torch_last_in_list_ok": "train_in_environment",
    "ga201/collected_batch_torch_live": "collect_and_update",
    "ga201/collected_batch_torch_ok": "collect_and_update",
    "ga201/ppo_agent_torch_act_live": "decide_and_update",
    "ga201/ppo_agent_torch_act_ok": "decide_and_update",
    "ga201/ppo_agent_torch_caller_ok": "interact_and_update",
    "ga304/quantiser_template_torch_live": "quantise_vectors",
    "ga304/quantiser_template_torch_ok": "quantise_vectors",
    "language/switch_flag_live_by_flag": "stop_switched_off",
    "ga505/layer_statistic_torch_module_live": "sum_of_layers",
    "ga505/layer_statistic_torch_module_ok": "sum_of_layers",
    "ga505/prototypes_torch_averaged_live": "likeness_to_groups",
    "ga505/prototypes_torch_averaged_ok": "likeness_to_groups",
}
"""Fixtures whose methods nobody calls in turn, and who does so in the run: a program in `drivers/`, which lint is not
shown."""

SETTINGS = {"language/isinstance_arms_lost": {"KIND": "plain"}}
"""Variables of the environment that choose the arm of a program in which its defect stands."""

JAX = re.compile(r"^\s*(?:import|from) (?:jax|flax|haiku|optax|equinox)\b", re.MULTILINE)
TAKES = re.compile(r"grad\b|vjp|jac(rev|fwd)|linearize")
TORCH = re.compile(r"^\s*(?:import|from) torch\b", re.MULTILINE)


def runs(fixture: Fixture) -> bool:
    """Whether there is something to compare: check knows its framework, it can be run, and jax is asked for a gradient
    (functions of arguments that only hand out a target are lint's)."""
    source = fixture.source
    if LINT_ONLY.search(source) or not (JAX.search(source) or TORCH.search(source)):
        return False
    return framework(fixture) != "jax" or offers_loss(fixture) or offers_cases(fixture) or bool(TAKES.search(source))


SHORT = 40
"""Lines of a torch program that is always compared."""

JAX_COMPARED = frozenset(
    """
    clean/frozen_transform_jax clean/meta_gradient_jax clean/residual_gradient_jax ga101/dqn_eqx_partition_ok
    ga101/dqn_jax_same_params ga101/dqn_jax_target_outside ga101/qr_dqn_jax_ok 
    ga101/rlax_user_ok ga102/kl_to_target_jax_live ga102/kl_to_target_jax_ok ga202/iql_jax_ok
    ga301/latent_jax_own_encoding ga301/latent_jax_reconstructed_ok
    ga301/moco_jax_live ga301/moco_jax_ok ga303/vqvae_jax_no_stops ga303/vqvae_jax_ok
    ga304/binary_jax_missing ga304/binary_jax_ok ga401/value_jax_ok ga402/wrong_argument_jax_ok
    """.split()
)
"""The jax programs that are always compared."""


def always(fixture: Fixture) -> bool:
    """Whether the fixture is compared in every run of the tests."""
    if framework(fixture) == "jax":
        return fixture.name in JAX_COMPARED
    return fixture.source.count("\n") < SHORT


def framework(fixture: Fixture) -> str:
    return "jax" if JAX.search(fixture.source) and "import torch" not in fixture.source else "torch"


WHOLE = frozenset(
    """
    ga101/imagined_unnamed_torch_live ga102/expectile_value_torch_live
    ga204/shared_encoder_torch_actor_trains_encoder ga301/moco_jax_live ga401/encoder_torch_decorator
    """.split()
)
"""Programs whose loss alone does not show the defect: which parameters are stepped, which follow others, which other
loss rightly takes gradient from what a helper gives."""


def offers_loss(fixture: Fixture) -> bool:
    """Whether a loss stands beside its inputs; with `argnums`, only the program knows what is differentiated."""
    source = fixture.source
    return (
        fixture.name not in WHOLE
        and all(word in source for word in ("def loss_fn(", "def make_inputs("))
        and "argnums=" not in source
    )


def runs_whole(fixture: Fixture) -> bool:
    """Whether the comparison, which every run of the tests makes, runs the fixture's program from start to end."""
    return runs(fixture) and always(fixture) and not offers_loss(fixture) and not offers_cases(fixture)


def offers_cases(fixture: Fixture) -> bool:
    """Whether losses say beside them how they are called: functions of arguments, that no program differentiates."""
    return fixture.path.is_file() and "@gradaudit.case(" in fixture.source


def differences(fixture: Fixture, findings: list[Finding]) -> list[str]:
    """What check's findings say otherwise than the fixture expects of lint; empty if they agree."""
    found = [Found(Path(one.location.path).resolve(), one.location.line, one.code, one.severity) for one in findings]
    expected = [Expectation(one.path, one.line, one.codes, None, one.label) for one in fixture.expectations]
    limits = [one for one, given in zip(expected, fixture.expectations, strict=True) if given.missing]
    wanted = [
        one for one in expected if one not in limits and (not one.codes <= OUTSIDE.keys() or any(map(one.fits, found)))
    ]
    expected_codes = {code for one in expected for code in one.codes}
    found = [one for one in found if not any(limit.fits(one) for limit in limits)]
    found = [one for one in found if one.code not in ELSEWHERE or one.code not in expected_codes]
    return disagreements([one for one in wanted if not one.codes <= ELSEWHERE.keys()], found)


def checked(fixture: Fixture, text: bool = False) -> list[Finding]:
    """check's findings, each line and code once; with `text`, with what it takes from lint and bears out."""
    with _forgotten(), mock.patch.dict(os.environ, SETTINGS.get(fixture.name, {})):
        if offers_cases(fixture):
            reports = [check_case(target, case, Options(text=text)) for target, case in collect_file(fixture.path)]
        else:
            reports = [_loss(fixture, text) if offers_loss(fixture) else _program(fixture, text)]
    findings = [one for report in reports for one in report.findings]
    found = {(one.location.path, one.location.line, one.code): one for one in findings}
    return [one for one in found.values() if (one.code, one.severity) != ("GA102", "info")]


def linted(fixture: Fixture) -> list[Finding]:
    return list(lint_paths([fixture.path], Config(), debug=True).findings)


def strangers(one: Iterable[Finding], other: Iterable[Finding]) -> list[str]:
    """Findings of both halves, on the same line, that do not have a single word of their names in common."""
    left, right = _named(one), _named(other)
    return [
        f"line {key[1]} {key[2]}: {', '.join(sorted(left[key]))} or {', '.join(sorted(right[key]))}?"
        for key in sorted(left.keys() & right.keys())
        if left[key] and right[key] and not left[key] & right[key]
    ]


def _named(findings: Iterable[Finding]) -> dict[tuple[str, int, str], set[str]]:
    """The words of the names that each finding's message has: `agent.q_net` is agent and q_net."""
    words: dict[tuple[str, int, str], set[str]] = {}
    for one in findings:
        key = (str(Path(one.location.path).resolve()), one.location.line, one.code)
        for name in re.findall(r"`([\w.\[\]]+)`", one.message):
            words.setdefault(key, set()).update(part for part in re.split(r"[.\[\]]", name) if not part.isdigit())
    return words


def _loss(fixture: Fixture, text: bool) -> CheckReport:
    (report,) = check_target(f"{fixture.path.relative_to(ROOT)}:loss_fn", Options(app_dir=str(ROOT), text=text))
    return report


def _program(fixture: Fixture, text: bool) -> CheckReport:
    main = fixture.path / "main.py" if fixture.path.is_dir() else fixture.path
    if (driver := DRIVERS.get(fixture.name)) is not None:
        main = Path(__file__).parent / "drivers" / f"{driver}.py"
        _import("fixture", fixture.path)
    if framework(fixture) == "jax":
        from gradaudit.dynamic.jax_updates import watching

        with watching():
            target = programs.load(main, fixture.files)
    else:
        import torch

        torch.manual_seed(0)
        target = programs.load(main, fixture.files)
    target.roots = (*target.roots, str(fixture.path.parent))
    return check_case(target, Case(inputs=()), Options(framework=framework(fixture), text=text))


def _import(name: str, path: Path) -> None:
    """The fixture as the module of that name, for the program that drives it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


@contextmanager
def _forgotten() -> Iterator[None]:
    """A program's modules are dropped when it has been judged: the next one must not find its networks.

    What was there before is frozen meanwhile, so that nobody looks through all of torch's objects for a program's.
    """
    before: dict[str, ModuleType] = dict(sys.modules)
    gc.freeze()
    try:
        yield
    finally:
        sys.modules["__main__"] = before["__main__"]
        for name in [name for name in sys.modules if name not in before]:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(ROOT / "fixtures")):
                del sys.modules[name]
        gc.collect()
        gc.unfreeze()
