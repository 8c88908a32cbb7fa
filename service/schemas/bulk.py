"""How much JSON is read: its lists, objects and values are counted before any of them becomes an object in memory."""

import numpy as np

from service.errors import InvalidContent

SPARE = 4096
"""What a body may hold beyond its sequences: far more than any has fields, so that mistakes are told by the field."""


def check_bulk(body: bytes, max_sequences: int, max_tokens: int) -> None:
    """Raises InvalidContent for more strings, lists, objects or values than that many sequences can need.

    pydantic makes objects of whatever there is, also of a field that it refuses: without this a body of 4 MiB, and of
    a few KB compressed, may keep everybody waiting for more than a second. What is not JSON may pass.
    """
    if len(body) <= SPARE:
        return
    plain = body
    if b"\\" in body:  # then each quotation mark that is left begins or ends a string
        plain = body.replace(rb"\\", b"  ").replace(rb"\"", b"  ")
    rows = max_sequences + SPARE
    counts = {"strings": (_count(plain, b'"') // 2, rows)}
    if counts["strings"][0] <= rows:  # else there would be too many pieces
        outside = b"".join(plain.split(b'"')[::2])
        counts["lists, objects and fields"] = _count(outside, b"[{:"), rows
        counts["values"] = _count(outside, b","), max_sequences * (max_tokens + 1) + SPARE
    for what, (count, most) in counts.items():
        if count > most:
            raise InvalidContent(
                f"the body has {count} {what}, more than {max_sequences} sequences (LSTMSERVE_MAX_SEQUENCES) of "
                f"{max_tokens} tokens (LSTMSERVE_MAX_TOKENS) can need: send several requests"
            )


def _count(text: bytes, characters: bytes) -> int:
    """How often any of the characters stands in the text; many times faster than `bytes.count` where that is often."""
    codes = np.frombuffer(text, np.uint8)
    return sum(int(np.count_nonzero(codes == code)) for code in characters)
