"""Files of a version that are wrong in one place: damaged, lying, malign, or no files at all."""

import base64
import copy
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.artifact import CONFIG, GOLDEN, MOST_BYTES, SUMS, TOKENIZER, WEIGHTS

Files = dict[str, bytes]
COVERED = (CONFIG, WEIGHTS, TOKENIZER, GOLDEN)

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**400),
    *(float("nan"), float("inf"), -float("inf"), "", "x", "\0", "\n", "\u202e", "\U0001f600", "../../x", "/etc/passwd"),
    *("é" * 3000, "\x1b[31m", [], {}, [[]], [0] * 5000, {"a": {"a": {}}}, ["a", 1, None], "1", "NaN", [1e999]),
]


class Raw(str):
    """JSON text as it is to stand in the file."""


def nested(depth: int) -> Raw:
    return Raw("[" * depth + "]" * depth)


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def template(times: int) -> dict[str, Any]:
    single = [{"Sequence": {"id": "A", "type_id": 0}}] * times
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {}}


def precompiled(content: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


PARTS: dict[str, list[Any]] = {
    "model": [
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "dropout": 0.5},
        {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]},
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 7}, "continuing_subword_prefix": "###", "merges": [["a", "b"]]},
        {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?", "max_input_chars_per_word": 0},
        {"type": "WordLevel", "vocab": {"a": 2**32 - 1}, "unk_token": "a"},
        {"type": "WordLevel", "vocab": {str(number): number for number in range(20_000)}, "unk_token": "1"},
        {"type": "WordLevel", "vocab": {}, "unk_token": "?"},
        {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["", 1e308], ["ab", -1e308]]},
        {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]]},
        {"type": "Unigram", "unk_id": None, "vocab": []},
        {"type": "Unigram", "unk_id": 0, "vocab": [["u", -1.0], ["x" * 300_000, -1.0]]},
        {"type": "Unigram", "unk_id": 0, "vocab": [["u", -1.0, 3]]},
    ],
    "normalizer": [
        {"type": "Sequence", "normalizers": [replace("o", "o" * 100)] * 6},
        {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 65},
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 99}, replace("", "yy", "Regex")]},
        {"type": "Replace", "pattern": {"String": "o"}, "content": "o" * 10**6, "normalizers": [{"type": "Strip"}]},
        replace("(a|aa|b.*)+$", "", "Regex"),
        replace("", "", "Regex"),
        replace("(?=.)", "é", "Regex"),
        replace("((((a{1,1000}){1,1000}){1,1000}){1,1000}", "", "Regex"),
        precompiled(b""),
        precompiled(b"\xff" * 60),
        precompiled(b"\x04\0\0\0" + b"\xff" * 60),
        precompiled(b"\x08\0\0\0" + b"\1" * 8 + b"a\0"),
        precompiled(b"\x04\0\0\0" + b"\0" * 4 + b"long" * 99),
        {"type": "Nothing"},
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
    ],
    "pre_tokenizer": [
        split("^(a|aa|.|..)+$"),
        split("(" * 5000 + ")" * 5000),
        split("(?<=(a+))b"),
        split("(?"),
        split(""),
        split("[\ud7ff-\ue000]"),
        {"type": "FixedLength", "length": 0},
        {"type": "FixedLength", "length": 2**63},
        {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"},
        {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": True}] * 70},
        {"type": "Sequence", "pretokenizers": []},
        {"type": "Sequence"},
    ],
    "post_processor": [
        template(0),
        template(1),
        template(1000),
        {"type": "Sequence", "processors": [template(1)] * 3},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "BertProcessing", "sep": ["x", 10**9], "cls": ["y", 0]},
    ],
    "padding": [{"strategy": {"Fixed": 2**62}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0}],
    "truncation": [{"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9}],
    "added_tokens": [
        [{"id": 2**32 - 1, "content": "o", "normalized": True, "special": False}],
        [{"id": 2, "content": "", "single_word": True, "lstrip": True, "rstrip": True, "normalized": True}],
        [{"id": 40 + number, "content": f"<{number}>", "special": True} for number in range(3000)],
    ],
}
"""What a tokenizer may have in place of its own parts."""


def bytes_wrong(draw: random.Random, content: bytes) -> bytes:
    """Bits flipped, pieces cut out, doubled, put in or overwritten."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(len(changed) + 1)
        size = draw.choice((1, 2, 8, 60))
        match draw.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = draw.randbytes(size)
            case 4:
                changed[at:at] = changed[at : at + size]
            case _:
                changed[at : at + size] = draw.choice((b"\0", b"\xff", b'"', b"[", b"{", b"9", b"\\u0000")) * size
    return bytes(changed)


def places(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys; of a long list only the first few."""
    keys = list(node)[:30] if isinstance(node, dict) else range(min(len(node), 4)) if isinstance(node, list) else ()
    for key in keys:
        found.append((node, key))
        places(node[key], found)
    return found


def text(node: Any) -> str:
    """JSON with all that Python writes beyond it, such as NaN; `Raw` as it is, "name\\0" as a second "name"."""
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, dict):
        pairs = (f"{json.dumps(str(key).removesuffix(DOUBLE))}: {text(value)}" for key, value in node.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(text, node)) + "]"
    return json.dumps(node)


DOUBLE = "\0"


def json_wrong(draw: random.Random, content: bytes) -> bytes:
    """Values that are odd, absent, double, of another name, or nested without end."""
    document = json.loads(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        if not (there := places(document, [])):
            break
        node, key = draw.choice(there)
        odd = copy.deepcopy(draw.choice([*ODD, nested(draw.choice((3, 130, 100_000))), Raw("9" * 5000), Raw("1e999")]))
        match draw.randrange(7):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1 if isinstance(node, dict):
                node[f"{key}{DOUBLE}"] = odd
            case 2 if isinstance(node, dict):
                node[draw.choice(("x", "\n", "é" * 999, "type", "__class__"))] = odd
            case 3 if isinstance(node, list):
                node[:] = (node * draw.choice((0, 2, 50)))[:10_000]
            case 4 if isinstance(node.get(key) if isinstance(node, dict) else node[key], int):
                node[key] += draw.choice((-1, 1, 2**32, 2**63, 2**64))
            case _:
                node[key] = odd
    return text(document).encode()


def weights_wrong(draw: random.Random, content: bytes) -> bytes:
    """Lengths, shapes, types and offsets that lie."""
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], content[8 + size :]
    if draw.random() < 0.7:
        document = json.loads(header)
        entry = document[draw.choice([name for name in document if name != "__metadata__"])]
        match draw.randrange(5):
            case 0:
                entry["dtype"] = draw.choice(("F64", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "F4", "C64", "", 7))
            case 1:
                entry["shape"] = draw.choice(
                    ([], [0], [2**32, 2**32], [2**63, 2], [-1], [1] * 99, None, entry["shape"][::-1])
                )
            case 2:
                entry["data_offsets"] = [draw.choice((0, 4, len(data), 2**40, 2**64 - 1)) for _ in range(2)]
            case 3:
                document[draw.choice(("more", "linear.bias ", "\n", "__metadata__", "x" * 999))] = dict(entry)
            case _:
                header = json_wrong(draw, header)
                document = None
        if document is not None:
            header = text(document).encode()
        size = len(header)
    if draw.random() < 0.4:
        size = draw.choice((0, 1, 7, size - 1, size + 1, size + len(data), 2**20 + 1, 2**31, 2**32, 2**63, 2**64 - 1))
    return size.to_bytes(8, "little", signed=False) + header + data


def tokenizer_wrong(draw: random.Random, content: bytes) -> bytes:
    """Parts of other kinds."""
    document = json.loads(content)
    for _ in range(draw.choice((1, 1, 2))):
        part = draw.choice(list(PARTS))
        document[part] = draw.choice(PARTS[part])
    return text(document).encode() if draw.random() < 0.8 else json_wrong(draw, text(document).encode())


def sums_wrong(draw: random.Random, content: bytes) -> bytes:
    """Names that climb, digests that are none, lines too many and too few."""
    lines = content.decode().splitlines(keepends=True)
    name = draw.choice(
        ("../x", "../1/config.json", "/etc/passwd", "./config.json", "config.json", "a/../config.json", "")
    )
    digest = draw.choice((lines[0][:64], "0" * 64, "0" * 63, "g" * 64, lines[0][:64].upper()))
    line = digest + draw.choice(("  ", " *", " ", "\t")) + name + draw.choice("\n\n\n\r ")
    at = draw.randrange(len(lines))
    match draw.randrange(4):
        case 0:
            lines.insert(at, line)
        case 1:
            lines[at] = line
        case 2:
            lines += [line] * draw.choice((1, 9, 9999))
        case _:
            del lines[at]
    return "".join(lines).encode()


def sealed(files: Files) -> bytes:
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in COVERED if name in files).encode()


