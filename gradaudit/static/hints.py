"""What the project as a whole tells about names: what is used as a network, which classes derive from which."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from gradaudit.models import Models
from gradaudit.static.files import FRAMEWORKS, Files, distance

ASKED = re.compile(
    r"\.(parameters|named_parameters|state_dict|load_state_dict|trainable_variables|trainable_weights|step|zero_grad)\b"
)
OWNER = re.compile(r"\b(\w+)(?:\[[^\]\n]*\])?$")
"""Of what is asked: it ends right before that. (One pattern for both tries every word of a file.)"""

NETWORK_WORDS = re.compile(
    r"(net(work)?s?|actor|critic|policy|model|encoder|decoder|extractor|predictor|projector|learner|agent|teacher|student"
    r"|^q|qf|vf|q_?func|v_?func|backbone|discriminator|generator|critics?|q_?funcs)_?\d*(_?(target|tgt|old|online|local|ema|ref))?_?\d*$"
    r"|^(target|online|old|ref)_?(q|v|net|network|model|actor|critic|policy)",
    re.IGNORECASE,
)
NEVER_NETWORKS = re.compile(
    r"(optim|lr|loss|class|kwargs|batch|buffer|_fn$|update|_path|config|cfg|freq|dim|size|_obs|obs_|action|std|name|state$"
    r"|output|_out$|_id|count|step|type|dir$|file|param|key|^_*(make|build|create)_"
    r"|(recurrent|forward|data|mini|rollout|random|number|transition|sample|episode|trajectory|index)_?generator)",
    re.IGNORECASE,
)
TAKES_GRADIENT = re.compile(r"(?<!autograd\.)\b(?:value_and_)?grad\(\s*(\w+)")
TAKES_LOSS = re.compile(r"\b(\w+)\.backward\(")
DEFINED = re.compile(r"^([ \t]*)def (\w+)\(([^)]*)\)", re.MULTILINE)
METHOD = re.compile(r"^(?:class (\w+)|[ \t]{1,4}(?:async )?def (\w+)\(|(?=\w))", re.MULTILINE)
SUBCLASS = re.compile(r"^class (\w+)\(([^)]*)\)", re.MULTILINE)


class Words:
    """How some files use names."""

    def __init__(self) -> None:
        self.networks: set[str] = set()
        self.stepped: set[str] = set()
        self.cleared: set[str] = set()

    def learn(self, asked: Iterable[tuple[str, str]]) -> None:
        for name, method in asked:
            (self.stepped if method == "step" else self.cleared if method == "zero_grad" else self.networks).add(name)


class Hints:
    def __init__(self, files: Files) -> None:
        self.files = files
        self.models = Models.load(("torch", "jax", "tensorflow"))
        self._used_as_network: dict[str, set[str]] = {}
        self._subclasses: dict[str, dict[str, list[tuple[str, str]]]] = {}
        self._helpers: dict[tuple[str, str], frozenset[str]] = {}
        self._named: dict[str, bool] = {}
        self._asked: dict[str, list[tuple[str, str]]] = {}
        self._methods: dict[str, dict[str, list[tuple[str, str]]]] = {}
        self._expected = Words()
        self.start()

    def expect(self, files: Iterable[str]) -> None:
        """The files of this run: what they say of names counts for each of them, whichever is read first."""
        for file in files:
            self._expected.learn(self._words(file))

    def start(self) -> None:
        """Begin another file, without what the one before it has read."""
        self.files.forget()
        self._seen = 0
        self._opened = Words()

    def has_parameters(self, name: str) -> bool:
        """Is anything of this name asked for its parameters in a file that was read?"""
        self._catch_up()
        return name in self._expected.networks or name in self._opened.networks

    def is_network_name(self, name: str) -> bool:
        """Is anything of this name asked for its parameters in a file that was read, or named like a network?"""
        if self.has_parameters(name):
            return name not in ("self", "cls", "module")
        known = self._named.get(name)
        if known is None:
            known = self._named[name] = bool(NETWORK_WORDS.search(name)) and not NEVER_NETWORKS.search(name)
        return known

    def _catch_up(self) -> None:
        """Learn from the files that were read since the last question."""
        opened = self.files.opened
        if len(opened) > self._seen:
            for file in list(opened)[self._seen :]:
                self._opened.learn(self._words(file))
            self._seen = len(opened)

    def _words(self, file: str) -> list[tuple[str, str]]:
        """(name, method): what is asked for its parameters, stepped or cleared in a file."""
        asked = self._asked.get(file)
        if asked is None:
            said = dict.fromkeys(_asked(self.files.peek(file) or ""))
            # a normaliser has a state to save, which is no parameters
            asked = [(name, how) for name, how in said if "state_dict" not in how or not NEVER_NETWORKS.search(name)]
            self._asked[file] = asked
        return asked

    def is_optimizer_name(self, name: str) -> bool:
        """Is something of this name both stepped and cleared?"""
        self._catch_up()
        said = self._expected, self._opened
        stepped, cleared = any(name in words.stepped for words in said), any(name in words.cleared for words in said)
        return stepped and cleared and not any(name in words.networks for words in said)

    def subclasses(self, name: str, file: str) -> list[tuple[str, str]]:
        """(class, file) of those in the project whose bases name `name`."""
        root = self.files.project(file)
        self.files.open_project(root)
        if root not in self._subclasses:
            self._subclasses[root] = self._index(root)
        return self._subclasses[root].get(name, [])

    def defining(self, method: str, file: str) -> list[tuple[str, str]]:
        """(class, file) of those in the project whose text defines a method, the nearest first."""
        root = self.files.project(file)
        self.files.open_project(root)
        if root not in self._methods:
            self._methods[root] = self._methods_in(root)
        folder = os.path.dirname(file)
        found = self._methods[root].get(method, [])
        own = os.path.abspath(file)
        return sorted(found, key=lambda place: (place[1] != own, distance(place[1], folder)))

    def _methods_in(self, root: str) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for file in self.files.python_files(root):
            text = self.files.peek(file) or ""
            owner = ""
            for match in METHOD.finditer(text) if FRAMEWORKS.search(text) else ():
                if match.group(1):
                    owner = match.group(1)
                elif match.group(2) and owner:
                    found.setdefault(match.group(2), []).append((owner, os.path.abspath(file)))
                else:
                    owner = ""
        return found

    def gradient_helpers(self, file: str) -> frozenset[str]:
        """The project's functions that differentiate a function which they are given (`apply_gradient(loss_fn)`)."""
        return self._helpers_in(self.files.project(file), ("jax", "grad"), TAKES_GRADIENT)

    def backward_helpers(self, file: str) -> frozenset[str]:
        """The project's functions that differentiate a loss which they are given (`update_params(optimizer, loss)`)."""
        return self._helpers_in(self.files.project(file), ("torch", ".backward("), TAKES_LOSS)

    def _helpers_in(self, root: str, words: tuple[str, str], takes: re.Pattern[str]) -> frozenset[str]:
        """What takes a parameter of its own to what `takes` matches, in the files that have these words."""
        known = self._helpers.get((root, words[0]))
        if known is None:
            texts = (self.files.text(path) or "" for path in self.files.python_files(root))
            parts = [part for text in texts if all(word in text for word in words) for part in _functions_in(text)]
            known = self._helpers[root, words[0]] = _differentiating(parts, takes)
        return known

    def _index(self, root: str) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for file in self.files.python_files(root):
            text = self.files.peek(file)
            if not text:
                continue
            for match in SUBCLASS.finditer(text):
                for base in re.split(r"[,\[\]]", match.group(2)):
                    last = base.strip().rsplit(".", 1)[-1]
                    if last:
                        found.setdefault(last, []).append((match.group(1), os.path.abspath(file)))
        return found


