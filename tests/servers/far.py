"""A server as it is seen from far away: a relay that holds back what is asked, not what is answered.

    python tests/servers/far.py TARGET_PORT SECONDS

It prints its own port.
"""

from __future__ import annotations

import asyncio
import sys

BLOCK = 1 << 18


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass bytes on so many seconds after they came; more may come meanwhile."""
    loop, waiting = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]](maxsize=256)

    async def take() -> None:
        while data := await reader.read(BLOCK):
            await waiting.put((loop.time() + delay, data))
        await waiting.put((0.0, b""))

    taking = asyncio.create_task(take())
    try:
        while True:
            due, data = await waiting.get()
            if not data:
                break
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        taking.cancel()
        writer.close()


async def main(port: int, delay: float) -> None:
    """Relay all connections."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, back, delay), pass_on(there, writer, 0.0), return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
