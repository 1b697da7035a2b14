"""check on the batches and modules of other libraries: TensorDict, Lightning with and without its own loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import gradaudit  # noqa: E402

net = nn.Linear(4, 2)
target_net = copy.deepcopy(net)


def draw(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def leak(batch: Any) -> Any:
    chosen = net(batch["obs"]).gather(1, batch["action"][:, None])[:, 0]
    later = target_net(batch["next", "obs"]).amax(1)
    return F.mse_loss(chosen, batch["next", "reward"] + 0.9 * later)


def test_tensordict() -> None:
    tensordict = pytest.importorskip("tensordict")
    batch = tensordict.TensorDict(
        {"obs": draw(7, 4), "action": torch.arange(7) % 2, "next": {"obs": draw(7, 4), "reward": draw(7)}}, [7]
    )

    def right(batch: Any) -> Any:
        with torch.no_grad():
            goal = batch["next", "reward"] + 0.9 * target_net(batch["next"]["obs"]).amax(1)
        chosen = net(batch["obs"]).gather(1, batch["action"][:, None])[:, 0]
        return tensordict.TensorDict({"loss": F.mse_loss(chosen, goal), "goal": goal.mean()}, [])

    report = gradaudit.check(leak, (batch,), frozen="target_net")
    assert [(one.code, one.severity) for one in report.findings] == [("GA102", "error")]
    assert report.proofs[0] is not None and report.proofs[0].identical
    assert gradaudit.check(leak, (batch,)).findings
    assert gradaudit.check(right, (batch,), frozen="target_net", trained="net").ok


def modules(base: type) -> tuple[type, type, type]:
    """A module in Lightning's own loop, one that stops its target, one that optimizes by hand."""

    class Leaks(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(4, 1)
            self.lagged_model = copy.deepcopy(self.model)

        def configure_optimizers(self) -> Any:
            return {"optimizer": torch.optim.Adam(self.model.parameters())}

        def goal(self, gain: Any, later: Any) -> Any:
            return gain + 0.9 * self.lagged_model(later).squeeze(-1)  # the leak

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            now, gain, later = batch
            loss = F.mse_loss(self.model(now).squeeze(-1), self.goal(gain, later))
            self.log("loss", loss, prog_bar=True)
            return loss

    class Stops(Leaks):
        def goal(self, gain: Any, later: Any) -> Any:
            with torch.no_grad():
                return super().goal(gain, later)

    class ByHand(Leaks):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    return Leaks, Stops, ByHand


def check_lightning(base: type) -> None:
    batch = (draw(7, 4), draw(7), draw(7, 4)), 0
    leaks, stops, by_hand = (kind() for kind in modules(base))
    for module in (leaks, by_hand):
        before = dict(vars(module))
        for roles in ({"frozen": "lagged_model"}, {}):
            report = gradaudit.check(module.training_step, batch, **roles)
            assert len(report.findings) == 1 and report.findings[0].code in ("GA101", "GA102"), str(report)
            assert report.proofs[0] is not None and report.proofs[0].identical
        assert vars(module) == before, "the stand-ins for the Trainer are taken away again"
    assert gradaudit.check(stops.training_step, batch, frozen="lagged_model", trained="model").ok
    assert gradaudit.check(stops.training_step, batch).ok


@pytest.mark.filterwarnings("ignore")
def test_lightning() -> None:
    check_lightning(pytest.importorskip("lightning").LightningModule)


def test_lightning_by_its_name() -> None:
    """What is asked of Lightning is the name of its class and that a module without a Trainer refuses."""

    class LightningModule(nn.Module):
        _trainer = None

        def refuse(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("not attached to a `Trainer`")

        log = optimizers = manual_backward = toggle_optimizer = untoggle_optimizer = refuse

    check_lightning(LightningModule)


def test_a_network_made_and_initialised_in_the_function() -> None:
    """`orthogonal_` writes a view under no_grad, of which torch does not say how it was made."""

    def update() -> None:
        made = nn.Linear(4, 4)
        nn.init.orthogonal_(made.weight, 0.1)
        optimizer = torch.optim.SGD(made.parameters(), 0.1)
        made(draw(7, 4)).square().mean().backward()
        optimizer.step()

    assert gradaudit.check(update, ()).ok
