"""A path to an exchange that is slow in a way of its own: each request is held up for a random time, answers are not.

A process of its own, so that it keeps going while others are stopped. What it has taken it delivers, even if its client is
gone by then, as a network would.
"""

import asyncio
import multiprocessing
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536
START_S_MAX: Final = 20.0


@contextmanager
def slow_paths(target_port: int, delays_ms: Sequence[tuple[int, int]], seed: int) -> Iterator[list[int]]:
    """One port for each pair of (least, most) ms; all lead to the target's port on this machine."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(target_port, list(delays_ms), seed, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(START_S_MAX):
            raise SystemExit("the slow paths did not start")
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _run(target_port: int, delays_ms: list[tuple[int, int]], seed: int, told: "multiprocessing.connection.Connection") -> None:
    rng = random.Random(seed)

    async def serve() -> None:
        servers = [await _open(target_port, least, most, rng) for least, most in delays_ms]
        told.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(serve())


async def _open(target_port: int, least_ms: int, most_ms: int, rng: random.Random) -> asyncio.Server:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_exchange, from_exchange = None, None
        try:
            from_exchange, to_exchange = await asyncio.open_connection(HOST, target_port)
            answers = asyncio.create_task(_copy(from_exchange, writer))
            while chunk := await reader.read(CHUNK_BYTES):
                await asyncio.sleep(rng.uniform(least_ms, most_ms) / 1_000)
                to_exchange.write(chunk)
                await to_exchange.drain()
            answers.cancel()
        except OSError:
            pass
        finally:
            for each in (writer, to_exchange):
                if each is not None:
                    each.close()

    return await asyncio.start_server(connect, HOST, 0)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
