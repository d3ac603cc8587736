"""Formulas of named values, such as `6 * params * tokens`: a small language of arithmetic alone.

Python's parser reads it and a whitelist of nodes is evaluated here, never `eval`. Text, size of the tree and
size of whole numbers are bounded.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping

from carbs_scaling.errors import ConfigError

Value = bool | int | float | str
Evaluated = Callable[[Mapping[str, Value]], Value]

LONGEST_TEXT = 500
MOST_NODES = 200
LARGEST_INTEGER_BITS = 1024  # beyond it powers are floats: 2**1024 is more than any of them
FUNCTIONS: dict[str, Callable[..., Value]] = {
    **{"min": min, "max": max, "abs": abs, "int": int, "float": float},
    "round": lambda value: round(value),  # a count of digits may take for ever
    **{"ceil": math.ceil, "floor": math.floor, "sqrt": math.sqrt, "exp": math.exp},
    **{"log": math.log, "log2": math.log2, "log10": math.log10},
}
ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Value, Value], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class Formula:
    """A parsed formula, picklable.

    It has numbers, texts in quotes, names, `+ - * / // % **`, comparisons, `and or not`, `a if b else c` and
    the functions of `FUNCTIONS`.

    Args:
        text: of the formula.
        key: of the configuration, for messages.

    Attributes:
        names: that it reads.

    Raises:
        ConfigError: it is no formula, or too long.
    """

    def __init__(self, text: str, key: str = "formula") -> None:
        self.text, self.key = text, key
        if len(text) > LONGEST_TEXT:
            raise self._error(f"is longer than {LONGEST_TEXT} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise self._error("cannot be read as a formula") from None
        nodes = list(ast.walk(tree))
        if len(nodes) > MOST_NODES:
            raise self._error(f"has more than {MOST_NODES} parts")
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        self.names = frozenset(n.id for n in nodes if isinstance(n, ast.Name) and id(n) not in called)
        self._evaluate = self._compiled(tree.body)

    def __reduce__(self) -> tuple[type["Formula"], tuple[str, str]]:
        return Formula, (self.text, self.key)

    def require_names(self, known: frozenset[str]) -> "Formula":
        """Itself.

        Raises:
            ConfigError: it reads a name that is not known.
        """
        unknown = sorted(self.names - known)
        if unknown:
            raise self._error(f"reads {unknown[0]!r}, which is none of {', '.join(sorted(known)) or 'none'}")
        return self

    def __call__(self, values: Mapping[str, Value]) -> Value:
        """The value.

        Raises:
            ConfigError: an operation that cannot be done, such as a division by zero.
        """
        try:
            return self._evaluate(values)
        except (ArithmeticError, ValueError, TypeError, KeyError) as error:
            raise self._error(f"has no value: {error}") from None

    def number(self, values: Mapping[str, Value]) -> float:
        """The value as a finite number.

        Raises:
            ConfigError: it is none.
        """
        value = self(values)
        try:
            number = float("nan") if isinstance(value, str) else float(value)
        except OverflowError:
            number = float("inf")
        if not math.isfinite(number):
            raise self._error(f"gives {str(value)[:40]}, which is no finite number")
        return number

    def _error(self, reason: str) -> ConfigError:
        shown = self.text if len(self.text) <= 80 else f"{self.text[:77]}..."
        return ConfigError(f"{self.key}={shown!r} {reason}")

    def _compiled(self, node: ast.expr) -> Evaluated:
        """A function of the values for a node of the whitelist."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as constant):
                return lambda _: constant
            case ast.Name(id=name):
                return lambda values: values[name]
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return _of_numbers(_power, self._compiled(left), self._compiled(right))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return _of_numbers(ARITHMETIC[type(op)], self._compiled(left), self._compiled(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _of_numbers(operator.neg, self._compiled(operand))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return _of_numbers(operator.pos, self._compiled(operand))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._compiled(operand)
                return lambda values: not inner(values)
            case ast.BoolOp(op=op, values=operands):
                parts, every = [self._compiled(part) for part in operands], isinstance(op, ast.And)
                return lambda values: (all if every else any)(bool(part(values)) for part in parts)
            case ast.Compare(left=first, ops=ops, comparators=others) if all(
                type(op) in COMPARISONS for op in ops
            ):
                compare = [COMPARISONS[type(op)] for op in ops]
                sides = [self._compiled(side) for side in (first, *others)]
                return lambda values: all(
                    holds(left(values), right(values))
                    for holds, left, right in zip(compare, sides, sides[1:], strict=False)
                )
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                asked, then, other = (self._compiled(part) for part in (test, body, otherwise))
                return lambda values: then(values) if asked(values) else other(values)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                return _of_numbers(FUNCTIONS[name], *(self._compiled(argument) for argument in arguments))
        known = f"+ - * / // % **, comparisons, and, or, not, if else, {', '.join(FUNCTIONS)}"
        raise self._error(f"may hold only numbers, names, {known}")


def _power(base: float, exponent: float) -> float:
    """The power; of floats where a whole number would have too many digits."""
    if isinstance(base, int) and isinstance(exponent, int):
        if exponent >= 0 and base.bit_length() * exponent <= LARGEST_INTEGER_BITS:
            return int(base**exponent)
        base = float(base)
    power = base**exponent
    if isinstance(power, complex):
        raise ValueError("a root of a negative number")
    return power


def _of_numbers(function: Callable[..., Value], *arguments: Evaluated) -> Evaluated:
    """The function of numbers alone: texts have no arithmetic."""

    def evaluate(values: Mapping[str, Value]) -> Value:
        given = [argument(values) for argument in arguments]
        if any(isinstance(value, str) for value in given):
            raise TypeError("arithmetic with a text")
        return function(*given)

    return evaluate
