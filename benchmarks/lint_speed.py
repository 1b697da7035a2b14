"""How fast lint is: `gradaudit lint` on whole folders, cold, beside `ast.parse` of the same files.

    python benchmarks/lint_speed.py FOLDER... [--repeat 3] [--jobs 1] [--json]

For each folder: files, lines, seconds of `ast.parse`, seconds of lint (a new process each time, the best of several),
their ratio, and peak memory of the largest process. At the end: how long `gradaudit --version` takes over a bare
interpreter's start. On a machine that others use, compare processor seconds and ratios, not wall seconds.

What to run it on: the package folder of stable-baselines3 and the whole of torchrl (`stable_baselines3`, `torchrl` of
their repositories); for robustness, with `--repeat 1`, what is installed:

    cd $(python -c "import site; print(site.getsitepackages()[0])")
    python benchmarks/lint_speed.py torch jax flax stable_baselines3 numpy sympy --repeat 1 --jobs 8
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

from gradaudit.config import Config
from gradaudit.discover import files

PROBE = "import resource; import sys; from gradaudit.cli import main\ntry: main(sys.argv[1:])\nfinally: "
PROBE += "print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)), "
PROBE += "file=sys.stderr)"
BYTECODE = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
"""Our own modules are compiled once, as an installed package's are."""


def parse_seconds(paths: list[Path]) -> tuple[float, int]:
    """Seconds to read and parse the files without the garbage collector, and how many lines they have."""
    lines = 0
    gc.disable()
    start = time.perf_counter()
    for path in paths:
        data = path.read_bytes()
        lines += data.count(b"\n")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    seconds = time.perf_counter() - start
    gc.enable()
    return seconds, lines


def run(command: list[str], cwd: Path) -> tuple[float, float, subprocess.CompletedProcess[str]]:
    """(wall seconds, user and system seconds, the finished process)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=BYTECODE)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def measure(folder: Path, repeat: int, jobs: int) -> dict[str, object]:
    """One row of the table. Raises SystemExit where lint ends with neither 0 nor 1."""
    here = Path.cwd()
    os.chdir(folder)
    paths = files([Path(".")], Config(root=folder))
    parse, lines = min(parse_seconds(paths) for _ in range(repeat))
    os.chdir(here)
    command = [sys.executable, "-c", PROBE, "lint", "--no-config", "--output-format", "json", "--jobs", str(jobs), "."]
    runs = [run(command, folder) for _ in range(repeat)]
    bad = [done for *_, done in runs if done.returncode not in (0, 1)]
    if bad:
        raise SystemExit(f"{folder}: exit {bad[0].returncode}\n{bad[0].stderr[-2000:]}")
    lint = min(cpu for _, cpu, _ in runs)
    return {
        "folder": folder.name,
        "files": len(paths),
        "lines": lines,
        "parse_s": round(parse, 3),
        "lint_cpu_s": round(lint, 3),
        "lint_wall_s": round(min(wall for wall, *_ in runs), 3),
        "ratio": round(lint / parse, 1) if parse else 0.0,
        "peak_mib": max(int(done.stderr.split()[-1]) for *_, done in runs) // 1024,
        "findings": len(json.loads(runs[0][2].stdout)),
    }


def start_up(repeat: int) -> dict[str, float]:
    """Milliseconds that `--version` takes, and a bare interpreter's."""
    bare = min(run([sys.executable, "-c", "pass"], Path.cwd())[0] for _ in range(repeat + 2))
    version = min(run([sys.executable, "-m", "gradaudit", "--version"], Path.cwd())[0] for _ in range(repeat + 2))
    return {
        "bare_ms": round(1000 * bare),
        "version_ms": round(1000 * version),
        "over_ms": round(1000 * (version - bare)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [measure(folder.resolve(), args.repeat, args.jobs) for folder in args.folders]
    start = start_up(args.repeat)
    if args.json:
        print(json.dumps({"folders": rows, "start": start}, indent=2))
        return
    head = ("folder", "files", "lines", "parse_s", "lint_cpu_s", "lint_wall_s", "ratio", "peak_mib", "findings")
    print(f"{head[0]:32s}" + "".join(f"{name:>12s}" for name in head[1:]))
    for row in rows:
        print(f"{row['folder']:32s}" + "".join(f"{row[name]!s:>12s}" for name in head[1:]))
    print(f"start: {start['version_ms']} ms for --version, {start['bare_ms']} ms bare, {start['over_ms']} ms over it")


if __name__ == "__main__":
    main()
