"""Laws of decoding: what comes out is clean candles of the range asked for, or a MalformedPage. Never a wrong candle."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from shared.domain.candles import CandleBatch
from shared.domain.timeframes import DAY_MS, HOUR_MS, MINUTE_MS, TIMEFRAMES
from shared.errors import InvalidRequest, MalformedPage
from shared.exchanges.catalog import EXCHANGES, load_spec
from shared.exchanges.cells import OPEN_MS_MAX
from shared.exchanges.own_names import SymbolForm
from shared.exchanges.row_forms import MarketForm, RowForm, RowKind, TimeForm
from shared.exchanges.rows import DISPUTED_MAX, decode, decode_markets
from shared.exchanges.spec import ExchangeSpec
from shared.exchanges.tables import find_rows

START_MS = 1_704_067_200_000  # 2024-01-01, a Monday
MINUTE = TIMEFRAMES["1m"]
BINANCE, COINBASE, KRAKEN = (load_spec(name) for name in ("binance", "coinbase", "kraken"))
FAR_MS = OPEN_MS_MAX


def candle(index: int) -> tuple[float, ...]:
    """(open, high, low, close, volume) of a made-up series."""
    return (100.0 + index, 103.0 + index, 99.0 + index, 101.0 + index, 7.5 + index)


def binance_row(index: int, open_ms: int | None = None) -> list[Any]:
    at_ms = START_MS + index * MINUTE_MS if open_ms is None else open_ms
    open_, high, low, close, volume = (f"{value:.8f}" for value in candle(index))
    return [at_ms, open_, high, low, close, volume, at_ms + MINUTE_MS - 1, "1.0", 5, "1.0", "1.0", "0"]


def coinbase_row(index: int) -> list[Any]:
    open_, high, low, close, volume = candle(index)
    return [START_MS // 1000 + index * 60, low, high, open_, close, volume]


def kraken_row(index: int) -> list[Any]:
    open_, high, low, close, volume = (f"{value:.5f}" for value in candle(index))
    return [START_MS // 1000 + index * 60, open_, high, low, close, "555.5", volume, 9]


def candles_of(*asked: Any) -> CandleBatch:
    """What `decode` makes of an answer without a dispute."""
    candles, disputed_ms = decode(*asked)
    assert not len(disputed_ms)
    return candles


def decode_binance(rows: list[Any], start_ms: int = START_MS, end_ms: int = FAR_MS) -> CandleBatch:
    return candles_of(rows, BINANCE, MINUTE, start_ms, end_ms)


def in_columns(spec: ExchangeSpec, **changes: Any) -> ExchangeSpec:
    return replace(spec, rows=replace(spec.rows, **changes))


@pytest.mark.parametrize(
    ("spec", "make_row"),
    [(BINANCE, binance_row), (COINBASE, coinbase_row), (KRAKEN, kraken_row)],
    ids=["binance", "coinbase", "kraken"],
)
def test_each_exchange_puts_the_columns_where_they_belong(spec: ExchangeSpec, make_row: Any) -> None:
    rows = [make_row(index) for index in range(5)]
    for order in (rows, rows[::-1]):
        batch = candles_of(order, spec, MINUTE, START_MS, FAR_MS)
        assert batch.open_ms.tolist() == [START_MS + index * MINUTE_MS for index in range(5)]
        columns = zip(batch.open, batch.high, batch.low, batch.close, batch.volume, strict=True)
        assert [tuple(map(float, row)) for row in columns] == [candle(index) for index in range(5)]


def test_the_page_of_kraken_stands_under_its_own_name() -> None:
    payload = {"error": [], "result": {"XXBTZUSD": [kraken_row(0)], "last": 1}}
    assert find_rows(payload, KRAKEN).rows == [kraken_row(0)]
    with pytest.raises(MalformedPage, match="no list of rows"):
        find_rows({"error": [], "result": {"last": 1}}, KRAKEN)
    with pytest.raises(MalformedPage, match="no list of rows"):
        find_rows({"error": [], "result": {"A": [], "B": [], "last": 1}}, KRAKEN)


def test_rows_outside_the_range_are_dropped_even_if_their_values_make_no_sense() -> None:
    rows = [binance_row(index) for index in range(4)]
    rows[0][2] = None
    rows[3][1:6] = ["0", "0", "0", "0", "nonsense"]
    batch = decode_binance(rows, START_MS + MINUTE_MS, START_MS + 3 * MINUTE_MS)
    assert batch.open_ms.tolist() == [START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS]


def test_identical_repeats_are_dropped_and_a_candle_that_rows_disagree_about_is_left_out() -> None:
    rows = [binance_row(1), binance_row(0), binance_row(1), binance_row(2), binance_row(1)]
    assert len(decode_binance(rows)) == 3
    rows[4][4] = "101.5"
    candles, disputed_ms = decode(rows, BINANCE, MINUTE, START_MS, FAR_MS)
    assert candles.open_ms.tolist() == [START_MS, START_MS + 2 * MINUTE_MS]
    assert disputed_ms.tolist() == [START_MS + MINUTE_MS]
    # Not of what was asked for.
    assert len(decode_binance(rows, START_MS + 2 * MINUTE_MS)) == 1


def test_rows_that_disagree_about_many_candles_are_no_page() -> None:
    rows = [binance_row(index) for index in range(100)]
    others = [[*binance_row(index)[:5], "999.5", *binance_row(index)[6:]] for index in range(1, DISPUTED_MAX + 2)]
    candles, disputed_ms = decode([*rows, *others[:-1]], BINANCE, MINUTE, START_MS, FAR_MS)
    assert (len(candles), len(disputed_ms)) == (100 - DISPUTED_MAX, DISPUTED_MAX)
    with pytest.raises(MalformedPage, match=f"disagree about {DISPUTED_MAX + 1} candles, first 1 and 100"):
        decode([*rows, *others], BINANCE, MINUTE, START_MS, FAR_MS)


WRONG_CELLS = [
    (0, START_MS + 2 * MINUTE_MS + 1, "row 2: open time .* off the 1m grid"),
    (0, (START_MS + 2 * MINUTE_MS) // 1000, "row 2: open time .* wrong unit"),
    (0, (START_MS + 2 * MINUTE_MS) * 1000, "row 2: open time .* wrong unit"),
    (0, 10**30, "row 2: open time .* wrong unit"),
    (0, -(10**30), "row 2: open time"),
    (0, None, "row 2: None at 0 is not a time"),
    (0, True, "row 2: True at 0 is not a time"),
    (0, 1.5, "row 2: 1.5 at 0 is not a time"),
    (0, "soon", "row 2: 'soon' at 0 is not a time"),
    (1, "nan", "row 2: a value is not finite"),
    (2, "inf", "row 2: a value is not finite"),
    (2, "1e999", "row 2: a value is not finite"),
    (3, float("nan"), "row 2: a value is not finite"),
    (5, "Infinity", "row 2: a value is not finite"),
    (1, "0", "row 2: a price is not above zero"),
    (3, "-99", "row 2: a price is not above zero"),
    (5, "-0.1", "row 2: the volume is negative"),
    (2, "100", "row 2: high and low do not enclose"),
    (3, "102.5", "row 2: high and low do not enclose"),
    (4, "200", "row 2: high and low do not enclose"),
    (4, "100", "row 2: high and low do not enclose"),
    (1, "106", "row 2: high and low do not enclose"),
    (1, "100", "row 2: high and low do not enclose"),
    (4, None, "row 2: None at 4 is not a number"),
    (4, True, "row 2: True at 4 is not a number"),
    (4, [1], r"row 2: \[1\] at 4 is not a number"),
    (4, "1_03", "row 2: '1_03' at 4 is not a number"),
    (4, " 103", "row 2: ' 103' at 4 is not a number"),
    (4, "", "row 2: '' at 4 is not a number"),
    (4, "١٠٣", "row 2: .* at 4 is not a number"),
    (4, 10**400, "row 2: .* at 4 is not a number"),
]


@pytest.mark.parametrize(("column", "value", "message"), WRONG_CELLS)
def test_a_wrong_value_is_refused_with_the_index_of_its_row(column: int, value: object, message: str) -> None:
    rows = [binance_row(index) for index in range(4)]
    rows[2][column] = value
    with pytest.raises(MalformedPage, match=message):
        decode_binance(rows)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, True, "row 2: True at 0 is not a time"),
        (0, 1, "row 2: open time 1 is no time of a candle"),
        (0, 10**30, "row 2: open time .* wrong unit"),
        (1, True, "row 2: True at 1 is not a number"),
        (4, None, "row 2: None at 4 is not a number"),
        (4, [1.0], r"row 2: \[1.0\] at 4 is not a number"),
        (4, 10**400, "row 2: .* at 4 is not a number"),
        (4, "1_03", "row 2: '1_03' at 4 is not a number"),
        (5, False, "row 2: False at 5 is not a number"),
        (5, "", "row 2: '' at 5 is not a number"),
        (5, float("inf"), "row 2: a value is not finite"),
        (3, 0, "row 2: a price is not above zero"),
    ],
)
def test_a_wrong_value_among_numbers_is_refused_with_the_index_of_its_row(column: int, value: object, message: str) -> None:
    rows = [coinbase_row(index) for index in range(4)]
    rows[2][column] = value
    with pytest.raises(MalformedPage, match=message):
        candles_of(rows, COINBASE, MINUTE, START_MS, FAR_MS)


def test_zeros_and_ones_are_numbers_like_others_whole_or_not() -> None:
    rows = [[START_MS // 1000 + index * 60, 1, 1.0, 1, 1.0, volume] for index, volume in enumerate((0, 0.0, 1, 2**60, "3"))]
    batch = candles_of(rows, COINBASE, MINUTE, START_MS, FAR_MS)
    assert batch.volume.tolist() == [0.0, 0.0, 1.0, float(2**60), 3.0]
    assert batch.close.tolist() == [1.0] * 5


@pytest.mark.parametrize("row", [None, 1, "text", {"t": 1}, [START_MS], []])
def test_a_row_of_another_shape_is_refused_with_its_index(row: object) -> None:
    with pytest.raises(MalformedPage, match="row 1 "):
        decode_binance([binance_row(0), row])


@pytest.mark.parametrize("payload", [None, 1, "x", {}, {"rows": []}, True])
def test_an_answer_without_rows_is_refused(payload: object) -> None:
    with pytest.raises(MalformedPage, match="no list of rows"):
        find_rows(payload, BINANCE)


def test_weeks_and_months_are_on_the_grid_only_at_their_opens() -> None:
    months = [START_MS, START_MS + 31 * DAY_MS]
    batch = candles_of([binance_row(0, at) for at in months], BINANCE, TIMEFRAMES["1M"], START_MS, FAR_MS)
    assert batch.open_ms.tolist() == months
    assert len(candles_of([binance_row(0, START_MS)], BINANCE, TIMEFRAMES["1w"], START_MS, FAR_MS)) == 1
    with pytest.raises(MalformedPage, match="off the 1w grid"):
        candles_of([binance_row(0, START_MS + 3 * DAY_MS)], BINANCE, TIMEFRAMES["1w"], START_MS, FAR_MS)


def test_objects_columns_and_iso_times_need_no_code_but_a_form() -> None:
    letters = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"}
    objects = in_columns(BINANCE, kind=RowKind.OBJECTS, time="t", path=("result", "data"), is_nothing_empty=True, **letters)
    row = {"t": str(START_MS), **dict(zip("ohlcv", map(str, candle(0)), strict=True))}
    assert candles_of(find_rows({"result": {"data": [row]}}, objects), objects, MINUTE, START_MS, FAR_MS).close.tolist() == [
        101.0
    ]
    assert find_rows({"result": {"data": None}}, objects).rows == []
    with pytest.raises(MalformedPage, match="row 0 has nothing at 'v'"):
        candles_of([{key: value for key, value in row.items() if key != "v"}], objects, MINUTE, START_MS, FAR_MS)

    iso = in_columns(objects, time_form=TimeForm.ISO)
    row["t"] = "2024-01-01T00:00:00"
    assert candles_of([row], iso, MINUTE, START_MS, FAR_MS).open_ms.tolist() == [START_MS]

    columnar = in_columns(BINANCE, kind=RowKind.COLUMNS, time="ticks", path=("result",), **{name: name for name in letters})
    columns = dict(zip(letters, ([value] for value in candle(0)), strict=True))
    rows = find_rows({"result": {"ticks": [START_MS], **columns, "status": "ok"}}, columnar)
    assert candles_of(rows, columnar, MINUTE, START_MS, FAR_MS).high.tolist() == [103.0]
    with pytest.raises(MalformedPage, match="no columns of one length"):
        find_rows({"result": {"ticks": [], **columns}}, columnar)


DAMAGES: st.SearchStrategy[tuple[int, Any]] = st.sampled_from(
    [
        (0, START_MS + 1),
        (0, START_MS // 1000),
        (0, START_MS * 1000),
        (0, None),
        (1, "NaN"),
        (2, "-1"),
        (3, "0"),
        (3, "1e9"),
        (4, "infinity"),
        (4, {}),
        (5, "-1"),
        (5, "9_9"),
        (2, ""),
    ]
)


@given(
    indices=st.lists(st.integers(0, 30), max_size=40),
    seed=st.randoms(use_true_random=False),
    first=st.integers(0, 30),
    count=st.integers(0, 30),
    damage=st.none() | st.tuples(st.integers(0, 39), DAMAGES),
    cut=st.none() | st.tuples(st.integers(0, 39), st.integers(0, 11)),
    extra=st.none() | st.integers(0, 39),
)
def test_shuffled_doubled_cut_or_damaged_pages_never_give_a_wrong_candle(
    indices: list[int], seed: Any, first: int, count: int, damage: Any, cut: Any, extra: int | None
) -> None:
    rows = [binance_row(index) for index in indices]
    seed.shuffle(rows)
    if extra is not None and rows:
        rows.append(list(rows[extra % len(rows)]))
    if damage is not None and rows:
        at, (column, value) = damage
        rows[at % len(rows)][column] = value
    if cut is not None and rows:
        at, length = cut
        rows[at % len(rows)] = rows[at % len(rows)][:length]
    start_ms, end_ms = START_MS + first * MINUTE_MS, START_MS + (first + count) * MINUTE_MS
    is_clean = damage is None and (cut is None or cut[1] > 5)
    try:
        batch = decode_binance(from_json(json.dumps(rows)), start_ms, end_ms)
    except MalformedPage:
        assert not is_clean
        return
    found = [int(at - START_MS) // MINUTE_MS for at in batch.open_ms]
    assert all(first <= index < first + count for index in found)
    values = np.column_stack((batch.open, batch.high, batch.low, batch.close, batch.volume)).tolist()
    assert values == [list(candle(index)) for index in found]
    if is_clean:
        assert found == sorted({index for index in indices if first <= index < first + count})


def test_symbols_are_listed_by_unified_name() -> None:
    pairs = {
        "XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "status": "online"},
        "XDGUSD": {"altname": "XDGUSD", "wsname": "XDG/USD", "status": "cancel_only"},
        "broken": {"altname": "X", "status": "online"},
    }
    found = decode_markets({"error": [], "result": pairs}, KRAKEN)
    assert [(market.symbol, market.exchange_symbol, market.is_active) for market in found] == [
        ("BTC/USD", "XBTUSD", True),
        ("DOGE/USD", "XDGUSD", False),
    ]
    products = [
        {"id": "BTC-USD", "base_currency": "BTC", "quote_currency": "USD", "status": "online", "trading_disabled": False},
        {"id": "ETH-USD", "base_currency": "ETH", "quote_currency": "USD", "status": "online", "trading_disabled": True},
        {"id": "BTCAUCTION-USD", "base_currency": "BTC", "quote_currency": "USD", "status": "delisted"},
    ]
    listed = {market.symbol: market.is_active for market in decode_markets(products, COINBASE)}
    assert listed == {"BTC/USD": True, "ETH/USD": False, "BTCAUCTION/USD": False}
    with pytest.raises(MalformedPage, match="no list of symbols"):
        decode_markets({"symbols": 1}, BINANCE)


@pytest.mark.parametrize(
    ("exchange", "row", "settle_key", "symbol"),
    [
        ("binanceusdm", {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT"}, "marginAsset", "BTC/USDT:USDT"),
        (
            "bybitlinear",
            {"symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "contractType": "LinearPerpetual"},
            "settleCoin",
            "BTC/USDT:USDT",
        ),
        (
            "deribit",
            {"instrument_name": "BTC_USDC-PERPETUAL", "base_currency": "BTC", "counter_currency": "USDC"},
            "settlement_currency",
            "BTC/USDC:USDC",
        ),
    ],
)
def test_a_contract_whose_settlement_is_not_told_is_no_spot_pair(
    exchange: str, row: dict[str, object], settle_key: str, symbol: str
) -> None:
    spec = load_spec(exchange)

    def symbols(*rows: object) -> list[str]:
        listed: object = list(rows)
        for step in reversed(spec.market_rows.path):
            assert isinstance(step, str)
            listed = {step: listed}
        return [market.symbol for market in decode_markets(listed, spec)]

    settle = symbol.partition(":")[2]
    assert symbols({**row, settle_key: settle}) == [symbol]
    assert symbols(row, {**row, settle_key: None}, {**row, settle_key: ""}) == []


def test_a_field_that_is_null_does_not_take_a_market_off_the_list() -> None:
    listed = {"universe": [{"name": "BTC", "isDelisted": None}, {"name": "ETH"}, {"name": "OLD", "isDelisted": True}]}
    found = {market.symbol: market.is_active for market in decode_markets(listed, load_spec("hyperliquid"))}
    assert found == {"BTC/USDC:USDC": True, "ETH/USDC:USDC": True, "OLD/USDC:USDC": False}


def test_lists_of_plain_ids_are_split_by_the_pattern() -> None:
    form = MarketForm(path=(0,), id_key="id", pair_key="id", pair_pattern="(?P<base>.{3}|.+(?=:)):?(?P<quote>[^:]+)")
    spec = replace(
        BINANCE, market_rows=form, symbol_form=SymbolForm("t{base}{quote}", "t{base}:{quote}", aliases={"USDT": "UST"})
    )
    found = decode_markets([["BTCUSD", "BTCUST", "DUSK:USD"]], spec)
    assert [market.symbol for market in found] == ["BTC/USD", "BTC/USDT", "DUSK/USD"]
    assert [spec.symbol_form.write(market.symbol) for market in found] == ["tBTCUSD", "tBTCUST", "tDUSK:USD"]


@pytest.mark.parametrize(
    ("pair_id", "symbol"),
    [
        ("btcusd", "BTC/USD"),
        ("btcusdt", "BTC/USDT"),
        ("dogegusd", "DOGE/GUSD"),
        ("gusdusd", "GUSD/USD"),
        ("gusdsgd", "GUSD/SGD"),
        ("jitosolsol", "JITOSOL/SOL"),
        ("opgusd", "OP/GUSD"),
        ("paxgusd", "PAXG/USD"),
        ("paxggusd", "PAXG/GUSD"),
        ("rlusdusdc", "RLUSD/USDC"),
        ("rndrrlusd", "RNDR/RLUSD"),
        ("usd1usd", "USD1/USD"),
        ("usdcusd", "USDC/USD"),
        ("usdgusd", "USDG/USD"),
        ("usdggusd", "USDG/GUSD"),
        ("usdtusdc", "USDT/USDC"),
        ("btcgusdperp", None),
    ],
)
def test_an_id_without_a_separator_is_split_where_a_quote_begins(pair_id: str, symbol: str | None) -> None:
    gemini = load_spec("gemini")
    found = [market.symbol for market in decode_markets([pair_id], gemini)]
    assert found == ([] if symbol is None else [symbol])
    assert [gemini.symbol_form.write(each) for each in found] == [pair_id] * len(found)


@pytest.mark.parametrize(
    ("name", "symbol", "expected"),
    [
        ("binance", "BTC/USDT", "BTCUSDT"),
        ("coinbase", "BTC/USD", "BTC-USD"),
        ("kraken", "BTC/USD", "XBTUSD"),
        ("kraken", "ETH/BTC", "ETHXBT"),
        ("kraken", "DOGE/EUR", "XDGEUR"),
        ("kraken", "XBT/USD", None),
        ("bitget", "TON/USDT", "TONCOINUSDT"),
        ("bitget", "omni/USDT", "OMNIUSDT"),
        ("bitget", "OMNI/USDT", None),
        ("gemini", "BTC/GUSD", "btcgusd"),
        ("bitfinex", "LUNA/USDT", "tLUNA2:UST"),
        ("bitfinex", "LUNC/USD", "tLUNA:USD"),
        ("bitfinex", "BTC/UST", None),
        ("gate", "MPH/USDT", "88MPH_USDT"),
        ("gate", "BITCOINFILE/USDT", "BIFI_USDT"),
        ("gate", "BIFI/USDT", None),
        ("kucoin", "BSV/USDT", "BCHSV-USDT"),
        ("binance", "BTC/USDT:USDT", None),
        ("binance", "BTCUSDT", None),
        ("binance", "BTC/USDT?x=1", None),
        ("binance", "../BTC/USDT", None),
    ],
)
def test_symbols_are_written_in_the_form_of_the_exchange(name: str, symbol: str, expected: str | None) -> None:
    assert load_spec(name).symbol_form.write(symbol) == expected


def test_every_exchange_of_the_catalog_has_its_own_data() -> None:
    for name in EXCHANGES:
        spec = load_spec(name)
        assert spec.name == name
        assert set(spec.timeframes) <= set(TIMEFRAMES)
        assert spec.windows
        assert all(window.limit >= spec.candles_weight for window in spec.windows)
        assert spec.base_url.startswith("https://")
        assert isinstance(spec.rows, RowForm)
    with pytest.raises(InvalidRequest, match=f"exchange: .*{', '.join(sorted(EXCHANGES))}") as caught:
        load_spec("mtgox")
    assert caught.value.errors[0][0] == "exchange"


@pytest.mark.parametrize("step_ms", [HOUR_MS, DAY_MS])
def test_times_are_written_in_every_form(step_ms: int) -> None:
    assert TimeForm.MILLISECONDS.write(START_MS + step_ms) == START_MS + step_ms
    assert TimeForm.SECONDS.write(START_MS + step_ms) == (START_MS + step_ms) // 1000
    assert TimeForm.ISO.write(START_MS) == "2024-01-01T00:00:00.000Z"
