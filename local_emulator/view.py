"""The live terminal view, and plain lines where there is no terminal."""

import collections
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from pymongo.errors import PyMongoError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from local_emulator.emulator import Emulator
from local_emulator.snapshot import ConnectorRow, JobRow, Snapshot, take_snapshot
from local_emulator.state import STATE_DIR_DEFAULT

REFRESH_S: Final = 0.5
PLAIN_EVERY_S: Final = 5.0
# Over which the candles per second are taken.
RATE_WINDOW_S: Final = 10.0
EVENTS_SHOWN: Final = 5
INDICATORS_SHOWN: Final = 2
# Lines that are neither jobs nor connectors nor events: borders, header, column names, "more", hints.
FIXED_LINES: Final = 17
STATE_STYLES: Final = {
    "live": "green",
    "done": "green",
    "running": "cyan",
    "behind": "yellow",
    "retrying": "yellow",
    "paused": "dim",
    "error": "bold red",
}


def show(emulator: Emulator, is_plain: bool, console: Console) -> None:
    """Show what goes on until interrupted (KeyboardInterrupt)."""
    if is_plain or not console.is_terminal:
        _show_lines(emulator, console)
    else:
        _show_live(emulator, console)


def introduction(emulator: Emulator) -> str:
    """Where everything is, and lines to paste into a shell."""
    state = emulator.state.path
    lines = [
        f"admin      {emulator.urls['admin']}",
        f"metrics    {emulator.urls['metrics']}",
        f"simulator  {emulator.simulator_url or '(live exchanges)'}",
        f"mongod     {_mongod_text(emulator)}",
        f"logs       {emulator.state.logs}",
        "",
        *command_lines(emulator.urls["admin"], str(state)),
    ]
    return "\n".join(lines)


def command_lines(admin_url: str, state_dir: str) -> tuple[str, str]:
    """How to get a token, and a request that uses it: to be pasted from the screen, so as short as can be."""
    where = "" if Path(state_dir).resolve() == Path(STATE_DIR_DEFAULT).resolve() else f" --state-dir {state_dir}"
    return (
        f"export CHANDLER_TOKEN=$(.venv/bin/python -m local_emulator token --role admin{where})",
        f'curl -s -H "Authorization: Bearer $CHANDLER_TOKEN" "{admin_url}/v1/jobs?limit=3"',
    )


class _Rate:
    """Candles per second over the last moments."""

    def __init__(self) -> None:
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def update(self, candles: int) -> float:
        now = time.monotonic()
        self._seen.append((now, candles))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_WINDOW_S:
            self._seen.popleft()
        passed_s = now - self._seen[0][0]
        return max(0.0, (candles - self._seen[0][1]) / passed_s) if passed_s > 0 else 0.0


