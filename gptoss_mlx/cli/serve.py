"""`gptoss-mlx serve`: models of this machine behind OpenAI's HTTP interfaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gptoss_mlx import demo, hub
from gptoss_mlx.errors import RequestError

from .app import OneLineErrors
from .options import memory_options

if TYPE_CHECKING:
    from gptoss_mlx.tools.browser import BrowserTool

SERVICES = ("brave", "exa", "tavily")


@click.command(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", required=False)
@click.option("--model", "aliases", multiple=True, metavar="ALIAS=PATH", help="Another model; may be repeated.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--api-key", envvar="GPTOSS_API_KEY", help="What clients must show; or in $GPTOSS_API_KEY.")
@click.option("--insecure", is_flag=True, help="Serve other machines without a key.")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Let web pages of this origin ask; may be repeated.")
@click.option("--max-tokens", type=click.IntRange(1), default=16384, show_default=True, help="Of a reply by default.")
@click.option("--max-sequences", type=click.IntRange(1), default=8, show_default=True, help="Replies at a time.")
@click.option("--max-waiting", type=click.IntRange(0), default=256, show_default=True, help="Requests in the queue.")
@click.option("--prefix-memory", type=click.IntRange(0), default=2048, show_default=True, help="MB for old prompts.")
@click.option("--prompt-cache", type=click.Path(path_type=Path, file_okay=False), help="Keep them in this folder.")
@click.option("--max-body", type=click.IntRange(1), default=16, show_default=True, help="MB of a request.")
@click.option("--store", type=click.Path(path_type=Path, dir_okay=False), help="File for responses; else in memory.")
@click.option("--browse", metavar="FOLDER", help="Offer web_search over the documents in FOLDER.")
@click.option("--web", is_flag=True, help="Offer it over the web, without searching.")
@click.option(
    "--search", type=click.Choice(SERVICES), help="Offer it over a search service; keys are in $NAME_API_KEY."
)
@click.option("--python", is_flag=True, help="Offer code_interpreter: cells in a sandbox on this machine.")
@click.option("--mcp", type=click.Path(path_type=Path, dir_okay=False), help="Offer the MCP servers of this JSON file.")
@memory_options
@click.option("--idle-unload", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Then free memory.")
@click.option("--drain", type=click.IntRange(0), default=60, show_default=True, help="Seconds to end in.")
@click.option("--log-content", is_flag=True, help="Log requests with what they say.")
def serve(
    model: str | None,
    aliases: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    insecure: bool,
    cors: tuple[str, ...],
    max_tokens: int,
    max_sequences: int,
    max_waiting: int,
    prefix_memory: int,
    prompt_cache: Path | None,
    max_body: int,
    context: int,
    force: bool,
    idle_unload: float | None,
    drain: int,
    store: Path | None,
    browse: str | None,
    web: bool,
    search: str | None,
    python: bool,
    mcp: Path | None,
    log_content: bool,
) -> None:
    """Serve MODEL (path, alias or hub id; else the newest here, else demo) over HTTP, OpenAI's way, and a chat at /.

    Clients name the model as it is named here; no other name leads anywhere.
    """
    from gptoss_mlx.engine import EngineOptions

    try:
        from gptoss_mlx.server.built_in import BuiltIns, notebooks
        from gptoss_mlx.server.local import LocalBackend
        from gptoss_mlx.server.responses import Responses, ResponseStore
        from gptoss_mlx.server.run import run
        from gptoss_mlx.server.settings import Settings, check_exposure
    except ImportError as error:
        raise RequestError(f"serve: {error.name} is missing; run pip install 'gptoss-mlx[serve]'") from None
    check_exposure(host, api_key, insecure=insecure)
    settings = Settings(api_key, cors, max_body << 20, idle_unload=idle_unload, log_content=log_content)
    options = EngineOptions(max_sequences, max_waiting, prefix_memory << 20, prompt_cache)
    folders = _folders(model, aliases)
    if demo.MODEL_FOLDER in folders.values():
        click.echo(demo.NOTICE, err=True)
    backends = {
        name: LocalBackend(name, folder, options, max_tokens, room=context, force=force)
        for name, folder in folders.items()
    }
    built_ins = BuiltIns(_browsers(browse, web, search), notebooks if python else None, mcp)
    run(backends, settings, Responses(ResponseStore(store), built_ins), host=host, port=port, drain=drain)


def _browsers(folder: str | None, web: bool, service: str | None) -> Callable[[], BrowserTool] | None:
    """What makes browsers over that which was named; None for nothing."""
    from gptoss_mlx.server.built_in import browsers
    from gptoss_mlx.tools.browser import Backend, Brave, Exa, LocalFolder, Tavily, Web

    if [folder is not None, web, service is not None].count(True) > 1:
        raise click.UsageError("--browse, --web and --search: one browser expected, more found; choose one")
    services: dict[str, Callable[[], Backend]] = dict(zip(SERVICES, (Brave, Exa, Tavily), strict=True))
    if folder is not None:
        return browsers(LocalFolder(folder))
    if service is not None:
        return browsers(services[service]())
    return browsers(Web()) if web else None


def _folders(model: str | None, aliases: tuple[str, ...]) -> dict[str, Path]:
    """The folders by the names that clients use."""
    folders: dict[str, Path] = {}
    if model is not None:
        folders[Path(model).resolve().name if Path(model).is_dir() else model] = hub.find(model)
    for alias in aliases:
        name, equals, path = alias.partition("=")
        if not (name and equals and path):
            raise click.UsageError(f"--model: ALIAS=PATH expected, {alias!r} found")
        if name in folders:
            raise click.UsageError(f"--model: different aliases expected, two of {name!r} found")
        folders[name] = hub.find(path)
    if not folders:
        newest = hub.newest()
        folders = {hub.DEMO: hub.find(hub.DEMO)} if newest is None else {hub.display_name(newest): newest}
    return folders
