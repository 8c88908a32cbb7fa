"""docs/benchmarks.md, written from the results of the benchmarks."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.figures import Spread, ratios, shown
from benchmarks.model import CONFIG, flop, recurrent_flop

HEAD = """# Benchmarks

Written by `python -m benchmarks --write` (`make bench` prints the same); every figure here is measured, none copied.
Only ratios count, and only within one run. Each figure is the median of the rounds ({rounds}), with the least and the
greatest in brackets; ratios are taken round by round before that. All that is compared runs on the same cores, the load
generator too. Answers are checked against plain torch in float32, one sequence at a time, before their time counts:
float32 within 1e-4, bfloat16 within 0.1 and int8 within 0.5, with the same label for 98 % and 95 % of the sequences.

The targets are for CPUs with AMX. [How far from the limit](engine.md#how-far-from-the-limit) has the profile behind the
figures.

The model has seeded random weights: embedding ({vocab_size:,} x {embedding_dim}), LSTM ({embedding_dim} to
{hidden_size}, both directions), last states, linear ({feature_size} to {num_logits}).
"""

ENGINES = """## Engines in process

Sequences a second with so many of them always together, on all cores. Those that take batches get them in order of
arrival: packed batches compute no padding, oneDNN's and ONNX Runtime's are padded to their longest sequence.
"""

COST = """### Arithmetic

GFLOP/s count the products of real tokens: input, recurrent and linear, {mflop:.0f} MFLOP a sequence of 200 tokens. In
brackets the recurrent product alone as a share of this machine's own peak in the same round: the best of `torch.mm` of
2048 x 2048 on all cores, {float32} GFLOP/s in float32, {bfloat16} in bfloat16 (int8: of
bfloat16's). More than 100 % means that torch's library does not use all of this CPU. The greatest error is that of a
logit to the reference's, relative to 1 or to it where it is greater.
"""

SERVICE = """## The service over HTTP

Beside it stands what one would write around torch: FastAPI, batches of what has arrived through packed sequences, a
process with one torch thread for each core (`benchmarks/baseline.py`). With 32 connections it does {share} times what
torch packed does in process, 32 together: {in_process} sequences/s. lstm-serve has its default settings; neither logs
a line for each request. The two servers take turns. Targets are ratios to the baseline, or as they say.

JSON token ids in, logits out. Lengths are those of reviews but for the mix: 90 % of 10 to 20 tokens, 10 % of 1,000 to
2,000. The open loop's requests come at random (Poisson); its latencies count from when a request was due, which is sent
up to a millisecond late. The event loop's lag is the time to `/livez` under the load, 20 times a second. Memory is the
resident memory of a server's processes together.
"""

TARGETS = {
    ("1 connection", "p50, ms"): "at most 0.17",
    ("32 connections", "requests/s"): "at least 10",
    ("32 connections", "p99, ms"): "at most 0.08",
    ("4 connections, 32 sequences a request", "sequences/s"): "at least 7.5",
    ("32 connections, mixed lengths", "requests/s"): "at least 6",
    ("32 connections, mixed lengths", "short, p99, ms"): "at most 0.1",
    ("32 connections", "CPU a request, ms"): "at most 0.7 ms",
    ("start", "first right reply, s"): "at most 0.8 s",
    ("memory", "after these loads, MB"): "at most 250 MB",
}
"""Ratios to the baseline that the service is to reach, or figures of its own where they have a unit."""
LEADS = {
    ("bfloat16", "torch packed"): " (target with 32: 12)",
    ("bfloat16", "the best other"): " (target with 32: 4)",
    ("float32", "the best other in float32"): " (target with 32: 3)",
}
"""Targets of the engine, by its precision and rivals, on a CPU with AMX."""
OURS = "lstm-serve"


def page(engine_results: dict[str, Any], service_results: dict[str, Any]) -> str:
    """All of docs/benchmarks.md."""
    head = HEAD.format(
        rounds=len(service_results["in_process"]),
        **CONFIG.model_dump(),
        feature_size=CONFIG.feature_size,
        num_logits=CONFIG.num_logits,
    )
    machine = table(("machine and versions", ""), engine_results["machine"].items())
    return "\n".join((head, machine, engines(engine_results), service(service_results)))


def engines(results: dict[str, Any]) -> str:
    """The part about engines in process."""
    parts = [ENGINES]
    for name, rates in results["rates"].items():
        parts.append(f"### Lengths: {name}, {results['tokens'][name]:.0f} tokens in the mean\n")
        columns = [f"{concurrent} together" for concurrent in rates]
        rows = [[engine, *(Spread.of(rates[n][engine]) for n in rates)] for engine in results["precisions"]]
        parts.append(table(("sequences/s", *columns), rows))
        parts.append(table(("ratio", *columns), leads(results["precisions"], rates)))
    peaks = {dtype: Spread.of([rate / 1e9 for rate in rates]) for dtype, rates in results["peaks"].items()}
    parts.append(COST.format(mflop=flop(CONFIG, 200, 1) / 1e6, **peaks))
    parts.append(
        table(("reviews", "GFLOP/s, 32 together", "64 together", "greatest error", "same label"), work(results))
    )
    return "\n".join(parts)


def leads(precisions: dict[str, str], rates: dict[str, dict[str, list[float]]]) -> Iterator[list[object]]:
    """Our engine's rates, in each precision, as multiples of others', for each number together."""
    others = [name for name in precisions if not name.startswith(OURS)]
    exact = [name for name in others if precisions[name] == "float32"]
    groups = {"torch packed": ["torch packed"], "the best other in float32": exact, "the best other": others}
    for name in (name for name in precisions if name not in others):
        for title, rivals in groups.items():
            best = {n: list(map(max, zip(*(rates[n][rival] for rival in rivals), strict=True))) for n in rates}
            target = LEADS.get((precisions[name], title), "")
            yield [f"{name} to {title}{target}", *(Spread.of(ratios(rates[n][name], best[n])) for n in rates)]


def work(results: dict[str, Any]) -> Iterator[list[object]]:
    """What each engine computes a second, of what the machine could, and how right it is."""
    tokens = results["tokens"]["reviews"]
    for name, precision in results["precisions"].items():
        peaks = results["peaks"]["float32" if precision == "float32" else "bfloat16"]
        cells = []
        for n in ("32", "64"):
            rates = results["rates"]["reviews"][n][name]
            share = Spread.of(ratios([rate * recurrent_flop(CONFIG, tokens) for rate in rates], peaks)).median
            cells.append(f"{shown(Spread.of(rates).median * flop(CONFIG, tokens, 1) / 1e9)} ({share:.0%})")
        error, same_label = results["agreements"][name]
        yield [name, *cells, f"{error:.1e}", f"{same_label:.1%}"]


def service(results: dict[str, Any]) -> str:
    """The part about the service."""
    found = results["figures"]
    base, own = found["baseline"], found[OURS]
    shares = ratios(base["32 connections"]["requests/s"], results["in_process"])
    parts = [SERVICE.format(share=Spread.of(shares), in_process=Spread.of(results["in_process"]))]
    for title, loads in groups(own).items():
        rows = [row for load in loads for row in compared(load, base.get(load, {}), own[load])]
        parts += [f"### {title}\n", table(("load", "figure", "baseline", OURS, "ratio", "target"), rows)]
    return "\n".join(parts)


def groups(loads: Iterable[str]) -> dict[str, list[str]]:
    """Loads by the heading that they stand under."""
    found: dict[str, list[str]] = {"Closed loop": [], "Open loop": [], "Start and memory": []}
    for load in loads:
        title = "Closed loop" if "connection" in load else "Open loop" if "open loop" in load else "Start and memory"
        found[title].append(load)
    return found


def compared(load: str, base: dict[str, list[float]], own: dict[str, list[float]]) -> Iterator[list[object]]:
    """A line for each figure of one load; some have no baseline."""
    for title, rounds in own.items():
        theirs = base.get(title)
        ratio = Spread.of(ratios(rounds, theirs)) if theirs and all(theirs) else ""
        yield [
            load,
            title,
            Spread.of(theirs) if theirs else "",
            Spread.of(rounds),
            ratio,
            TARGETS.get((load, title), ""),
        ]
        load = ""


def table(head: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    """In Markdown."""
    lines: list[Iterable[object]] = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
