"""ArcticDB's part of benchmarks/read.py, in a process of its own: it does not go with our pins (pandas < 3, protobuf < 7).

    python -m benchmarks.arcticdb_peer CANDLES ROUNDS FOLDER

Writes that many candles into an LMDB store in the folder, reads them back into a DataFrame, and prints one JSON object:
`read_s` (seconds, one a round).
"""

import json
import sys
import time

import arcticdb
import numpy as np
import pandas as pd


def main() -> None:
    """Write once, read a few times."""
    candles, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rng = np.random.default_rng(1)
    index = pd.date_range("2020-01-01", periods=candles, freq="min")
    frame = pd.DataFrame({name: rng.random(candles) for name in ("open", "high", "low", "close", "volume")}, index=index)
    library = arcticdb.Arctic(f"lmdb://{folder}").create_library("candles")
    library.write("BTC-USDT", frame)
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        read = library.read("BTC-USDT").data
        taken.append(time.perf_counter() - began)
        if len(read) != candles:
            raise SystemExit("ArcticDB did not give back what it was given")
    print(json.dumps({"read_s": taken}))


if __name__ == "__main__":
    main()
