"""`--output-format junit`: one failed test case a finding; without findings, one that passed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from gradaudit.finding import Finding
from gradaudit.report import Paint, Report

_UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


def render(report: Report, paint: Paint) -> str:
    count = len(report.findings)
    suites = ElementTree.Element("testsuites", name="gradaudit", tests=str(max(count, 1)), failures=str(count))
    suite = ElementTree.SubElement(
        suites, "testsuite", name="gradaudit", tests=str(max(count, 1)), failures=str(count), errors="0"
    )
    for finding in report.findings:
        _case(suite, finding)
    if not count:
        ElementTree.SubElement(suite, "testcase", classname="gradaudit", name="No findings")
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, finding: Finding) -> None:
    where = finding.location
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_clean(where.path),
        name=f"{finding.code} {finding.name}:{where.line}:{where.column}",
        file=_clean(where.path),
        line=str(where.line),
    )
    failure = ElementTree.SubElement(case, "failure", type=finding.severity, message=_clean(finding.message))
    lines = [f"{where.path}:{where.line}:{where.column}: {finding.code} [{finding.severity}] {finding.message}"]
    lines += [f"  {step.location.path}:{step.location.line}: {step.message}" for step in finding.trace]
    if finding.fix is not None:
        lines.append(f"help: {finding.fix.message}")
    failure.text = _clean("\n".join(lines))


def _clean(text: str) -> str:
    return _UNSPEAKABLE.sub("?", text)
