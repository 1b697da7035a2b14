"""The command line. Nothing heavy is imported before it is needed: `--version` starts as fast as click does."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradaudit import __version__
from gradaudit.errors import CLEAN, FINDINGS, INTERNAL, INTERRUPTED, GradauditError

if TYPE_CHECKING:
    from gradaudit.config import Config
    from gradaudit.report import Report

ISSUES = "the issue tracker of gradaudit"
FORMATS = ("text", "concise", "json", "json-lines", "sarif", "github", "gitlab", "junit")
ELSEWHERE = {"check": "gradaudit.check_cli"}
"""Commands with a module of their own, imported when they are asked for."""


class Commands(click.Group):
    """The commands of this file, and those of `ELSEWHERE`."""

    def list_commands(self, context: click.Context) -> list[str]:
        present = [name for name, module in ELSEWHERE.items() if importlib.util.find_spec(module)]
        return sorted([*super().list_commands(context), *present])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in ELSEWHERE and importlib.util.find_spec(ELSEWHERE[name]):
            command: click.Command = getattr(importlib.import_module(ELSEWHERE[name]), name)
            return command
        return super().get_command(context, name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradaudit")
def cli() -> None:
    """A stop-gradient audit for PyTorch, JAX and TensorFlow training code."""


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH]...")
@click.option("--output-format", type=click.Choice(FORMATS), help="How to tell it (default: text).")
@click.option(
    "--select", multiple=True, metavar="CODES", help="Only these rules: codes, prefixes or names, with commas."
)
@click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules.")
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches, as in a .gitignore. Repeatable."
)
@click.option(
    "--fail-on",
    type=click.Choice(("info", "warning", "error", "never")),
    help="The lowest severity that makes the exit code 1 (default: warning).",
)
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Use this configuration file."
)
@click.option("--no-config", is_flag=True, help="Read no configuration file.")
@click.option("--no-gitignore", is_flag=True, help="Lint files that .gitignore names, too.")
@click.option("--no-suppressions", is_flag=True, help="Report what comments suppress, too.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.option("--force-exclude", is_flag=True, help="Apply --exclude to paths that are named, too (for pre-commit).")
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), metavar="N", help="Processes to use (default: one a core, if it pays)."
)
@click.option("--debug", is_flag=True, help="Stop with a traceback at an internal error.")
def lint(
    paths: tuple[Path, ...],
    output_format: str | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    exclude: tuple[str, ...],
    fail_on: str | None,
    config: Path | None,
    no_config: bool,
    no_gitignore: bool,
    no_suppressions: bool,
    no_progress: bool,
    force_exclude: bool,
    jobs: int | None,
    debug: bool,
) -> None:
    """Follow gradient from parameters to losses through PATHs (default: the working directory).

    Exits with 0 if there is nothing to report, 1 if there is, 2 if the command line or the configuration is wrong,
    101 if gradaudit itself failed.
    """
    settings = _settings(config, no_config).with_options(
        output_format=output_format,
        select=_codes(select),
        ignore=_codes(ignore),
        exclude=exclude or None,
        fail_on=fail_on,
        respect_gitignore=False if no_gitignore else None,
        suppressions=False if no_suppressions else None,
        force_exclude=True if force_exclude else None,
    )
    from gradaudit.lint import quiet_collector

    with quiet_collector():
        report = _lint(paths or (Path("."),), settings, show_progress=not no_progress, debug=debug, jobs=jobs)
        for problem in report.problems:
            click.echo(f"gradaudit: {problem}", err=True)
        if not report.files:
            click.echo("gradaudit: no Python files to lint", err=True)
        _print(report, settings)
        click.get_current_context().obj(FINDINGS if report.fails(settings.fail_on) else CLEAN)


def _settings(config: Path | None, no_config: bool) -> Config:
    from gradaudit import config as configuration

    if no_config:
        return configuration.Config(root=Path.cwd())
    return configuration.load(config, Path.cwd())


def _codes(values: tuple[str, ...]) -> tuple[str, ...] | None:
    """`--select GA101,GA2 --select GA3` as a tuple; None where the option is absent."""
    return tuple(code.strip() for value in values for code in value.split(",") if code.strip()) or None


def _lint(paths: Sequence[Path], settings: Config, show_progress: bool, debug: bool, jobs: int | None) -> Report:
    from gradaudit.lint import lint_paths

    progress = _progress if show_progress and sys.stderr.isatty() else None
    return lint_paths(paths, settings, progress=progress, debug=debug, jobs=jobs)


def _print(report: Report, settings: Config) -> None:
    from gradaudit import report as reports

    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    text = reports.render(report, settings.output_format, reports.colour if in_colour else reports.plain)
    _write(text)


def _write(text: str) -> None:
    """To stdout as UTF-8, whatever the locale says: reports are the same everywhere."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
        return
    buffer.write(text.encode("utf-8", errors="surrogateescape"))
    buffer.flush()


def _progress(files: Sequence[Path]) -> Iterator[Path]:
    """The files, with a bar on stderr once a second has gone by."""
    from gradaudit.progress import bar

    return bar(files)


@cli.command()
@click.option("--output-format", type=click.Choice(("text", "json")), default="text", show_default=True)
def rules(output_format: str) -> None:
    """List the rules."""
    from gradaudit import catalog

    loaded = [entry.load() for entry in catalog.entries()]
    if output_format == "json":
        import json

        rows = [{"code": rule.code, "name": rule.name, "summary": rule.summary} for rule in loaded]
        _write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        return
    width = max((len(rule.name) for rule in loaded), default=0)
    _write("".join(f"{rule.code}  {rule.name:{width}}  {rule.summary}\n" for rule in loaded))


@cli.command()
@click.argument("rule")
@click.option("--output-format", type=click.Choice(("text", "markdown")), default="text", show_default=True)
def explain(rule: str, output_format: str) -> None:
    """Show the page of a rule (a code such as GA101, or a name)."""
    from gradaudit import catalog

    found = catalog.find(rule).load()
    page = f"# {found.code} {found.name}: {found.page}\n"
    if output_format == "markdown" or not sys.stdout.isatty():
        _write(page)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(100, Console().width)).print(Markdown(page))


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Our errors as one line and their exit code; anything else as our bug, with a request to report it."""
    try:
        yield
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("gradaudit: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except GradauditError as error:
        click.echo(f"gradaudit: error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has left (`| head`); a second failure at interpreter exit is not news.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLEAN)
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo(
            f"gradaudit: this is a bug in gradaudit {__version__}. Please report it with the traceback above: {ISSUES}",
            err=True,
        )
        sys.exit(INTERNAL)


def _leave(code: int) -> None:
    """End the process now: taking a big heap apart object by object is time that nobody gets anything for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(arguments: Iterable[str] | None = None) -> None:
    """The `gradaudit` command; ends the process. With `arguments` by raising SystemExit, as tests like it."""
    leave = _leave if arguments is None else sys.exit
    words = None if arguments is None else list(arguments)
    with _reported_errors():
        code = cli.main(args=words, prog_name="gradaudit", obj=leave, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else CLEAN)
