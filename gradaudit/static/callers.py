"""What the project passes for a flag of a function: the constants at its call sites, in the files that mention it.

Only flags that speak of gradient are looked up, and only when a function is judged without a caller.
"""

from __future__ import annotations

import ast
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable

from gradaudit.static.files import Files, distance
from gradaudit.static.syntax import last_name, walk

ABOUT_GRADIENT = re.compile(r"stop|detach|grad|freeze|frozen|backprop|(^|_)sg($|_)", re.IGNORECASE)
MENTION = re.compile(r"\b(?<!def )(?<!class )([A-Za-z_]\w*+)\s*(?:[(,)\n]|as\b)")
DEFINED = re.compile(r"^(?:class|def|async def) (\w+)", re.MULTILINE)
IMPORT = re.compile(r"(?:\bfrom\s+[\w.]+\s+)?\bimport\s*(?:\((?:[^)#]|#[^\n]*)*|(?:[^\n\\]|\\\n)*)")
WORD = re.compile(r"[^\W\d]\w*")
TEST = re.compile(r"(^|_)tests?(_|$)")
MOST_FILES = 60
FEW = 40  # names that are looked for one by one; for more of them every file is read once for all
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Callers:
    """Call sites by the name of what is called, over the files of one project."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._mentions: dict[str, dict[str, list[str]]] = {}
        self._asked: dict[tuple[str, str], list[str]] = {}
        self._outsiders: dict[str, bool] = {}
        self._uses_of: dict[str, Uses] = {}
        self._imports: dict[str, frozenset[str]] = {}
        self.references: dict[ast.AST, tuple[set[str], bool]] = {}

    def passed(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, flag: str, default: object, file: str
    ) -> tuple[object, ...]:
        """What each call gives for `flag`: a constant, its default, or Ellipsis where that is not known."""
        if not ABOUT_GRADIENT.search(flag):
            return ()
        parameters = [parameter.arg for parameter in (*function.args.posonlyargs, *function.args.args)]
        position = parameters.index(flag) if flag in parameters else len(parameters) + 1000
        found: list[object] = []
        for caller in self._files(function.name, file)[:MOST_FILES]:
            for call in self._uses(caller, function.name, file):
                found.append(_value(call, flag, position, default))
        return tuple(found)

    def internal(self, name: str, file: str, seen: frozenset[str] = frozenset()) -> bool:
        """Whether another file uses the function, by way of its neighbours too, and no package offers it to others."""
        users = self._files(name, file)
        if any(os.path.basename(path) == "__init__.py" for path in users):
            return False
        if any(path != file and self._uses(path, name, file) for path in users[:MOST_FILES]):
            return True
        tree = self.files.tree(file) if users and len(seen) < 8 else None
        uses = self._index(file)
        neighbours = [
            statement.name
            for number, statement in enumerate(tree.body if tree is not None else ())
            if isinstance(statement, DEFINITIONS) and statement.name not in seen | {name}
            if uses.find(name, "", {number})
        ]
        return any(self.internal(neighbour, file, seen | {name}) for neighbour in neighbours)

    def files_with(self, name: str, file: str) -> list[str]:
        """The files of the project that call something of this name, the nearest first, tests left out."""
        folder = os.path.dirname(file)
        return sorted(self._files(name, file), key=lambda path: distance(path, folder))[:MOST_FILES]

    def imports(self, path: str, name: str, file: str) -> bool:
        """Whether `path` has a name, or the module that `file` is, from an import."""
        stem = os.path.basename(file).removesuffix(".py")
        if self._import_words(path).isdisjoint((name, stem)):
            return False
        imported = self._index(path).imported
        return any(what == name or what.rsplit(".", 1)[-1] == stem for _, what in imported)

    def outsiders(self, file: str, among: Collection[str]) -> bool:
        """Does any file of the project that is not `among` these import from it? Tests left out."""
        root = self.files.project(file)
        self.files.open_project(root)
        if root not in self._outsiders:
            shipped = self._shipped(root)
            outside = [path for path in shipped if path not in among]
            names = (
                {name for path in shipped for name in DEFINED.findall(self.files.peek(path) or "")} if outside else ()
            )
            self._outsiders[root] = any(self._imports_any(path, names, shipped) for path in outside)
        return self._outsiders[root]

    def _imports_any(self, path: str, names: Collection[str], shipped: list[str]) -> bool:
        """Does a file import one of these, or one of the other files?"""
        modules = {os.path.basename(other).removesuffix(".py") for other in shipped if other != path}
        words = self._import_words(path)
        if words.isdisjoint(names) and words.isdisjoint(modules):
            return False
        imported = {word.rsplit(".", 1)[-1] for pair in self._index(path).imported for word in pair}
        return not imported.isdisjoint(names) or not imported.isdisjoint(modules)

    def _import_words(self, path: str) -> frozenset[str]:
        """The words of a file's import statements, without a look at its syntax: of many files few import from here."""
        if path not in self._imports:
            text = self.files.peek(path) or ""
            self._imports[path] = frozenset(WORD.findall("\n".join(IMPORT.findall(text))))
        return self._imports[path]

    def files_with_several(self, names: Iterable[str], file: str, least: int) -> list[str]:
        """The other files of the project that mention at least so many of these, the nearest first."""
        counted = Counter(path for name in names for path in self._files(name, file))
        found = [path for path, times in counted.items() if times >= least and path != file]
        folder = os.path.dirname(file)
        return sorted(found, key=lambda path: distance(path, folder))[:MOST_FILES]

    def _uses(self, path: str, name: str, file: str) -> list[ast.expr]:
        """The uses in `path` of what `file` defines as `name`: by its name if it is imported, else by its module's."""
        uses = self._index(path)
        stem = os.path.basename(file).removesuffix(".py")
        if path == file:  # what a script does at its end is an example, no caller
            return uses.find(name, stem, uses.inside)
        imported = (stem, name) in uses.imported
        return [use for use in uses.find(name, stem) if imported or not _is_bare(use)]

    def _index(self, path: str) -> Uses:
        if path not in self._uses_of:
            self._uses_of[path] = Uses(self.files.tree(path))
        return self._uses_of[path]

    def _files(self, name: str, file: str) -> list[str]:
        """The files of the project that mention a name other than to define it, tests left out."""
        root = self.files.project(file)
        self.files.open_project(root)
        found = self._asked.get((root, name))
        if found is None:
            few = len(self._asked) < FEW
            found = self._asked[root, name] = self._mentioning(name, root) if few else self._all(root).get(name, [])
        return found

    def _mentioning(self, name: str, root: str) -> list[str]:
        mention = re.compile(rf"\b(?<!def )(?<!class ){name}\s*(?:[(,)\n]|\bas\b)")
        texts = ((path, self.files.peek(path) or "") for path in self._shipped(root))
        return [path for path, text in texts if name in text and mention.search(text)]

    def _all(self, root: str) -> dict[str, list[str]]:
        if root not in self._mentions:
            mentions: dict[str, list[str]] = {}
            for path in self._shipped(root):
                for word in set(MENTION.findall(self.files.peek(path) or "")):
                    mentions.setdefault(word, []).append(path)
            self._mentions[root] = mentions
        return self._mentions[root]

    def _shipped(self, root: str) -> list[str]:
        paths = self.files.python_files(root)
        return [path for path in paths if not TEST.search(os.path.basename(path).removesuffix(".py"))]