def _asked(text: str) -> Iterator[tuple[str, str]]:
    """(name, method), for each `name.method` or `name[...].method` that asks for one of ASKED."""
    last = 0
    for match in ASKED.finditer(text):
        line = text.rfind("\n", 0, match.start()) + 1
        owner = OWNER.search(text, max(last, line), match.start())
        if owner is not None:
            yield owner[1], match[1]
            last = match.end()


def _functions_in(text: str) -> list[tuple[str, frozenset[str], str]]:
    """Every function of a file: its name, its parameters, its text."""
    found = []
    for match in DEFINED.finditer(text):
        end = re.compile(rf"^[ \t]{{0,{len(match.group(1))}}}\S", re.MULTILINE).search(text, match.end() + 1)
        body = text[match.end() : end.start() if end is not None else len(text)]
        names = frozenset(part.split(":")[0].split("=")[0].strip(" *\n\t") for part in match.group(3).split(","))
        if "..." not in names:  # one that only a docstring speaks of
            found.append((match.group(2), names, body))
    return found


def _differentiating(functions: list[tuple[str, frozenset[str], str]], takes: re.Pattern[str]) -> frozenset[str]:
    """Those in which what `takes` finds, or one of them, is a parameter of their own. No names with other meanings."""
    direct = _taking(functions, takes)
    if not direct:
        return direct
    through = _taking(functions, re.compile(rf"\b(?:{'|'.join(sorted(direct))})\(\s*(\w+)"))
    return direct | through


def _taking(functions: list[tuple[str, frozenset[str], str]], pattern: re.Pattern[str]) -> frozenset[str]:
    """The names all of whose definitions hand a parameter of their own to what `pattern` matches."""
    found: set[str] = set()
    others: set[str] = set()
    for name, parameters, body in functions:
        takes = not name.startswith("__") and not parameters.isdisjoint(pattern.findall(body))
        (found if takes else others).add(name)
    return frozenset(found - others)
