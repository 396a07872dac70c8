"""Runs CPython's own tests of shared memory with our module in the place of the original.

The arguments are a start method and, for each test to leave out, its name. Prints a line for each result. The
children of `spawn` and `forkserver` import this file, too, so the replacement is at its top.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.managers
import re
import sys
import unittest
from typing import Any

import test._test_multiprocessing as tests
from test.support import script_helper

from shmclient import shared_memory
from shmclient._shared import segments

replaced: Any = multiprocessing
tests.shared_memory = segments
multiprocessing.managers.SharedMemoryManager = shared_memory.SharedMemoryManager  # type: ignore[misc]
replaced.shared_memory = sys.modules["multiprocessing.shared_memory"] = segments

assert_python_ok = script_helper.assert_python_ok
IMPORTS = re.compile(r"multiprocessing\.(managers|shared_memory)")


def run_with_ours(*arguments: str, **options: Any) -> Any:
    """Run a program of the tests with the import changed."""
    changed = [IMPORTS.sub("shmclient.shared_memory", text) for text in arguments]
    assert changed != list(arguments)
    return assert_python_ok(*changed, **options)


script_helper.assert_python_ok = run_with_ours


class Result(unittest.TextTestResult):
    """Prints each test with its result, for the test that runs this."""

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        print("passed", test._testMethodName)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        print("skipped", test._testMethodName, reason)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        print("failed", getattr(test, "_testMethodName", test))

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        print("failed", test._testMethodName)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            print("failed", test._testMethodName)


def main(method: str, *left_out: str) -> None:
    """Run the tests with a start method."""
    tests.install_tests_in_module_dict(globals(), method)
    setUpModule: Any = globals()["setUpModule"]
    case: Any = globals()["WithProcessesTestSharedMemory"]
    for name in left_out:
        if hasattr(case, name):  # which depends on the version of Python
            setattr(case, name, unittest.skip("left out")(lambda self: None))
    suite = unittest.TestSuite()
    loader = unittest.TestLoader()
    suite.addTests(loader.loadTestsFromTestCase(case))
    setUpModule()
    try:
        ok = unittest.TextTestRunner(resultclass=Result, verbosity=0).run(suite).wasSuccessful()
    finally:
        globals()["tearDownModule"]()
    sys.exit(not ok)


if __name__ == "__main__":
    main(*sys.argv[1:])
