"""The refusal to pickle or copy what belongs to this process. Knows none of the classes that use it.

A copy made by the default way would share a descriptor, a lease or a pin with the original, and close it for
both: `copy.copy(region)`, dropped, closed a descriptor number that was another file's by then.
"""

from __future__ import annotations


def not_copied(obj: object, remedy: str) -> TypeError:
    """Return the error for `__reduce__`, which pickle and the functions of `copy` call, with some advice."""
    name = type(obj).__name__
    article = "an" if name[0] in "AEIOU" else "a"
    return TypeError(f"{article} {name} cannot be pickled or copied: {remedy}")
