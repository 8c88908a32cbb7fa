"""The examples of docs/v2.md."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs/v2.md").read_text()


def example(name: str, url: str) -> tuple[str, str]:
    """The code after ``<!-- run: name -->``, at that service, and what it prints."""
    blocks = re.match(
        r"```\w+\n(.*?)```\n\s*```\w*\n(.*?)```\n", PAGE.partition(f"<!-- run: {name} -->\n")[2], re.DOTALL
    )
    assert blocks is not None
    address = "127.0.0.1:8000"
    assert address in blocks[1]
    return blocks[1].replace(address, url.removeprefix("http://")), rounded(blocks[2])


def rounded(text: str) -> str:
    """Without the digits in which instruction sets differ."""
    return re.sub(r"-?\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", text).strip()
