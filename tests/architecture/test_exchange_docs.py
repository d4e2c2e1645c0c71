"""docs/exchanges.md tells what the specs say. Where it does not, the failure shows the rows that have to change."""

from itertools import takewhile

from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.spec import ExchangeSpec
from tests.upload import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "exchanges.md"
HEAD = ("Exchange", "Symbols", "Timeframes", "Page", "Limit (weight / period)", "A page costs", "History", "No trades")


def page_of(spec: ExchangeSpec) -> str:
    parts = [f"{spec.page_limit:,}", *(f"{limit} at {name}" for name, limit in spec.candles.page_limits.items())]
    if spec.archive is not None:
        parts.append(f"{spec.archive.page_limit} beyond {spec.archive_after_candles:,} back")
    return "; ".join(parts)


def weight_of(spec: ExchangeSpec) -> str:
    return str(spec.candles_weight) if not spec.weight_steps else f"{spec.live_weight} to {spec.candles_weight}"


def history_of(spec: ExchangeSpec) -> str:
    kept = {name: spec.history_of(name) for name in spec.timeframes}
    if len(set(kept.values())) == 1:
        (count,) = set(kept.values())
        return "all" if count is None else f"newest {count:,}"
    return ", ".join(f"{name} {'all' if count is None else f'{count:,}'}" for name, count in kept.items())


def row_of(spec: ExchangeSpec) -> tuple[str, ...]:
    limits = ", ".join(f"{window.limit:,} / {window.period_ms / 1000:g} s" for window in spec.windows)
    return (
        f"`{spec.name}`",
        spec.symbol_form.kinds.replace("BASE/QUOTE:SETTLE", "perpetuals").replace("BASE/QUOTE", "spot"),
        " ".join(spec.timeframe_names),
        page_of(spec),
        limits,
        weight_of(spec),
        history_of(spec),
        spec.empty_intervals.value,
    )


def table() -> list[str]:
    rows = [HEAD, ("---",) * len(HEAD), *(row_of(load_spec(name)) for name in sorted(EXCHANGES))]
    return [f"| {' | '.join(row)} |" for row in rows]


def written() -> list[str]:
    """The lines of the table as it is."""
    text = DOCUMENT.read_text()
    return list(takewhile(lambda line: line.startswith("|"), text[text.find(f"| {HEAD[0]} |") :].splitlines()))


def test_the_table_of_exchanges_is_what_the_specs_say() -> None:
    meant, there = table(), written()
    missing = "\n".join(line for line in meant if line not in there)
    too_many = "\n".join(line for line in there if line not in meant)
    # A plain `meant == there` would print both tables.
    is_same = meant == there
    assert is_same, (
        f"put into the table of docs/exchanges.md:\n{missing}\nand take out:\n{too_many}"
        if missing or too_many
        else "the rows in docs/exchanges.md are right: sort them by name, each once"
    )


def test_what_is_open_is_written_down_for_every_exchange() -> None:
    text = DOCUMENT.read_text()
    missing = " ".join(name for name in sorted(EXCHANGES) if f"\n- **{name}**: " not in text)
    assert not missing, (
        f'say under "What is not verified" in docs/exchanges.md, in a line "- **NAME**: ...", what nobody has seen of {missing}'
    )
