"""`python -m local_emulator.simulator --port N [--seed S] [--recordings PATH] [--config FILE] ...`"""

import argparse
import sys
from pathlib import Path

from local_emulator.simulator.app import Simulator
from local_emulator.simulator.config import load_config
from local_emulator.simulator.recordings import RecordedSeries, find_recordings, read_recording, recordings_of
from local_emulator.simulator.server import serve
from shared.errors import ConfigurationError


def main() -> int:
    """Run the simulator; 2 if the configuration is wrong."""
    arguments = _arguments()
    try:
        config = load_config(arguments.config)
        named = {"seed": arguments.seed, "clock_offset_ms": arguments.clock_offset_ms, "freeze_at_ms": arguments.freeze_at_ms}
        config = config.model_copy(update={name: value for name, value in named.items() if value is not None})
        files = recordings_of(config.recordings, arguments.config.parent) if config.recordings else {}
        if arguments.recordings is not None:
            files |= find_recordings(arguments.recordings)
        simulator = Simulator(config, {key: RecordedSeries(read_recording(path)) for key, path in files.items()})
    except ConfigurationError as exc:
        print(exc.message, file=sys.stderr)
        return 2
    serve(simulator, arguments.port, arguments.stop_with_stdin)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local_emulator.simulator", description="Simulated crypto exchanges.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the first line of output tells which")
    parser.add_argument("--seed", type=int, help="all candles grow from it")
    parser.add_argument("--recordings", type=Path, help="folder of CSV files, or a JSON file that maps series to files")
    parser.add_argument("--config", type=Path, help="JSON: seed, limits, faults, recordings, clock")
    clock = parser.add_mutually_exclusive_group()
    clock.add_argument("--clock-offset-ms", type=int, help="run that far ahead of the host's clock")
    clock.add_argument("--freeze-at-ms", type=int, help="stand still at this moment")
    parser.add_argument("--stop-with-stdin", action="store_true", help="end when standard input ends, so with the parent")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
