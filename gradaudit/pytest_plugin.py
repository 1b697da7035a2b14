"""pytest: every `@gradaudit.case` of a collected module is a test, and `gradaudit` is a fixture.

Light on purpose: nothing else of ours, and no framework, is imported before a case or the fixture is there.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradaudit.dynamic.case import Case


@pytest.fixture
def gradaudit() -> ModuleType:
    """The package: `gradaudit.check(...)`, `gradaudit.assert_no_leak(...)`."""
    import gradaudit as package

    return package


def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> list[pytest.Item] | None:
    """The cases of a loss (or of a class's methods) as items; everything else is left to pytest."""
    if "gradaudit.dynamic.case" not in sys.modules or not isinstance(collector, pytest.Module):
        return None
    from gradaudit.dynamic.case import cases_in

    found = [each for each in cases_in(collector.obj) if each[0].partition(".")[0] == name]
    items: list[pytest.Item] = []
    for path, loss, case in found:
        label = f"{path}[{case.name}]" if case.name else path
        items.append(CaseItem.from_parent(collector, name=label, loss=loss, attribute=path, case=case))
    return items or None


class CaseItem(pytest.Item):
    """One case: fails with the report as its text."""

    def __init__(self, *, loss: Any, attribute: str, case: Case, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.loss = loss
        self.attribute = attribute
        self.case = case

    def runtest(self) -> None:
        from gradaudit.check import LeakError, Options, check_case
        from gradaudit.dynamic import target

        module = self.getparent(pytest.Module)
        assert module is not None
        text = f"{self.path.name}:{self.attribute}"
        loaded = target.from_module(text, module.obj, self.attribute, self.case.factory, self.case.seed)
        report = check_case(loaded, self.case, Options())
        if report.fails():
            raise LeakError(report)

    def repr_failure(self, excinfo: Any, style: Any = None) -> str:
        from gradaudit.check import LeakError
        from gradaudit.errors import GradauditError, UserCodeError

        if isinstance(excinfo.value, LeakError):
            return str(excinfo.value.report)
        if isinstance(excinfo.value, GradauditError) and not isinstance(excinfo.value, UserCodeError):
            return f"gradaudit: {excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Any, int, str]:
        code = getattr(self.loss, "__code__", None)
        return self.path, getattr(code, "co_firstlineno", 1) - 1, self.name
