"""What the commands share: their class, common options, and opening a lens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qlens_tui.cli.output import Output

if TYPE_CHECKING:
    from lens_core.config import Config
    from lens_core.session import Session

Function = TypeVar("Function", bound=Callable[..., Any])

pass_output = click.make_pass_decorator(Output)


class PlainCommand(click.Command):
    """A command with the option `--ascii`."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        option = click.Option(
            ["--ascii"], is_flag=True, expose_value=False, is_eager=True, callback=_write_ascii,
            help="Write only ASCII characters.",
        )  # fmt: skip
        self.params.append(option)


def _write_ascii(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.find_object(Output).write_ascii()  # type: ignore[union-attr]


class Command(PlainCommand):
    """A command whose standard output holds nothing but its result."""

    def invoke(self, ctx: click.Context) -> Any:
        with ctx.find_object(Output).working():  # type: ignore[union-attr]
            return super().invoke(ctx)


class FeatureName(click.ParamType[tuple[int, int]]):
    """`LAYER:FEATURE`."""

    name = "layer:feature"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", value)
        if found is None:
            self.fail(f"{value!r} is not LAYER:FEATURE, such as 8:1279", param, ctx)
        return int(found[1]), int(found[2])


class Layers(click.ParamType[tuple[int, ...]]):
    """`3,5-9`."""

    name = "layers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        chosen: set[int] = set()
        for part in value.split(","):
            found = re.fullmatch(r"\s*([0-9]{1,4})(?:-([0-9]{1,4}))?\s*", part)
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
            if first > last:
                self.fail(f"{value!r} is not a list of layers, such as 3,5-9", param, ctx)
            chosen.update(range(first, last + 1))
        return tuple(sorted(chosen))


class Shard(click.ParamType[tuple[int, int]]):
    """`I/N`."""

    name = "shard"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value)
        number, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= of:
            self.fail(f"{value!r} is not I/N with I from 1 to N, such as 2/4", param, ctx)
        return number, of


def with_common(function: Function) -> Function:
    """The options of every command that opens a lens."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        click.option("--offline", is_flag=True, help="Fetch nothing; say what is missing."),
        click.option("--dtype", help="float32 or float64.  [default: the config's]"),
        click.option("--device", help="auto, cpu, mps, cuda or cuda:N.  [default: the config's]"),
        click.option(
            "--reference-tokens", type=click.Path(path_type=Path), metavar="FILE",
            help="Reference from a JSON file with a [samples][length] list of token ids.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def with_explanations(function: Function) -> Function:
    """The option of the commands that show what others say about features."""
    return click.option(
        "--explanations", type=click.Path(path_type=Path), metavar="FILE",
        help="A file of explanations, or a folder of them.  [default: the config's]",
    )(function)  # fmt: skip


def open_lens(
    output: Output,
    name: str,
    *,
    offline: bool,
    progress: Callable[[int, int], None] | None = None,
    layers: Sequence[int] | None = None,
    feature: int | None = None,
    **overrides: Any,
) -> Session:
    """Open the configuration `name`; the options of the command line override it.

    Args:
        layers: the layers that the command will ask for (`None`: the config's).
        feature: the feature of these layers that it will ask for, if only one.

    Raises:
        UsageError: there is no such layer or feature; raised before the model is loaded, which is
        slow, if it can be known without the model.
    """
    from lens_core.config import load_config, with_overrides
    from lens_core.hub import prepare_libraries

    config = with_overrides(load_config(name), **overrides)
    demand_features(config, layers or (), feature)
    prepare_libraries(offline=offline)
    output.step("importing torch and transformers")
    from lens_core.session import open_session

    return open_session(config, offline=offline, say=output.step, progress=progress)


def demand_features(config: Config, layers: Sequence[int], feature: int | None = None) -> None:
    """Refuse layers, and a feature of them, that the dictionary does not have.

    Layers of neurons and features of dictionaries on the hub are unknown here; they are checked
    when the model and the dictionary are loaded.
    """
    from lens_core.dictionaries.formats import features_without_loading, layers_without_model
    from lens_core.dictionaries.layers import demand_feature, demand_layer

    known = layers_without_model(config.dictionary)
    for layer in layers:
        if known is not None:
            demand_layer(layer, known)
        count = features_without_loading(config.dictionary, layer)
        if feature is not None and count is not None:
            demand_feature(layer, feature, count)
