"""Files of the project: where its root is, which module a dotted name means, and each file's text and tree."""

from __future__ import annotations

import ast
import os
import re
import sys
import warnings
from collections.abc import Iterable

ROOT_MARKS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
INSTALLED = ("site-packages", "dist-packages")
"""Folders of installed packages: each package in them is a project of its own."""

FRAMEWORKS = re.compile(r"\b(torch|jax|tensorflow|keras|flax|haiku|optax|rlax|equinox|lightning|pytorch_lightning)\b")


def project_root(path: str) -> str:
    """The nearest folder above `path` that has a project file, else the working directory (or the file's folder)."""
    folder = os.path.dirname(os.path.abspath(path))
    probe = folder
    while True:
        if os.path.basename(probe) in INSTALLED:
            return probe
        if any(os.path.exists(os.path.join(probe, mark)) for mark in ROOT_MARKS):
            return probe
        parent = os.path.dirname(probe)
        if parent == probe:
            break
        probe = parent
    here = os.getcwd()
    return here if folder == here or folder.startswith(here + os.sep) else folder


def definitions(tree: ast.Module) -> tuple[dict[str, list[tuple[ast.stmt, ast.alias | None]]], list[ast.ImportFrom]]:
    """What each top-level name of a module is bound by, and its star imports."""
    bound: dict[str, list[tuple[ast.stmt, ast.alias | None]]] = {}
    stars: list[ast.ImportFrom] = []

    def visit(body: Iterable[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                bound.setdefault(statement.name, []).append((statement, None))
            elif isinstance(statement, ast.Import):
                for alias in statement.names:
                    bound.setdefault(alias.asname or alias.name.split(".")[0], []).append((statement, alias))
            elif isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if alias.name == "*":
                        stars.append(statement)
                    else:
                        bound.setdefault(alias.asname or alias.name, []).append((statement, alias))
            elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for target in targets:
                    for name in (target,) if isinstance(target, ast.Name) else ast.walk(target):
                        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                            bound.setdefault(name.id, []).append((statement, None))
            elif isinstance(statement, ast.If):
                if not is_main_guard(statement.test):
                    visit(statement.body)
                    visit(statement.orelse)
            elif isinstance(statement, (ast.Try, ast.With)):
                visit(statement.body)
                for handler in getattr(statement, "handlers", ()):
                    fallback, _ = definitions(ast.Module(handler.body, []))
                    for key, entries in fallback.items():  # the try's own binding is the one that counts
                        bound.setdefault(key, entries)
                visit(getattr(statement, "orelse", ()))

    visit(tree.body)
    return bound, stars


def is_main_guard(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


class Module:
    """A parsed file. Evaluation of its names is the interpreter's work."""

    __slots__ = ("bound", "display", "file", "framework", "stars", "tree")

    def __init__(self, file: str, display: str, tree: ast.Module, framework: str) -> None:
        self.file = file
        self.display = display
        self.tree = tree
        self.bound, self.stars = definitions(tree)
        self.framework = framework


class Files:
    """Reads and parses the files of one or more projects, each once. `overlay` gives text in place of a file's."""

    def __init__(self, cwd: str, overlay: dict[str, str] | None = None) -> None:
        self.cwd = cwd
        self.overlay = {os.path.abspath(os.path.join(cwd, path)): text for path, text in (overlay or {}).items()}
        self.texts: dict[str, str | None] = {}
        self.trees: dict[str, ast.Module | None] = {}
        self.modules: dict[str, Module | None] = {}
        self.syntax_errors: dict[str, tuple[int, int, str]] = {}
        self.unreadable: dict[str, str] = {}
        self.roots: dict[str, str] = {}
        self.resolved: dict[tuple[str, str], str | None] = {}
        self.listings: dict[str, frozenset[str]] = {}
        self.opened: dict[str, None] = {}  # since `forget`
        self.projects: set[str] = set()
        self._python_files: dict[str, list[str]] = {}

    def display(self, file: str) -> str:
        """The file's path as reports show it: relative to the working directory."""
        relative = os.path.relpath(file, self.cwd)
        return relative.replace(os.sep, "/")

    def forget(self) -> None:
        """Begin to note anew which files are asked for."""
        self.opened, self.projects = {}, set()

    def text(self, file: str) -> str | None:
        self.opened[file] = None
        return self.peek(file)

    def peek(self, file: str) -> str | None:
        """The text of a file that nobody asks for by name."""
        if file not in self.texts:
            self.texts[file] = self._read(file)
        return self.texts[file]

    def _read(self, file: str) -> str | None:
        if file in self.overlay:
            return self.overlay[file]
        if file.endswith("__init__.py") and not os.path.exists(file):
            return ""  # a namespace package
        try:
            with open(file, "rb") as stream:
                data = stream.read()
            return decode(data)
        except (OSError, UnicodeDecodeError, SyntaxError, LookupError) as error:
            self.unreadable[file] = str(error)
            return None

    def module(self, file: str) -> Module | None:
        if file not in self.modules:
            self.modules[file] = self._parse(file)
        return self.modules[file]

    def check_syntax(self, file: str) -> None:
        """Notes whether a file can be parsed, and keeps no tree of it."""
        if file not in self.modules:
            self._parsed(file)

    def _parse(self, file: str) -> Module | None:
        text, tree = self.text(file), self.tree(file)
        return None if text is None or tree is None else Module(file, self.display(file), tree, framework_of(text))

    def tree(self, file: str) -> ast.Module | None:
        """The file's syntax tree, parsed once; None where it cannot be read or parsed."""
        if file not in self.trees:
            self.trees[file] = self._parsed(file)
        return self.trees[file]

    def _parsed(self, file: str) -> ast.Module | None:
        text = self.text(file)
        if text is None:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(text)
        except SyntaxError as error:
            self.syntax_errors[file] = (error.lineno or 1, error.offset or 1, error.msg)
            return None
        except (ValueError, RecursionError, MemoryError) as error:
            self.syntax_errors[file] = (1, 1, str(error) or type(error).__name__)
            return None

    def root(self, file: str) -> str:
        folder = os.path.dirname(file)
        if folder not in self.roots:
            self.roots[folder] = project_root(file)
        return self.roots[folder]

    def project(self, file: str) -> str:
        """The folder of everything that is developed together with a file: its root, or its package where that is an
        installed one."""
        root = self.root(file)
        if os.path.basename(root) not in INSTALLED:
            return root
        return os.path.join(root, os.path.relpath(file, root).split(os.sep)[0])

    def find(self, dotted: str, importer: str) -> str | None:
        """The file that `import dotted` means inside the project of `importer`, or None for anything outside it."""
        folder = os.path.dirname(importer)
        key = (dotted, folder)
        if key not in self.resolved:
            self.resolved[key] = self._find(dotted.split("."), folder, self.root(importer))
        return self.resolved[key]

    def _find(self, parts: list[str], folder: str, root: str) -> str | None:
        if os.path.basename(root) in INSTALLED and not _inside(folder, os.path.join(root, parts[0])):
            return None
        bases = [root, os.path.join(root, "src")]
        packages: list[str] = []
        probe = folder
        while probe.startswith(root) and probe != root and parts[0] not in IMPORTS:
            # a package's folder is on nobody's path, unless a script in it is started
            (packages if "__init__.py" in self._list(probe) else bases).append(probe)
            probe = os.path.dirname(probe)
        if parts[0] in sys.stdlib_module_names or parts[0] in OFTEN_SHADOWED:
            packages = []
        for base in bases + packages:
            found = self._under(base, parts)
            if found:
                return found
        return None

    def _under(self, base: str, parts: list[str]) -> str | None:
        for part in parts[:-1]:
            if part not in self._list(base):
                return None
            base = os.path.join(base, part)
        names = self._list(base)
        last = parts[-1]
        if last in names:
            package = os.path.join(base, last)
            inside = self._list(package)
            if "__init__.py" in inside:
                return os.path.join(package, "__init__.py")
            if last + ".py" not in names and any(name.endswith(".py") for name in inside):
                return os.path.join(package, "__init__.py")  # a namespace package: an empty module stands for it
        if last + ".py" in names:
            return os.path.join(base, last + ".py")
        return None

    def _list(self, folder: str) -> frozenset[str]:
        if folder not in self.listings:
            try:
                self.listings[folder] = frozenset(os.listdir(folder))
            except OSError:
                self.listings[folder] = frozenset()
        return self.listings[folder]

    def open_project(self, root: str) -> None:
        """Note that every file below `root` was asked for."""
        if root not in self.projects:
            self.projects.add(root)
            self.opened.update(dict.fromkeys(self.python_files(root)))

    def python_files(self, root: str) -> list[str]:
        """Every python file below `root`, tests and environments left out."""
        if root not in self._python_files:
            self._python_files[root] = self._walk(root)
        return self._python_files[root]

    def _walk(self, root: str) -> list[str]:
        found = []
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(
                name for name in folders if not name.startswith((".", "__")) and name not in SKIPPED_FOLDERS
            )
            found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]
            if len(found) > 4000:
                break
        return found


def _inside(folder: str, other: str) -> bool:
    return folder == other or folder.startswith(other + os.sep)


OFTEN_SHADOWED = frozenset({
    "gym", "gymnasium", "wandb", "hydra", "tensorboard", "yaml", "numpy", "scipy", "ray", "dm_control", "mujoco",
    "atari_py", "procgen", "minigrid", "pettingzoo", "d4rl", "matplotlib", "tqdm", "cv2",
})  # fmt: skip
"""Libraries that modules of a package are often named after: `import gym` in `envs/gym.py` means the library."""
SKIPPED_FOLDERS = frozenset({"node_modules", "tests", "test", "site-packages", "venv", "build", "dist", "docs"})


def decode(data: bytes) -> str:
    import io
    import tokenize

    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return io.TextIOWrapper(io.BytesIO(data), encoding, newline=None).read()


def framework_of(text: str) -> str:
    """The framework that a file's imports name first: torch, jax, tensorflow or ""."""
    for match in re.finditer(r"^\s*(?:from|import)\s+(\w+)", text, re.MULTILINE):
        framework = IMPORTS.get(match.group(1))
        if framework:
            return framework
    return ""


def speaks_of_framework(text: str) -> bool:
    """Whether a file may compute with tensors: it names a framework, and imports more than what computes without."""
    if not FRAMEWORKS.search(text):
        return False
    imports = re.findall(r"^[ \t]*(?:from[ \t]+([\w.]+)|import[ \t]+(.+))", text, re.MULTILINE)
    roots = {part.split(".")[0].strip() for one, several in imports for part in (one or several).split(",")}
    return not roots or any(root.split(" ")[0] not in PLAIN for root in roots)


PLAIN = frozenset(sys.stdlib_module_names) | {"numpy", "scipy", "pandas", "matplotlib", "gym", "gymnasium", "mujoco_py"}
"""Modules that know no tensors."""

IMPORTS = {
    "torch": "torch", "lightning": "torch", "pytorch_lightning": "torch", "tensordict": "torch", "torchrl": "torch",
    "transformers": "torch", "trl": "torch", "accelerate": "torch", "torchvision": "torch",
    "jax": "jax", "flax": "jax", "haiku": "jax", "optax": "jax", "rlax": "jax", "equinox": "jax", "distrax": "jax",
    "tensorflow": "tensorflow", "keras": "tensorflow", "tf_keras": "tensorflow",
}  # fmt: skip


def distance(path: str, folder: str) -> tuple[int, str]:
    """How far a file is from a folder, to sort by: the nearest first, then by name."""
    return os.path.relpath(path, folder).count(os.sep), path
