"""A program that says when it imports a module, and stays there."""

PROGRAM = """
import sys, time

class Slow:
    def find_spec(self, name, path, target=None):
        if name == {slow!r}:
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
{then}
"""


def importing(slow: str, then: str) -> str:
    """The program which does `then`, but waits a minute in the import of `slow`."""
    return PROGRAM.format(slow=slow, then=then)
