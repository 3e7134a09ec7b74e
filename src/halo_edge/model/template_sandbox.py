"""Runs templates that come from strangers: they read nothing, change nothing, and end soon.

Jinja's sandbox keeps a template away from Python's internals, but not from using up time and
memory: `'x' * 10 ** 10`, two nested loops, a string doubled forty times. So here every loop
turn, call, filter, operator and output is charged to a budget. Three rules bound it:

- a value larger than `MAX_VALUE` is an error, counted as if each shared part were a copy, which is
  what printing it would make of it;
- all values made, and all steps taken, must fit in the budget, and be done before a deadline;
- what could make a value far beyond that in one step is checked before it runs (`*`, `replace`,
  `join`, ...), or is missing: padding and formatting to a given width, mostly. The templates of
  models do not use them.

Knows nothing of chats: what a template is given, and may call besides, is its user's to say.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, MappingView
from functools import partial, wraps
from types import CodeType
from typing import Any, Final, TypeVar

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.filters import do_indent, make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SOURCE: Final = 1 << 16  # characters; the longest chat templates known have some 2 ** 14
MAX_VALUE: Final = 1 << 21  # characters, or items of a list: more than any context holds
MAX_WORK: Final = 1 << 26  # characters made, plus _STEP for every step
DEADLINE_S: Final = 5.0
_STEP: Final = 16  # the time of one step, in characters copied
_MAX_BITS: Final = 1024  # of an integer

# Under names that no template can write.
_STEPS: Final = " steps"
_CHARGE: Final = " charge"

# Methods whose result may be of any size, or that lead to such methods.
_FORBIDDEN_METHODS: Final = frozenset(
    {"center", "decode", "encode", "expandtabs", "format", "format_map", "ljust", "rjust",
     "to_bytes", "translate", "zfill"}
)  # fmt: skip
_FILTERS: Final = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject",
    "rejectattr", "reverse", "safe", "select", "selectattr", "sort", "string", "title", "trim",
    "unique", "upper", "wordcount",
)  # fmt: skip

_Value = TypeVar("_Value")


class BoundedTemplate:
    """A compiled template. Safe to share between threads.

    Both methods raise whatever a bad template brings about: any `Exception` is the template's.
    """

    def __init__(self, source: str, functions: Mapping[str, Callable[..., object]]) -> None:
        """`functions`: what the template may call, by name."""
        if len(source) > MAX_SOURCE:
            raise SecurityError(f"it is longer than {MAX_SOURCE} characters")
        self._functions = functions
        environment = _Environment(functions)
        tree: nodes.Template = _Metering().visit(environment.parse(source))
        tree.set_environment(environment)
        self._code: CodeType = environment.compile(tree)

    def render(self, variables: Mapping[str, object]) -> str:
        """The template's output, of at most `MAX_VALUE` characters."""
        environment = _Environment(self._functions)  # with a budget of its own
        template = Template.from_code(environment, self._code, environment.make_globals(None))
        output: list[str] = []
        length = 0
        for part in template.generate(variables):
            output.append(part)
            length += len(part)
            if length > MAX_VALUE:
                raise SecurityError(f"it writes more than {MAX_VALUE} characters")
        return "".join(output)


class _Budget:
    def __init__(self) -> None:
        self._left = MAX_WORK
        self._deadline = time.monotonic() + DEADLINE_S

    def spend(self, work: int) -> None:
        self._left -= _STEP + work
        if self._left < 0 or time.monotonic() > self._deadline:
            raise SecurityError("it does too much")

    def charge(self, value: _Value) -> _Value:
        self.spend(_size(value))
        return value


def _size(value: object) -> int:
    """Characters and items of `value`, what is shared counted at each place. Bounded in time."""
    size = 0
    pending: list[object] = [value]
    while pending:
        item = pending.pop()
        size += 1
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, list | tuple | set | frozenset):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, MappingView):
            pending.extend(item)  # type: ignore[arg-type]
        if size + len(pending) > MAX_VALUE:
            raise SecurityError("it makes too large a value")
    return size


