"""pytest: every `@gradaudit.case` of a collected module is a test, and `gradaudit` is a fixture.

Light on purpose: nothing of ours, and no framework, is imported before a case or the fixture is there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
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


def pytest_pycollect_makemodule(module_path: Any, parent: Any) -> Any:
    return _Module.from_parent(parent, path=module_path)


class _Module(pytest.Module):
    """A test module whose cases are tests beside its functions."""

    def collect(self) -> Iterator[Any]:
        yield from super().collect()
        if "gradaudit.dynamic.case" not in sys.modules:
            return
        from gradaudit.dynamic.case import cases_in

        for path, loss, case in cases_in(self.obj):
            name = f"{path}[{case.name}]" if case.name else path
            yield CaseItem.from_parent(self, name=f"gradaudit::{name}", loss=loss, path_in_module=path, case=case)


class CaseItem(pytest.Item):
    """One case: fails with the report as its text."""

    def __init__(self, *, loss: Any, path_in_module: str, case: Case, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.loss = loss
        self.path_in_module = path_in_module
        self.case = case

    def runtest(self) -> None:
        from gradaudit.check import LeakError, Options, check_case
        from gradaudit.dynamic import target

        module = self.getparent(pytest.Module)
        assert module is not None
        text = f"{self.path.name}:{self.path_in_module}"
        loaded = target.from_module(text, module.obj, self.path_in_module, self.case.factory, self.case.seed)
        report = check_case(loaded, self.case, Options())
        if report.fails():
            raise LeakError(report)

    def repr_failure(self, excinfo: Any, style: Any = None) -> str:
        from gradaudit.check import LeakError
        from gradaudit.errors import GradauditError

        if isinstance(excinfo.value, LeakError):
            return str(excinfo.value.report)
        if isinstance(excinfo.value, GradauditError):
            return f"gradaudit: {excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Any, int, str]:
        code = getattr(self.loss, "__code__", None)
        return self.path, getattr(code, "co_firstlineno", 1) - 1, self.name
