"""`scalebench data`: image sets split for training and validation, made for trials, and encoded as latents."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from scalebench import workloads
from scalebench.cli.asking import read_assignments
from scalebench.cli.flags import Finite
from scalebench.cli.tables import print_table
from scalebench.data.fresh import require_free
from scalebench.data.names import read_extensions, resolve_name
from scalebench.errors import EXIT_INTERRUPTED, UserError
from scalebench.machine import detect
from scalebench.matrix.options import workload_options
from scalebench.workloads.checkpoint_name import resolve_checkpoint

if TYPE_CHECKING:
    from scalebench.data.encode import Encoding

Item = TypeVar("Item")

SHARE = Finite(0, 1)
COUNT = click.IntRange(min=1)
SHOWN_NAMES = 5


class StoppedError(UserError):
    """Stopped by the person; the message says what is left."""

    exit_code = EXIT_INTERRUPTED


@click.group("data")
def data() -> None:
    """Prepare images for training: split them, make some for trials, or encode them as latents.

    What `--data` of other commands takes, and how files are read, is in docs/data.md.
    """


@data.command("split")
@click.option(
    "--input-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of images: flat, a folder per class, or images/ and masks/.",
)
@click.option("--output-dir", type=click.Path(path_type=Path), required=True, help="Folder to make; must not be there.")
@click.option("--train-ratio", type=SHARE, default=0.8, show_default=True, help="Share of the images in train/.")
@click.option("--val-ratio", type=SHARE, default=0.2, show_default=True, help="Share of the images in val/.")
@click.option("--test-ratio", type=SHARE, default=0.0, show_default=True, help="Share of the images in test/.")
@click.option(
    "--image-extensions", default="png,jpg,jpeg", show_default=True, metavar="EXT,...", help="Which files are images."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other parts.")
@click.option(
    "--mode",
    type=click.Choice(["copy", "link", "hardlink"]),
    default="copy",
    show_default=True,
    help="Copy the files, or link to them.",
)
def split_(
    input_dir: Path,
    output_dir: Path,
    train_ratio: float,
    val_ratio: float,
    test_ratio: float,
    image_extensions: str,
    seed: int,
    mode: str,
) -> None:
    """Split a folder of images into train/, val/ and test/, each class by the same shares.

    The same seed gives the same parts. Masks in masks/ go with their images in images/. Nothing is overwritten, and
    the output appears when it is complete.
    """
    from scalebench.data.split import Splitting, split

    ratios = {"train": train_ratio, "val": val_ratio, "test": test_ratio}
    asked = Splitting(
        source=input_dir,
        target=output_dir,
        ratios={part: ratio for part, ratio in ratios.items() if ratio},
        extensions=extensions_of(image_extensions),
        seed=seed,
        mode=mode,
    )
    with undone("nothing was written"):
        counts = split(asked, watched("splitting"))
    show_parts(counts)
    click.echo(f"written to {output_dir}; how is in {output_dir / 'split.json'}")


@data.command("synth")
@click.option("--output-dir", type=click.Path(path_type=Path), required=True, help="Folder to make; must not be there.")
@click.option("--classes", type=COUNT, default=3, show_default=True, help="Shapes, 1 to 5.")
@click.option("--per-class", type=COUNT, default=40, show_default=True, help="Images of each.")
@click.option("--image-size", type=click.IntRange(8, 4096), default=64, show_default=True, help="Shorter side, pixels.")
@click.option("--extension", type=click.Choice(["png", "jpg"]), default="png", show_default=True, help="Of the images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other images.")
def synth(output_dir: Path, classes: int, per_class: int, image_size: int, extension: str, seed: int) -> None:
    """Write a small set of images of shapes, in class folders, with masks: real files for trials.

    Then `--data pairs:DIR` are images with masks, and `--data images:DIR/images` images with classes.
    """
    from scalebench.data.synth import Synthesis, synthesise

    asked = Synthesis(
        target=output_dir, classes=classes, per_class=per_class, image_size=image_size, extension=extension, seed=seed
    )
    with undone("nothing was written"):
        count = synthesise(asked, watched("drawing"))
    click.echo(f"{count} images of {classes} classes: --data images:{output_dir}/images or pairs:{output_dir}")


@data.command("encode")
@click.option("--workload", default="vavae", show_default=True, metavar="NAME", help="The autoencoder.")
@click.option("--size", metavar="NAME", help="Its size, of `scalebench list workloads`. Default: the smallest.")
@click.option("--checkpoint", required=True, metavar="FILE[@PREFIX]", help="Its weights, as for run --init-from.")
@click.option("--data", "given", required=True, metavar="PATH", help="Images: images:DIR, arrays:PATH or `digits`.")
@click.option("--output-dir", type=click.Path(path_type=Path), required=True, help="Folder to make; must not be there.")
@click.option("--set", "assignments", multiple=True, metavar="workload.X=V", help="Options it was trained with.")
@click.option("--batch-size", type=COUNT, default=16, show_default=True, help="Images encoded at once.")
@click.option("--num-workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that decode.")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
def encode_(output_dir: Path, **asked: Any) -> None:
    """Write images as the latents of a trained autoencoder, which `--data arrays:DIR` of a latent model reads.

    Latents are the means of the encoder, brought to mean 0 and deviation 1 per channel; latents.json says how to go
    back, and from what they are.
    """
    resolved = encoding(output_dir, **asked)
    from scalebench.data.encode import encode

    with undone("nothing was written"):
        count = encode(resolved, watched("encoding"))
    click.echo(f"{count} latents: --data arrays:{output_dir}; from what is in {output_dir / 'latents.json'}")


def encoding(
    output_dir: Path,
    *,
    workload: str,
    size: str | None,
    checkpoint: str,
    given: str,
    assignments: Sequence[str],
    batch_size: int,
    num_workers: int,
    device: Literal["auto", "cuda", "cpu"],
) -> Encoding:
    """What is asked for, resolved. Raises UserError for whatever is wrong, before anything slow is imported."""
    options = read_assignments(assignments)
    if set(options) - {"workload"}:
        raise UserError("--set of this command takes workload.NAME=VALUE. Leave the others out.")
    require_free(output_dir)
    size = size or workloads.size_names(workload)[0]
    asked: dict[str, Any] = {
        "options": workload_options(workload, size, options.get("workload", {})),
        "checkpoint": resolve_checkpoint(checkpoint),
        "data": resolve_name(given, workloads.reads(workload)),
        "device": detect(device).device,
    }
    from scalebench.data.encode import Encoding

    return Encoding(
        target=output_dir, workload=workload, size=size, batch_size=batch_size, num_workers=num_workers, **asked
    )


def extensions_of(text: str) -> list[str]:
    """The extensions in comma-separated text. Raises UserError for what can be none."""
    try:
        return read_extensions(text).split(",")
    except ValueError as error:
        raise UserError(f"--image-extensions is '{text}'. Give {error}.") from None


def show_parts(counts: Mapping[str, Counter[str]]) -> None:
    """How many images of how many classes are in each part; on standard error the classes that one lacks."""
    classes = sorted(set().union(*counts.values()))
    rows = [[part, str(of_part.total()), str(len(of_part))] for part, of_part in counts.items()]
    print_table(("part", "images", "classes"), rows)
    for part, of_part in counts.items():
        lacking = [name for name in classes if not of_part[name]]
        if lacking:
            more = f" and {len(lacking) - SHOWN_NAMES} more" if len(lacking) > SHOWN_NAMES else ""
            said = ", ".join(lacking[:SHOWN_NAMES]) + more
            click.echo(f"note: no image in {part} of the classes {said}: too few images.", err=True)


@contextlib.contextmanager
def undone(what: str) -> Iterator[None]:
    """Ctrl-C inside is told in this command's own words."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(f"interrupted; {what}.") from None


def watched(description: str) -> Callable[[Sequence[Item]], Iterable[Item]]:
    """Passes items on with a progress bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return lambda items: track(items, description, console=console, disable=not console.is_terminal, transient=True)
