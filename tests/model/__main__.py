"""Explore the arena by hand: `python -m model joins=1 compares_board=False`; `c11` is the weaker model."""

import ast
import sys

from model.arena import Arena, protocol
from model.explorer import Explorer
from model.memory import Buffered, Views

settings = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
arena = Arena(**{name: ast.literal_eval(value) for name, value in settings.items()})
print(Explorer(protocol(arena), Views if "c11" in sys.argv else Buffered).run())