class _Metering(NodeTransformer):
    """Puts the charges where the environment has no hook for them."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._meter_body(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._meter_body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._meter_body(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        return self._meter_body(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filter(_CHARGE, operand) for operand in node.nodes]
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _filter(_CHARGE, self.generic_visit(node))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _filter(_CHARGE, self.generic_visit(node))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(_CHARGE, node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(_CHARGE, node) if isinstance(node.arg, nodes.Slice) else node

    def _meter_body(
        self, node: nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block
    ) -> nodes.Node:
        """Each run of the body is charged, with the plain text in it."""
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        step = _filter(_STEPS, nodes.Const(text, lineno=node.lineno))
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node


def _filter(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as Hugging Face sets it up for chats, with a budget for one rendering."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, functions: Mapping[str, Callable[..., object]]) -> None:
        # Nothing is computed while compiling (`optimized`), for then nothing is charged.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[loopcontrols]
        )
        self._budget = budget = _Budget()
        bounded = {"replace": self._replace, "join": self._join, "indent": self._indent}
        builtin = {name: self.filters[name] for name in _FILTERS}
        self.filters = {
            name: self._charged(function)
            for name, function in {**builtin, **bounded, "tojson": _to_json}.items()
        }
        self.filters |= {_STEPS: budget.spend, _CHARGE: budget.charge}
        self.globals = {"range": safe_range, "dict": dict, "namespace": _Namespace, **functions}
        self.finalize = pass_context(lambda _context, value: budget.charge(value))

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        return attr not in _FORBIDDEN_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: object) -> None:
        """No `str.format` of Jinja's own: it is forbidden as a method."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._budget.spend(0)  # before: a macro may call itself
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and obj.__name__ == "replace":
            obj = partial(self._replace, owner)
        elif isinstance(owner, str) and obj.__name__ == "join":
            obj = partial(self._join_with, owner)
        return self._budget.charge(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = [side for side in (left, right) if isinstance(side, int)]
        if any(number.bit_length() > _MAX_BITS for number in numbers):
            raise SecurityError("it computes with too large a number")
        if operator == "**" and len(numbers) == 2 and left.bit_length() * right > _MAX_BITS:
            raise SecurityError("it computes too large a number")
        if operator == "*" and len(numbers) == 1:
            sequence, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(sequence, str | list | tuple):
                self._budget.spend(len(sequence) * max(0, times))
        if operator == "%" and isinstance(left, str):
            raise SecurityError("it formats with %")
        return self._budget.charge(super().call_binop(context, operator, left, right))

    def _charged(self, function: Callable[..., object]) -> Callable[..., object]:
        @wraps(function)  # with the marks by which Jinja knows what to pass it
        def charged(*args: object, **kwargs: object) -> object:
            self._budget.spend(0)
            return self._budget.charge(function(*args, **kwargs))

        return charged

    def _replace(self, text: object, old: object, new: object, count: int = -1) -> str:
        text, old, new = str(text), str(old), str(new)
        times = text.count(old) if count is None or count < 0 else min(text.count(old), count)
        self._budget.spend(times * len(new))
        return text.replace(old, new, times)

    def _join(self, values: Iterable[object], d: object = "", attribute: Any = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        return self._join_with(d, values)

    def _join_with(self, separator: object, values: Iterable[object]) -> str:
        separator = str(separator)
        parts: list[str] = []
        for value in values:
            self._budget.charge(value)
            self._budget.spend(len(separator))
            parts.append(str(value))
        return separator.join(parts)

    def _indent(
        self, text: str, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        space = width if isinstance(width, int) else len(width)
        self._budget.spend((text.count("\n") + 1) * space)
        return do_indent(text, width, first, blank)


class _Namespace(Namespace):
    """Namespaces may hold one another: printing one prints none of what it holds."""

    def __repr__(self) -> str:
        return "<namespace>"


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Hugging Face has it: unlike Jinja's own, it escapes nothing for HTML."""
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError("it indents JSON too far")
    if separators is not None and sum(map(len, separators)) > 16:
        raise SecurityError("its JSON has too long separators")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
