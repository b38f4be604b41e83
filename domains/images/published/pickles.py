"""Pickles read as data: what a pickle would import and call becomes a record of the name and the arguments.

Python's own unpickler calls what a file names. This reader walks the opcodes (``pickletools.genops``) and calls nothing
at all; the names a file may use are an explicit list, and no length that a file declares is believed before the bytes
are seen to be there. It knows the opcodes that pickle protocols 2 to 5 write for plain values and objects.
"""

import io
import mmap
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import IO, Any, cast

from core.errors import CheckpointError

DICTIONARIES = frozenset({"collections.OrderedDict", "dnnlib.util.EasyDict"})  # read as plain ones
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
_PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# Opcodes whose argument is the value itself.
_LITERALS = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
})  # fmt: skip


@dataclass(frozen=True)
class Name:
    """What a pickle would import, ``module.attribute``. Nothing was imported."""

    text: str


@dataclass(eq=False, repr=False)
class Record:
    """What a pickle would make by calling ``name`` with ``args``; state: what it would then be given, if anything.

    Not frozen: a pickle refers to an object before it gives it its state.
    """

    name: str
    args: tuple[Any, ...]
    state: Any = None

    def __repr__(self) -> str:
        return f"<{self.name}>"  # what is inside may refer to itself, and many times to the same


@dataclass
class _Machine:
    """The stack machine that a pickle is a program for."""

    allowed: Collection[str]
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # stacks under the open marks
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, code: str, argument: Any) -> None:
        """One opcode. Raises CheckpointError for names and opcodes that have no place here."""
        if code in _LITERALS:
            self.stack.append(argument)
        elif code in _PLAIN:
            self.stack.append(_PLAIN[code])
        elif code in _EMPTY:
            self.stack.append(_EMPTY[code]())
        elif code in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[code])))
        elif code == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif code == "TUPLE":
            items = tuple(self._to_mark())
            self.stack.append(items)
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif code in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif code in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
            self._fill(code)
        else:
            self._object(code, argument)

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _fill(self, code: str) -> None:
        """Put items into the list, set or dictionary below them. Keys are texts and numbers only."""
        items = self._pop({"APPEND": 1, "SETITEM": 2}[code]) if code in ("APPEND", "SETITEM") else self._to_mark()
        target = self.stack[-1]
        kind = {"APPEND": list, "APPENDS": list, "ADDITEMS": set}.get(code, dict)
        keys = {list: [], set: items, dict: items[::2]}[kind]
        if type(target) is not kind or not all(isinstance(key, str | int) for key in keys):
            raise TypeError(f"{code} on something else than a {kind.__name__}, or with keys that are no texts")
        if kind is list:
            target.extend(items)
        elif kind is set:
            target.update(items)
        else:
            target.update(zip(items[::2], items[1::2], strict=True))

    def _object(self, code: str, argument: Any) -> None:
        """Opcodes that would import or call something."""
        if code in ("GLOBAL", "INST"):
            self.stack.append(self._named(argument.replace(" ", ".", 1)))
        elif code == "STACK_GLOBAL":
            module, attribute = self._pop(2)
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise TypeError("STACK_GLOBAL of something that is no text")
            self.stack.append(self._named(f"{module}.{attribute}"))
        elif code in ("REDUCE", "NEWOBJ"):
            name, args = self._pop(2)
            if not isinstance(name, Name) or not isinstance(args, tuple):
                raise TypeError(f"{code} of something that has no name")
            self.stack.append({} if name.text in DICTIONARIES and not args else Record(name.text, args))
        elif code == "BUILD":
            target, state = self._pop(2)
            if not isinstance(target, Record) or target.state is not None:
                raise TypeError("BUILD of something that is no object")
            target.state = state
            self.stack.append(target)
        elif code == "BINPERSID":
            self.stack.append(Record("persistent id", tuple(self._pop(1))))
        elif code not in ("PROTO", "FRAME"):
            raise CheckpointError(f"pickle opcode {code}: not part of an EDM network; nothing was executed")

    def _named(self, text: str) -> Name:
        if text not in self.allowed:
            raise CheckpointError(f"{text[:200]}: not part of an EDM network; nothing was executed")
        return Name(text)


def read_pickle(stream: io.BytesIO | mmap.mmap, allowed: Collection[str]) -> Any:
    """The value of the pickle that begins at the stream's position; the stream is left behind its end.

    allowed: names, ``module.attribute``, that the pickle may refer to. Values are None, numbers, texts, bytes, lists,
    tuples, sets and dictionaries of them, ``Name`` and ``Record``. Raises CheckpointError for everything else, by its
    name, and for damaged pickles.
    """
    machine = _Machine(allowed)
    readable = cast(IO[bytes], stream)  # of a map, too, genops needs no more than read, readline and tell
    try:
        for opcode, argument, _ in pickletools.genops(readable):
            if opcode.name != "STOP":
                machine.step(opcode.name, argument)
        (value,) = machine.stack
    except KeyError as error:
        raise CheckpointError(f"damaged, or no pickle: refers to value {error}, which it never stored") from error
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise CheckpointError(f"damaged, or no pickle: {error}") from error
    return value
