"""Token batches of every kind, and a plain reference of which are right."""

from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.fake_engine import LIMITS

VOCABULARY, PAD, MOST_LENGTH = 40, 0, 16
"""Of the models `tiny` of tests/fake_engine.py and tests/v2_requests.py."""
MOST_TOKENS, MOST_SEQUENCES = LIMITS["max_tokens"], LIMITS["max_sequences"]


class Wrong(NamedTuple):
    """Where something is wrong, and what the error must name: the limit, or the rule."""

    pointer: str
    names: str


def wrong_rows(rows: list[list[int]], lengths: list[int] | None) -> list[Wrong]:
    """What is wrong with rows of integers of any sizes."""
    found = []
    for number, row in enumerate(rows):
        place = f"#/token_ids/{number}"
        if len(row) != len(rows[0]):
            found.append(Wrong(place, f"row 0 has {len(rows[0])}"))
        for column, token in enumerate(row):
            if token >= VOCABULARY:
                found.append(Wrong(f"{place}/{column}", f"vocabulary of {VOCABULARY}"))
        last = max((column for column, token in enumerate(row) if token != PAD), default=-1)
        if lengths is None:
            length = last + 1
            if PAD in row[:length]:
                found.append(Wrong(f"{place}/{row.index(PAD)}", f"pad id {PAD} inside"))
        elif number < len(lengths):
            length = lengths[number]
            if length > len(row):
                found.append(Wrong(f"#/lengths/{number}", f"width of {len(row)}"))
            beyond = range(min(length, len(row)), last + 1)
            found += [Wrong(f"{place}/{at}", f"length of {length}") for at in beyond if row[at] != PAD]
        else:
            continue
        if length < 1:
            found.append(Wrong(place, f"only the pad id {PAD}"))
        if length > MOST_LENGTH:
            found.append(Wrong(place, f"at most {MOST_LENGTH}"))
    if lengths is not None and len(lengths) != len(rows):
        found.append(Wrong("#/lengths", f"{len(lengths)} entries for {len(rows)} rows"))
    return found


def wrong_document(document: Any) -> list[Wrong]:
    """What is wrong with the body of ``POST /predict``."""
    if type(document) is not dict:
        return [Wrong("#", "")]
    found = []
    unknown = [name for name in document if name not in ("token_ids", "lengths")]
    if unknown:
        found.append(Wrong("*", f"{len(unknown)} unknown fields"))
    rows: Any = document.get("token_ids")
    lengths = document.get("lengths")
    shaped = True
    for name, value, most in (("token_ids", rows, MOST_SEQUENCES), ("lengths", lengths, MOST_SEQUENCES)):
        if name not in document:
            if name == "token_ids":
                found.append(Wrong("#/token_ids", "is missing"))
                shaped = False
            continue
        if name == "lengths" and value is None:
            continue
        if type(value) is not list:
            found.append(Wrong(f"#/{name}", "must be a list"))
            shaped = False
        elif not 1 <= len(value) <= most:
            found.append(Wrong(f"#/{name}", f"at most {most}" if value else "is empty"))
            shaped = False
    if type(rows) is list:
        for number, row in enumerate(rows):
            place = f"#/token_ids/{number}"
            if type(row) is not list:
                found.append(Wrong(place, "must be a row"))
                shaped = False
                continue
            if not 1 <= len(row) <= MOST_TOKENS:
                found.append(Wrong(place, f"at most {MOST_TOKENS}" if row else "is empty"))
                shaped = False
            for column, token in enumerate(row):
                if type(token) is not int or token < 0:
                    found.append(Wrong(f"{place}/{column}", "integer" if type(token) is not int else "0"))
                    shaped = False
    if type(lengths) is list:
        for number, length in enumerate(lengths):
            if type(length) is not int or not 1 <= length <= MOST_TOKENS:
                found.append(Wrong(f"#/lengths/{number}", "integer" if type(length) is not int else ""))
                shaped = False
    return [*found, *wrong_rows(rows, lengths)] if shaped else found


def without_pads(rows: list[list[int]], lengths: list[int] | None) -> list[list[int]]:
    """The sequences of a batch that is right."""
    if lengths is None:
        lengths = [max(column for column, token in enumerate(row) if token != PAD) + 1 for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


tokens = st.integers(1, VOCABULARY - 2)  # the last one is the fake engine's poison
odd_numbers = st.one_of(
    st.integers(),
    st.integers(VOCABULARY - 2, VOCABULARY + 1),
    st.sampled_from([-1, 0, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**300]),
)
odd_values = st.one_of(
    odd_numbers,
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.sampled_from(["1", "\ud800", "\0", [], [1], [[1]], {}, {"0": 1}, 1.0, -0.0, 1e999]),
)


@st.composite
def right_batches(draw: st.DrawFn) -> tuple[list[list[int]], list[int] | None]:
    """Rows of one width with their lengths, or None where they can be seen."""
    width = draw(st.integers(1, MOST_TOKENS))
    lengths = draw(st.lists(st.integers(1, min(width, MOST_LENGTH)), min_size=1, max_size=MOST_SEQUENCES))
    inside = draw(st.booleans())
    token = st.one_of(tokens, st.just(PAD)) if inside else tokens
    rows = [draw(st.lists(token, min_size=n, max_size=n)) + [PAD] * (width - n) for n in lengths]
    return rows, lengths if inside or draw(st.booleans()) else None


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[Any]], list[Any] | None]:
    """A batch that is right, but for a few places."""
    rows, lengths = draw(right_batches())
    changed: list[list[Any]] = [list(row) for row in rows]
    told: list[Any] | None = list(lengths) if lengths else None
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        row = draw(st.sampled_from(changed)) if changed else []
        match draw(st.integers(0, 8)):
            case 0 if row:
                row[draw(st.integers(0, len(row) - 1))] = draw(odd_numbers)
            case 1 if row:
                row[draw(st.integers(0, len(row) - 1))] = draw(odd_values)
            case 2 if row:
                row.pop()
            case 3:
                row += draw(st.lists(st.one_of(tokens, st.just(PAD)), max_size=MOST_TOKENS))
            case 4:
                changed.append(draw(st.lists(tokens, max_size=3)))
            case 5 if told:
                told[draw(st.integers(0, len(told) - 1))] = draw(
                    st.one_of(st.integers(-1, MOST_TOKENS + 1), odd_values)
                )
            case 6:
                told = draw(st.one_of(st.none(), st.lists(st.integers(0, 20), max_size=MOST_SEQUENCES + 1)))
            case 7:
                changed = changed * draw(st.integers(0, 9))
            case _ if row:
                row[draw(st.integers(0, len(row) - 1))] = PAD
    return changed, told


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Bodies of ``POST /predict``."""
    rows, lengths = draw(batches())
    document: dict[str, Any] = {"token_ids": rows}
    if lengths is not None:
        document["lengths"] = lengths
    match draw(st.integers(0, 19)):
        case 0:
            document[draw(st.sampled_from(["token_ids", "lengths"]))] = draw(odd_values)
        case 1:
            document[draw(st.text(max_size=70))] = draw(odd_values)
        case 2:
            del document["token_ids"]
        case 3 if rows:
            rows[0] = draw(odd_values)
        case 4:
            return draw(odd_values)
        case 5:
            document["lengths"] = None
        case _:
            pass
    return document
