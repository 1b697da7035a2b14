"""`gradaudit check`: the command."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradaudit.errors import CLEAN, FINDINGS, INTERRUPTED, USAGE, GradauditError, UsageError, UserCodeError

if TYPE_CHECKING:
    from gradaudit.check import CheckReport, Options

KINDS = (".html", ".svg", ".dot")
"""What --graph draws."""


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--inputs", metavar="MODULE:FUNCTION", default="", help="A function that gives the loss's arguments.")
@click.option("--input", "specs", multiple=True, metavar="NAME=DTYPE:SHAPE", help="Generate one: obs=float32:32x4.")
@click.option("--frozen", multiple=True, metavar="PATTERN", help="Parameters that the loss must not train. Repeatable.")
@click.option("--trained", multiple=True, metavar="PATTERN", help="Parameters that the loss must train. Repeatable.")
@click.option("--argnums", metavar="N[,N]", default="", help="Differentiated arguments (jax; default: 0).")
@click.option("--framework", type=click.Choice(("torch", "jax")), help="Whose loss it is (default: found out).")
@click.option("--app-dir", metavar="DIR", default="", help="Where modules are imported from (default: here).")
@click.option("--factory", metavar="[MODULE:]FUNCTION", default="", help="Builds the object of a method.")
@click.option("--seed", type=int, default=None, help="For the loss, generated inputs and imports (default: 0).")
@click.option("--output-format", type=click.Choice(("text", "json")), default="text", show_default=True)
@click.option("--graph", metavar="FILE", default="", help="Draw the tape to a .html, .svg or .dot file.")
@click.option(
    "--fail-on",
    type=click.Choice(("info", "warning", "error", "never")),
    default="warning",
    show_default=True,
    help="The lowest severity that makes the exit code 1.",
)
def check(
    targets: tuple[str, ...],
    inputs: str,
    specs: tuple[str, ...],
    frozen: tuple[str, ...],
    trained: tuple[str, ...],
    argnums: str,
    framework: str | None,
    app_dir: str,
    factory: str,
    seed: int | None,
    output_format: str,
    graph: str,
    fail_on: str,
) -> None:
    """Run a loss and prove which parameters it trains and which it must not.

    TARGET is `package.module:function`, `path/file.py:function`, a dotted attribute after the colon (a method of an
    object), or a path: then every `@gradaudit.case` below it is run.

    A pattern is a glob over dotted names: of an argument or a module-level object, then attributes, keys and indices
    (`target_net`, `agent.critics.0.*`, `params.target`). Inputs come from --inputs, from the case, from a
    `make_inputs`, `example_inputs`, `make_batch` or `example_batch` of the module, or from --input and jaxtyping
    annotations.

    Exits with 0 if there is nothing to report, 1 if there is, 2 if the loss cannot be audited, 101 if gradaudit itself
    failed, 130 if it was interrupted.
    """
    from gradaudit.check import Options

    options = Options(
        inputs, specs, _patterns(frozen), _patterns(trained), _numbers(argnums), framework or "", app_dir, factory, seed
    )
    failures: list[str] = []
    _can_draw(graph)
    with _user_errors(), redirect_stdout(sys.stderr):
        reports = list(_reports(targets, options, failures))
    if not reports and not failures:
        raise UsageError(
            f"{targets[0]} holds no `@gradaudit.case`: put one beside a loss, or name it ({_named(targets[0])})"
        )
    if any(report.rank for report in reports):
        sys.exit(CLEAN)
    _print(reports, output_format, single=len(targets) == 1 and not _is_path(targets[0]), failures=failures)
    if graph:
        _draw(reports, graph)
    if failures:
        sys.exit(USAGE)
    sys.exit(FINDINGS if any(report.fails(fail_on) for report in reports) else CLEAN)


def _reports(targets: tuple[str, ...], options: Options, failures: list[str]) -> Iterator[CheckReport]:
    from gradaudit.check import check_target, reports_of

    def failed(where: str, error: GradauditError) -> None:
        if isinstance(error, UserCodeError):
            click.echo(_traceback(error.cause), err=True, nl=False)
        click.echo(f"gradaudit: error: {where}: {error}", err=True)
        failures.append(where)

    for target in targets:
        if _is_path(target):
            yield from reports_of([target], options, failed, _bar if sys.stderr.isatty() else iter)
        else:
            yield from check_target(target, options)


def _bar(files: Sequence[Path]) -> Iterator[Path]:
    """The files, with a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    name = TextColumn("{task.fields[file]}")
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), name)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(files), file="")
        for file in files:
            progress.update(task, file=file.name)
            yield file
            progress.advance(task)


