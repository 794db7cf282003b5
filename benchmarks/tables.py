"""What the benchmark prints: a line for each row, with the goals beside the ratios."""

from measure import BUSY

PLACE = "{:13} {:>12} {:>8}"
TIMES = "{:>9} {:>9} {:>9} {:>9} {:>9}"
RATIOS = "  {:28} {:27} {}"


def head() -> str:
    """The columns. The floor is what a copy of the logits takes, or a read of them where no gradient is asked for."""
    return "".join(
        (
            PLACE.format("", "shape", "dtype"),
            TIMES.format("xent ms", "torch", "compile", "jax", "floor"),
            RATIOS.format("torch / xent", "compile / xent", "xent / floor"),
        )
    )


def line_of(row: dict) -> str:
    ms = {name: f"{values['median']:.4g}" for name, values in row["ms"].items()}
    floor = row["floor"].split()[0]
    times = [ms.get(name, "-") for name in ("xent", "torch", "compile", "jax", floor)]
    names = ("torch / xent", "compile / xent", f"xent / {floor}")
    verdicts = [verdict_of(row["ratios"].get(name)) for name in names]
    place = PLACE.format(row["what"], row["shape"], row["dtype"])
    busy = f" busy: {row['waited']:.0%}" if row["waited"] > BUSY else ""
    return (place + TIMES.format(*times) + RATIOS.format(*verdicts)).rstrip() + busy


def memory_line_of(row: dict) -> str:
    used = row["gradients"]
    verdict = verdict_of({**row, "median": used["xent"]})
    return f"{PLACE.format('memory', row['shape'], row['dtype'])}  xent {verdict}, torch {used['torch']:.2f} gradients"


def verdict_of(ratio: dict | None) -> str:
    """3.1 >= 12 missed; 17.2 >= 12 met, 16 met; the number alone where there is no goal."""
    if ratio is None:
        return ""
    words = f"{ratio['median']:.3g}"
    for sign, bound in ((">=", "at least"), ("<=", "at most")):
        if bound in ratio:
            words += f" {sign} {ratio[bound]:g} {word(ratio['met'])}"
    return words + (f", {ratio['stretch']:g} {word(ratio['stretch met'])}" if "stretch" in ratio else "")


def word(met: bool) -> str:
    return "met" if met else "missed"


def summary(result: dict) -> str:
    quiet = [row for row in result["rows"] if row["waited"] <= BUSY]
    verdicts = [ratio["met"] for row in quiet for ratio in row["ratios"].values() if "met" in ratio]
    verdicts += [row["met"] for row in result["memory"]]
    busy = len(result["rows"]) - len(quiet)
    note = f"; {busy} rows measured on a busy machine are not counted" if busy else ""
    return f"{sum(verdicts)} of {len(verdicts)} goals met{note}"
