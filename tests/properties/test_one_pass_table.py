"""docs/indicators.md says of each function how far it is from one pass, and that is so."""

from pathlib import Path
from typing import Final

from benchmarks.one_pass import measure

TABLE: Final = Path(__file__).resolve().parents[2] / "docs" / "indicators.md"
# Other machines round otherwise, and shorter markets have other worst values.
ROOM: Final = 3.0
NOTHING: Final = 1e-13


def printed() -> dict[str, tuple[float, float]]:
    rows = [line.strip("| \n").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return {name: (float(moving.split()[0]), float(flat.split()[0])) for name, moving, flat in rows[2:]}


def test_every_function_is_as_near_to_one_pass_as_the_table_says() -> None:
    said, found = printed(), measure()
    assert sorted(said) == sorted(found)
    for name, distances in found.items():
        for distance, told in zip(distances, said[name], strict=True):
            assert distance <= max(NOTHING, ROOM * told), name