def file_wrong(draw: random.Random, folder: Path) -> bool:
    """What is no file, or one too large, in the place of one; whether the version may hold all the same."""
    path = folder / draw.choice((*COVERED, SUMS))
    outside = folder.parent / "outside"
    shutil.copy(path, outside)
    path.unlink()
    match draw.randrange(10):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(
                draw.choice(("/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/kmsg", "/", "/etc/passwd"))
            )
        case 3:
            path.symlink_to(path)
        case 4:
            path.symlink_to(folder.parent / "nowhere")
        case 5:
            outside.write_bytes(outside.read_bytes() + b" ")
            path.symlink_to(outside)
        case 6:
            path.symlink_to(outside)  # as a store of contents has them: the digest decides
            return True
        case 7:
            path.write_bytes(b"")
            os.truncate(path, draw.choice((MOST_BYTES[path.name] + 1, 1 << 36, 1 << 42)))
        case 8:
            os.link(outside, path)
            return True
        case _:
            pass
    return False


WRONG: dict[str, list[Callable[[random.Random, bytes], bytes]]] = {
    CONFIG: [bytes_wrong, json_wrong, json_wrong],
    WEIGHTS: [bytes_wrong, weights_wrong, weights_wrong],
    TOKENIZER: [bytes_wrong, json_wrong, tokenizer_wrong, tokenizer_wrong],
    GOLDEN: [bytes_wrong, json_wrong, json_wrong],
    SUMS: [bytes_wrong, sums_wrong],
}
