"""The command line: `xent explain`, `xent audit`, `xent bench`, `xent info`.

Torch is imported by the commands, never here, so that `--help` answers at once. Exit codes: 0 fine,
1 a threshold missed or a finding, 2 wrong usage, 3 unreadable or invalid data, or a loss that cannot be loaded.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ._explain import Derivation

THRESHOLD_MISSED = 1
INVALID_DATA = 3


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from . import __version__

        click.echo(f"xent {__version__}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def main() -> None:
    """Cross-entropy for PyTorch: exact, drop-in, explained."""


@main.command()
@click.argument("files", metavar="FILE [TARGET]", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--target", type=click.Path(path_type=Path), help="The file of the target, if it has its own.")
@click.option("--target-column", metavar="NAME", help="Column of a .csv with the label; otherwise the last.")
@click.option("--row", "rows", type=int, multiple=True, help="Row to show; may be repeated. Otherwise the worst.")
@click.option("--top", type=click.IntRange(min=0), help="Classes to show a row.")
@click.option("--ignore-index", type=int, default=-100, show_default=True, help="Label of rows to leave out.")
@click.option("--label-smoothing", type=float, default=0.0, show_default=True, help="Share spread over all classes.")
@click.option("--softcap", type=float, help="Bound of the logits, c tanh(z / c).")
@click.option("--logit-scale", type=float, default=1.0, show_default=True, help="Factor of the logits.")
@click.option("--z-loss", type=float, default=0.0, show_default=True, help="Coefficient of the squared logsumexp.")
@click.option("--reduction", type=click.Choice(["mean", "sum", "none"]), default="mean", show_default=True)
@click.option(
    "--dtype", type=click.Choice(["float64", "float32", "bfloat16", "float16"]), help="Round the logits first."
)
@click.option("--labels", type=click.Path(path_type=Path), help="Class names: one a line, or a JSON list.")
@click.option("--max-loss", type=float, help="Exit with 1 if the loss is higher.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of the table.")
@click.option("--as", "form", metavar="FORM", help="Print another form: markdown, latex, svg, notebook or html.")
@click.option("--html", metavar="OUT", type=click.Path(path_type=Path), help="Write a page with sliders instead.")
@click.option("--open", "in_browser", is_flag=True, help="Open that page in the browser.")
@click.option("--no-color", is_flag=True, help="Plain text on a terminal too.")
def explain(
    files: tuple[Path, ...],
    target: Path | None,
    target_column: str | None,
    rows: tuple[int, ...],
    dtype: str | None,
    labels: Path | None,
    max_loss: float | None,
    as_json: bool,
    form: str | None,
    html: Path | None,
    in_browser: bool,
    no_color: bool,
    **options: Any,
) -> None:
    """How a loss comes about, on your own logits and targets.

    FILE is .npz or .safetensors (arrays logits and target, weight if any), .npy (the target in a second
    file), or .csv (a row a line, the label in the last column or in one named target or label).
    """
    if len(files) + (target is not None) > 2:
        raise click.UsageError("one file of logits, and at most one of targets.")
    if max_loss is not None and options["reduction"] == "none":
        raise click.UsageError("--max-loss wants one loss: --reduction mean or sum.")
    if in_browser and html is None:
        raise click.UsageError("--open wants a page: --html OUT.")
    logits, target = files[0], target or (files[1] if len(files) == 2 else None)
    with _invalid_data():
        derivation = _explained(logits, target, target_column, dtype, labels, rows=list(rows) or None, **options)
        if html is not None:
            _write(derivation, html)
    if as_json or form or html is None:
        _show(derivation, as_json, form, no_color)
    if in_browser and html is not None:
        click.launch(html.absolute().as_uri())
    if max_loss is not None and not (derivation.loss is not None and derivation.loss <= max_loss):
        click.echo(f"loss {derivation.loss:.6g} is not at most {max_loss:g}", err=True)
        sys.exit(THRESHOLD_MISSED)


def _explained(
    logits: Path, target: Path | None, column: str | None, dtype: str | None, labels: Path | None, **options: Any
) -> "Derivation":
    import torch

    from ._explain import files, walk

    stored = files.read(logits, target, column)
    rounded = stored.logits if dtype is None else stored.logits.to(getattr(torch, dtype))
    names = files.names(labels) if labels is not None else stored.labels
    return walk.explain(rounded, stored.target, stored.weight, labels=names, **options)


@contextmanager
def _invalid_data() -> Iterator[None]:
    """What xent refuses is a message on stderr and exit code 3, never a traceback."""
    from .errors import XentError

    try:
        yield
    except XentError as reason:
        click.echo(f"{type(reason).__name__}: {reason}", err=True)
        sys.exit(INVALID_DATA)


def _write(derivation: "Derivation", page: Path) -> None:
    from .errors import FileError

    try:
        derivation.save(page)
    except OSError as reason:
        raise FileError(f"{page}: {reason.strerror or reason}.") from reason
    click.echo(f"wrote {page}", err=True)


def _show(derivation: "Derivation", as_json: bool, form: str | None, no_color: bool) -> None:
    from ._explain.render import RENDERERS

    if as_json:
        click.echo(json.dumps(derivation.to_dict(), allow_nan=False, ensure_ascii=False))
        return
    if form is not None:
        if form not in RENDERERS:
            raise click.UsageError(f"--as {form}: expected one of {', '.join(RENDERERS)}.")
        click.echo(RENDERERS[form](derivation), nl=False)
        return
    if sys.stdout.isatty() and not no_color and not os.environ.get("NO_COLOR"):
        try:
            from rich.console import Console
        except ModuleNotFoundError:
            pass
        else:
            return Console().print(derivation, soft_wrap=True)
    click.echo(str(derivation))


@main.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every implementation known by name; what is missing is told.")
@click.option("--case", "cases", metavar="NAME", multiple=True, help="Ask this case only; may be repeated.")
@click.option("--skip", metavar="NAME", multiple=True, help="Leave this case out; may be repeated.")
@click.option("--list", "listing", is_flag=True, help="The cases, and the implementations known by name.")
@click.option(
    "--signature", type=click.Choice(["logits", "linear", "hidden"]), help="What package.module:object takes."
)
@click.option("--dtype", type=click.Choice(["float64", "float32", "bfloat16", "float16"]), help="One for every case.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--fuzz", metavar="N", type=click.IntRange(min=1), help="Search N random calls, too, with hypothesis.")
@click.option("--markdown", "style", flag_value="markdown", help="As Markdown, for an issue.")
@click.option("--summary", "style", flag_value="summary", help="One row a target, as Markdown.")
@click.option("--json", "style", flag_value="json", help="One JSON document.")
def audit(targets: tuple[str, ...], everything: bool, listing: bool, style: str | None, **asked: Any) -> None:
    """Ask a cross-entropy everything that breaks one.

    TARGET is a name (torch, torch-linear, liger, optax, xent, ...; --list has them all) or package.module:object: a
    function, a class or a module of torch's signature. Exit codes: 0 it passes, 1 findings, 2 wrong usage, 3 it cannot
    be loaded, or nothing of it judged.
    """
    if not (targets or everything or listing):
        raise click.UsageError("name a TARGET, or say --all.")
    sys.path.insert(0, os.getcwd())  # as `python -m` has it: package.module may be the caller's own
    from ._audit import command
    from .errors import OptionError

    if listing:
        return click.echo(command.listing())
    with _invalid_data():
        try:
            reports = command.reports(targets, everything, lambda line: click.echo(line, err=True), **asked)
        except OptionError as reason:
            raise click.UsageError(str(reason)) from reason
    click.echo(command.rendered(reports, style))
    sys.exit(command.exit_code(reports))


@main.command()
@click.option("--shape", "shapes", metavar="NxV", multiple=True, help="4096x32000, 2x21x64x64; may be repeated.")
@click.option("--dtype", default="float32", show_default=True, help="Or fp64, fp32, fp16, bf16.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--linear", is_flag=True, help="A linear head: shapes are NxDxV, rows, width, classes.")
@click.option(
    "--task",
    default="loss",
    show_default=True,
    help="Or smoothing, weights, probabilities, ignored, softmax, log_softmax.",
)
@click.option(
    "--implementations", metavar="A,B", help="Names, or package.module:object; label=... before it. Otherwise all."
)
@click.option("--measures", metavar="A,B", help="Of forward, step, peak, error; otherwise all.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of torch; otherwise as many as it takes.")
@click.option("--json", "kept", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True), help="Keep it.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Time against classes: .svg or .png.")
@click.option("--markdown", is_flag=True, help="Tables that paste into an issue.")
@click.option(
    "--compare",
    metavar="A B",
    nargs=2,
    type=click.Path(path_type=Path),
    help="Measure nothing: what changed from one file of --json to another.",
)
def bench(
    compare: tuple[Path, Path] | None, kept: Path | None, plot: Path | None, markdown: bool, **asked: Any
) -> None:
    """The implementations installed here, side by side: time, memory and error on the shapes you name.

    Exit codes: 2 wrong usage, 3 nothing that can be measured here, or a file that cannot be read or written.
    """
    sys.path.insert(0, os.getcwd())  # as `python -m` has it: package.module may be the caller's own
    from ._bench import command
    from .errors import OptionError, ShapeError

    with _invalid_data():
        try:
            command.asked_for(kept, plot, compare is not None)
            found = command.compared(*compare) if compare else command.measured(kept=kept, **asked)
        except (OptionError, ShapeError) as reason:
            raise click.UsageError(str(reason)) from reason
        click.echo(command.shown(found, kept, markdown))
        command.keep(found, kept, plot)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of the lines.")
def info(as_json: bool) -> None:
    """Versions, devices, and which backend serves what and why."""
    with _invalid_data():
        facts = _info()
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
        return
    for name, version in facts["versions"].items():
        click.echo(f"{name:<12} {version or 'not installed'}")
    click.echo(f"{'cpu':<12} {facts['cpu']['capability']}, {facts['cpu']['threads']} threads")
    for device, served in facts["devices"].items():
        click.echo(f"{device:<12} {served['name']}: served by {served['backend'] or 'none'}")
        for backend, refusal in served["refusals"].items():
            click.echo(f"{'':<12}   {backend}: {refusal or 'available'}")


def _info() -> dict[str, Any]:
    import platform

    import torch

    from . import __version__

    cpu = {"capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    versions = {"xent": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {
        "schema": "xent.info/1",
        "versions": {**versions, **_extras()},
        "cpu": cpu,
        "devices": _devices(),
    }


def _extras() -> dict[str, str | None]:
    """Optional packages and their versions, None where not installed."""
    from importlib import metadata

    found: dict[str, str | None] = {}
    for package in ("rich", "numpy", "mpmath", "safetensors", "python-flint", "triton", "tqdm", "matplotlib"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _devices() -> dict[str, dict[str, Any]]:
    import torch

    from . import backends

    names = {"cpu": "this machine"}
    names |= {f"cuda:{at}": torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        names["mps"] = "Apple GPU"
    return {
        device: {
            "name": name,
            "backend": next((backend for backend, refusal in refusals.items() if refusal is None), None),
            "refusals": refusals,
        }
        for device, name in names.items()
        for refusals in [backends.refusals(torch.device(device))]
    }


if __name__ == "__main__":
    main(prog_name="xent")
