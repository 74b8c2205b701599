"""The contract of a ranking model, as tests that a package with one of its own runs.

    # test_recent.py of the package, whose entry point in the group seqrec.models is "recent"
    from seqrec.testing import RankerContract

    class TestRecent(RankerContract):
        model = "recent"
        settings = {"dim": 32, "max_len": 8}

pytest finds the tests of the class; nothing else is needed.
"""

from seqrec.testing.contract import RankerContract as RankerContract

__all__ = ["RankerContract"]