def _show_lines(emulator: Emulator, console: Console) -> None:
    rate = _Rate()
    told_s = emulator.started_s
    while True:
        time.sleep(PLAIN_EVERY_S)
        snapshot = _look(emulator)
        if snapshot is None:
            continue
        for at_s, text in (event for event in _events(emulator, snapshot) if event[0] > told_s):
            told_s = at_s
            console.print(f"{_clock(at_s)} {text}", markup=False, soft_wrap=True)
        weights = ", ".join(f"{row.connector_id} {row.used}/{row.limit}" for row in snapshot.connectors)
        console.print(
            f"{_clock(time.time())} jobs {len(snapshot.jobs)} ({snapshot.behind} behind) · candles {snapshot.candles:,} "
            f"(+{rate.update(snapshot.candles):,.0f}/s) · runs {snapshot.runs_count:,} · weight {weights}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _show_live(emulator: Emulator, console: Console) -> None:
    rate = _Rate()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            snapshot = _look(emulator)
            if snapshot is not None:
                live.update(render(emulator, snapshot, rate.update(snapshot.candles), console.height), refresh=True)
            time.sleep(REFRESH_S)


def _look(emulator: Emulator) -> Snapshot | None:
    """A snapshot, or None while the database does not answer: the view outlives a restart of it."""
    try:
        return take_snapshot(emulator.client[emulator.database])
    except PyMongoError as exc:
        emulator.note(f"view: MongoDB did not answer ({type(exc).__name__})")
        return None


def _events(emulator: Emulator, snapshot: Snapshot) -> list[tuple[float, str]]:
    return sorted((*snapshot.troubles, *tuple(emulator.supervisor.notices)))


def render(emulator: Emulator, snapshot: Snapshot, candles_per_s: float, height: int) -> RenderableType:
    """The whole screen."""
    events = _events(emulator, snapshot)[-EVENTS_SHOWN:]
    rows_max = max(3, height - FIXED_LINES - len(snapshot.connectors) - max(1, len(events)))
    return Group(
        Panel(_header(emulator, snapshot, candles_per_s), title="[bold]Chandler[/bold] · local emulator", border_style="blue"),
        Panel(_connectors(snapshot.connectors), title="connectors · weight in the window", border_style="blue"),
        Panel(_jobs(snapshot.jobs, rows_max), title=f"jobs · {len(snapshot.jobs)}", border_style="blue"),
        Panel(_event_lines(events), title="events", border_style="blue"),
        Text("\n".join(command_lines(emulator.urls["admin"], str(emulator.state.path))), style="dim", overflow="ellipsis"),
        Text("Ctrl-C stops everything", style="dim"),
    )


def _header(emulator: Emulator, snapshot: Snapshot, candles_per_s: float) -> RenderableType:
    grid = Table.grid(padding=(0, 3), expand=True)
    grid.add_column()
    grid.add_column()
    next_tick_s = max(0.0, emulator.scheduler.next_at_s - time.time())
    states = "  ".join(
        f"[{'green' if state == 'up' else 'red'}]●[/] {name}" for name, state in sorted(emulator.supervisor.states().items())
    )
    grid.add_row(
        f"up [bold]{_span(int((time.time() - emulator.started_s) * 1000))}[/]   next tick in {next_tick_s:.0f} s",
        f"[bold]{snapshot.candles:,}[/] candles   [bold]{candles_per_s:,.0f}[/]/s   {snapshot.runs_count:,} runs",
    )
    grid.add_row(f"admin {emulator.urls['admin']}", f"metrics {emulator.urls['metrics']}")
    grid.add_row(f"simulator {emulator.simulator_url or '(live exchanges)'}", f"mongod {escape(_mongod_text(emulator))}")
    return Group(grid, Text.from_markup(states))


def _connectors(rows: tuple[ConnectorRow, ...]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        share = row.used / row.limit if row.limit else 0.0
        style = "red" if share > 0.9 else "yellow" if share > 0.6 else "green"
        note = (
            f"[bold red]blocked for {_span(row.blocked_ms)}[/]"
            if row.blocked_ms
            else ""
            if row.status == "active"
            else row.status
        )
        table.add_row(
            row.connector_id,
            ProgressBar(total=1.0, completed=min(1.0, share), width=30, complete_style=style, finished_style="red"),
            f"{row.used:,} / {row.limit:,}",
            f"[dim]per {row.period_ms / 1000:g} s[/]",
            note,
        )
    return table


def _jobs(rows: tuple[JobRow, ...], rows_max: int) -> RenderableType:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for name, width in (("series", 10), ("", 3), ("state", 8), ("progress", 20)):
        table.add_column(name, no_wrap=True, min_width=width)
    for name, width in (("lag", 6), ("candles", 7), ("last run", 8)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    # The only one that gives way on a narrow terminal.
    table.add_column("indicators", overflow="ellipsis", max_width=40)
    # Those that need a look come first when not all fit.
    is_crowded = len(rows) > rows_max
    # What is done can wait, and of too many those that are as they should be.
    order = sorted(rows, key=lambda row: (row.state == "done", is_crowded and row.state == "live", row.job_id))
    for row in order[:rows_max]:
        bar = ProgressBar(total=1.0, completed=row.progress, width=14, complete_style="cyan", finished_style="green")
        progress = Table.grid(padding=(0, 1))
        progress.add_row(bar, f"{int(row.progress * 1000) / 10:.1f} %")
        table.add_row(
            f"{row.exchange} {row.symbol}",
            row.timeframe,
            Text(row.state, style=STATE_STYLES.get(row.state, "")),
            progress,
            "-" if row.stretch else _span(row.lag_ms),
            f"{row.candles:,}",
            "-" if row.last_run_ms is None else f"{_span(row.last_run_ms)} ago",
            Text(row.error, style="red", no_wrap=True)
            if row.error
            else Text(f"{row.stale:,} to compute", style="yellow", no_wrap=True)
            if row.stale and not row.stretch
            else Text(row.stretch or _listed(row.indicators), style="dim", no_wrap=True),
        )
    if len(rows) > rows_max:
        table.add_row(f"[dim]… {len(rows) - rows_max} more[/]")
    return table


def _listed(indicators: tuple[str, ...]) -> str:
    more = len(indicators) - INDICATORS_SHOWN
    return ", ".join(indicators[:INDICATORS_SHOWN]) + (f" +{more}" if more > 0 else "")


def _event_lines(events: Sequence[tuple[float, str]]) -> RenderableType:
    lines = [Text(f"{_clock(at_s)}  {text}", no_wrap=True, overflow="ellipsis") for at_s, text in events]
    return Group(*lines) if lines else Text("nothing unusual", style="dim")


def _mongod_text(emulator: Emulator) -> str:
    mongod = emulator.mongod
    owner = "yours" if mongod.pid is None else f"pid {mongod.pid}"
    return f"{mongod.hosts} · database {emulator.database} · {owner}"


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s).astimezone().strftime("%H:%M:%S")


def _span(span_ms: int) -> str:
    """A span of time in at most two units."""
    seconds = span_ms // 1000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} m {seconds % 60:02d} s"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} m"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3600:02d} h"