def _is_path(target: str) -> bool:
    return ":" not in target and os.path.exists(target)


def _patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one.strip() for value in values for one in value.split(",") if one.strip())


def _numbers(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers", param_hint="--argnums") from None


def _print(reports: list[CheckReport], output_format: str, single: bool, failures: list[str]) -> None:
    from gradaudit.report import check_json, check_text

    if output_format == "json":
        text = check_json.render(reports[0] if single and len(reports) == 1 else reports)
    else:
        in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        text = "\n".join(check_text.render(report, in_colour) for report in reports)
        if not single:
            text += ("\n" if reports else "") + _tally(reports, failures)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", errors="surrogateescape"))
    sys.stdout.buffer.flush()


def _tally(reports: list[CheckReport], failures: list[str]) -> str:
    """The last lines: every case with its outcome, and the numbers."""
    lines = []
    for report in reports:
        codes = sorted({finding.code for finding in report.findings})
        lines.append(f"{'found' if codes else 'clean'}  {report.target}{'  ' + ', '.join(codes) if codes else ''}")
    lines += [f"error  {where}" for where in failures]
    wrong = sum(bool(report.findings) for report in reports)
    count = f"{len(reports)} case{'' if len(reports) == 1 else 's'}, {wrong} with findings"
    ending = f", {len(failures)} could not be audited" if failures else ""
    return "\n".join([*lines, f"{count}{ending}."]) + "\n"


def _named(target: str) -> str:
    return f"{target}:loss_fn" if target.endswith(".py") else f"{os.path.join(target, 'file.py')}:loss_fn"


def _can_draw(path: str) -> None:
    """Say before the loss is run that there is nowhere to draw to, or no way."""
    if not path:
        return
    if Path(path).suffix not in KINDS:
        raise UsageError(f"--graph draws {', '.join(KINDS)} files, not {Path(path).suffix or path!r}")
    if not Path(path).parent.is_dir():
        raise UsageError(f"--graph {path}: there is no such folder")
    if Path(path).is_dir():
        raise UsageError(f"--graph {path}: this is a folder")


def _draw(reports: list[CheckReport], path: str) -> None:
    """The whole drawing or nothing: a file that is there is replaced in one go."""
    from gradaudit.report import graph

    text = graph.render(reports, Path(path).suffix)
    beside = f"{path}.{os.getpid()}.part"
    try:
        Path(beside).write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(f"--graph {path}: {error.strerror}") from error
    finally:
        Path(beside).unlink(missing_ok=True)


@contextmanager
def _user_errors() -> Iterator[None]:
    """The traceback of the user's code without our frames, then one line; Ctrl-C in one line."""
    try:
        yield
    except UserCodeError as error:
        click.echo(_traceback(error.cause), err=True, nl=False)
        click.echo(f"gradaudit: error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("gradaudit: interrupted; nothing of the loss's state was kept", err=True)
        sys.exit(INTERRUPTED)
    except GradauditError:
        raise
    except SystemExit as error:
        click.echo(f"gradaudit: error: the loss's code ended the process (exit {error.code})", err=True)
        sys.exit(USAGE)


def _traceback(cause: BaseException) -> str:
    """From the first frame that is the user's."""
    ours = str(Path(__file__).resolve().parent)
    step = cause.__traceback__
    while step is not None and _skipped(step.tb_frame.f_code.co_filename, ours):
        step = step.tb_next
    return "".join(traceback.format_exception(type(cause), cause.with_traceback(step), step))


def _skipped(filename: str, ours: str) -> bool:
    return filename.startswith((ours, "<frozen importlib"))
