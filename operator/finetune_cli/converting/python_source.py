"""Reads a Python source without running it: the calls and assignments in it, and the literals that they name.

Only literals count (ast.literal_eval), beside names that were given one before, `dict(a=1)` and names of dtypes such as
torch.float16. What the program would compute comes as its text, so that an error can show it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from finetune_cli.converting.conversion import Code
from finetune_cli.errors import CliError

LONGEST = 100_000  # characters that a name may stand for: names of names would otherwise grow without end


@dataclass(frozen=True)
class Call:
    """A call in the source: the last part of its name, the whole name, and its arguments, read where it stands."""

    name: str
    full_name: str
    positional: list[Any]
    keywords: dict[str, Any]
    node: ast.Call


@dataclass
class Source:
    """What a Python source says, in order."""

    values: dict[str, Any] = field(default_factory=dict)  # name, or object.attribute -> its last value
    calls: list[Call] = field(default_factory=list)
    literals: list[Any] = field(default_factory=list)  # expressions that stand alone, such as a dict and nothing else

    def find(self, *names: str) -> list[Call]:
        """The calls of functions with one of these names."""
        return [call for call in self.calls if call.name in names]


def read_source(text: str, name: str) -> Source:
    """Parses Python. Raises CliError if it is none."""
    reader = _Reader()
    try:
        reader.visit(ast.parse(text))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise CliError(f"{name}{line}: this is no Python: {getattr(error, 'msg', error)}") from None
    except (RecursionError, MemoryError):
        raise CliError(f"{name}: its expressions are nested too deeply to be read") from None
    return reader.source


class _Reader(ast.NodeVisitor):
    """Visits statements in their order, so that a name has the value of the assignment before its use."""

    def __init__(self) -> None:
        self.source = Source()
        self._nodes: dict[str, ast.expr] = {}

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._assign(node.target, node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        value = self._value(node.value)
        if isinstance(value, dict):
            self.source.literals.append(value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        keywords = {one.arg: self._value(one.value) for one in node.keywords if one.arg}
        for one in node.keywords:
            if one.arg is None:  # **arguments
                given = self._value(one.value)
                keywords |= given if isinstance(given, dict) else {f"**{ast.unparse(one.value)}": given}
        full = ast.unparse(node.func)
        positional = [self._value(one) for one in node.args]
        self.source.calls.append(Call(full.rpartition(".")[2], full, positional, keywords, node))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name | ast.Attribute):
            name = ast.unparse(target)
            read = self._value(value)
            self.source.values[name] = read
            self._nodes.pop(name, None)
            if not isinstance(read, Code):
                folded = _Fold(self._nodes).visit(_copy(value))
                if len(ast.unparse(folded)) <= LONGEST:
                    self._nodes[name] = folded

    def _value(self, node: ast.expr) -> Any:
        folded = _Fold(self._nodes).visit(_copy(node))
        if isinstance(folded, ast.Dict) and all(isinstance(key, ast.Constant) for key in folded.keys):
            pairs = zip(folded.keys, folded.values, strict=True)  # one by one: only what is computed stays a text
            return {key.value: self._value(value) for key, value in pairs if isinstance(key, ast.Constant)}
        try:
            return ast.literal_eval(folded)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return Code(ast.unparse(node))


class _Fold(ast.NodeTransformer):
    """Puts the literal in the place of a name that has one, of dict(a=1), {**a, "b": 1} and torch.float16."""

    def __init__(self, nodes: dict[str, ast.expr]) -> None:
        self._nodes = nodes

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._nodes.get(node.id, node)

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        keys: list[ast.expr | None] = []
        values: list[ast.expr] = []
        for key, value in zip(node.keys, node.values, strict=True):
            folded = self.visit(value)
            merged = key is None and isinstance(folded, ast.Dict)
            keys += folded.keys if merged else [key]
            values += folded.values if merged else [folded]
        return ast.Dict(keys, values)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id == "torch":
            return ast.Constant(node.attr)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            keys: list[ast.expr | None] = [ast.Constant(one.arg) for one in node.keywords]
            if all(one.arg for one in node.keywords):
                return ast.Dict(keys, [self.visit(one.value) for one in node.keywords])
        return node


def _copy(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body
