"""The interpreter: all its parts together."""

from __future__ import annotations

from typing import Any

from gradaudit.static.applied import Applied
from gradaudit.static.attributes import Attributes
from gradaudit.static.builtin import Builtin
from gradaudit.static.callables import Callables
from gradaudit.static.callers import Callers
from gradaudit.static.calls import Calls
from gradaudit.static.classes import Classes
from gradaudit.static.conditions import Conditions
from gradaudit.static.contexts import Contexts
from gradaudit.static.control import Control
from gradaudit.static.copies import Copies
from gradaudit.static.differentiation import Differentiation, stepped_entries
from gradaudit.static.draws import Draws
from gradaudit.static.expressions import Expressions
from gradaudit.static.files import Files
from gradaudit.static.filters import Filters
from gradaudit.static.functional import Functional
from gradaudit.static.graphs import Graphs
from gradaudit.static.haiku import HaikuTransforms
from gradaudit.static.hints import Hints
from gradaudit.static.items import Items
from gradaudit.static.joins import Joins
from gradaudit.static.kept import Kept
from gradaudit.static.library import Library
from gradaudit.static.methods import Methods
from gradaudit.static.names import Names
from gradaudit.static.networks import Networks
from gradaudit.static.nnx import Nnx
from gradaudit.static.offers import Offers
from gradaudit.static.receivers import Receivers
from gradaudit.static.replaced import Replaced
from gradaudit.static.second_names import SecondNames
from gradaudit.static.shapes import infer
from gradaudit.static.statements import Statements
from gradaudit.static.successions import Successions
from gradaudit.static.tensors import Tensors
from gradaudit.static.transforms import Transforms
from gradaudit.static.trees import Trees
from gradaudit.static.updates import Updates
from gradaudit.static.values import Gradient
from gradaudit.tape import Node, Sink, Tape


class Interpreter(
    Expressions,
    Conditions,
    Statements,
    Contexts,
    Joins,
    Names,
    Classes,
    Attributes,
    Items,
    Calls,
    Builtin,
    Library,
    Transforms,
    Control,
    Methods,
    Tensors,
    Networks,
    Callables,
    Copies,
    Updates,
    Trees,
    Applied,
    Successions,
    Kept,
    Offers,
    Receivers,
    Functional,
    HaikuTransforms,
    Nnx,
    Filters,
    Replaced,
    Graphs,
    Draws,
    SecondNames,
    Differentiation,
):
    """Executes text with abstract values and writes a tape."""

    def __init__(self, files: Files, hints: Hints, callers: Callers) -> None:
        super().__init__(files)
        self.hints = hints
        self.callers = callers
        self.recognised = {}
        self.start("")

    def start(self, framework: str) -> None:
        """Begin an entry: a fresh tape, a fresh heap of parameters."""
        self.begin_entry()
        self.current_framework = framework
        self.frozen: dict[Any, Any] = dict(self.frozen_globals)
        self.scaled: dict[Any, Any] = {}
        self.kept = {}
        self.doubled = {}
        self.delegated = {}
        self.made = []
        self.exposed = []
        self.trees = {}
        self.originals = {}
        self.averaged = set()
        self.blends = {}
        self.left_alone = set()
        self.named = set()
        self.successions = set()
        self.pending = []
        self.renewals = {}
        self.stands_for = {}
        self.differentiated_trees = {}
        self.draws = []
        self.shape_facts = {}
        self.hypers = {}
        self.made_by = {}
        self.engines = {}
        self.leaf_parts: dict[Node, dict[object, Node]] = {}
        self.part_of: dict[Node, Node] = {}
        self.leaf_networks: dict[Node, Any] = {}
        self.differentiated_groups: list[set[Node]] = []
        self.gradient_sinks: list[tuple[Sink, set[Node], frozenset[str] | None]] = []
        self.gradients: list[Gradient] = []
        self.gradient_of_sink = {}
        self.made_inside = {}
        self.many_functions = {}
        self.declared = {}
        self.uncalled = {}
        self.in_vain = {}
        self.given = {}

    def tape(self, framework: str, entry: str, path: str) -> Tape:
        made = super().tape(framework, entry, path)
        if any(name == "layer" for name, _ in self.shape_facts.values()):
            made.shapes = infer(made.nodes, self.shape_facts)
        return made

    def finish_sinks(self) -> None:
        """Leaves of a differentiated struct appear as its entries are used: a sink's set is complete at the end."""
        for sink, group, taken in self.gradient_sinks:
            sink.differentiated = frozenset(group)
            sink.own = stepped_entries(group, taken)
            if self.left_alone:
                stepped = sink.own or sink.differentiated
                sink.own = frozenset(leaf for leaf in stepped if self.given_for(leaf) not in self.left_alone)