class Uses:
    """A file's uses of names: the calls of `name` or `module.name`, and where it is handed on (`vmap(name)`)."""

    def __init__(self, tree: ast.Module | None) -> None:
        self.imported: set[tuple[str, str]] = set()
        self.aliases: dict[str, set[str]] = {}
        """What a module is called here, where it got a name of its own: `import agents.dqn as learner`."""
        self.by_name: dict[str, list[tuple[ast.expr, int]]] = {}
        self.inside: set[int] = set()
        """Which of the top-level statements define something."""
        for number, statement in enumerate(tree.body if tree is not None else ()):
            if isinstance(statement, DEFINITIONS):
                self.inside.add(number)
            self._read(statement, number)

    def _read(self, statement: ast.stmt, number: int) -> None:
        called = set()
        for node in walk(statement):
            if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
                called.add(node.func)
                self.by_name.setdefault(last_name(node.func), []).append((node, number))
            elif isinstance(node, (ast.Name, ast.Attribute)) and node not in called:
                self.by_name.setdefault(last_name(node), []).append((node, number))
            elif isinstance(node, (ast.ImportFrom, ast.Import)):
                stem = (getattr(node, "module", None) or "").rsplit(".", 1)[-1]
                self.imported.update((stem, alias.name) for alias in node.names)
                for alias in node.names:
                    if alias.asname:
                        self.aliases.setdefault(alias.name.rsplit(".", 1)[-1], set()).add(alias.asname)

    def find(self, name: str, module: str, among: set[int] | None = None) -> list[ast.expr]:
        """The uses of `name`, or of `module.name`; in some of the top-level statements only, if they are given."""
        modules = {module, *self.aliases.get(module, ())}
        return [
            use
            for use, number in self.by_name.get(name, ())
            if (among is None or number in among) and _is(use.func if isinstance(use, ast.Call) else use, name, modules)
        ]


def _is(node: ast.expr, name: str, modules: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == name and last_name(node.value) in modules
    return isinstance(node, ast.Name) and node.id == name


def _is_bare(use: ast.expr) -> bool:
    return isinstance(use.func if isinstance(use, ast.Call) else use, ast.Name)


def _value(use: ast.expr, flag: str, position: int, default: object) -> object:
    if not isinstance(use, ast.Call):
        return default
    if any(isinstance(part, ast.Starred) for part in use.args) or any(word.arg is None for word in use.keywords):
        return ...
    given = next((word.value for word in use.keywords if word.arg == flag), None)
    if given is None and position < len(use.args):
        given = use.args[position]
    if given is None:
        return default
    return given.value if isinstance(given, ast.Constant) else ...
