# Texts, much binary, a ping, a clean end. No single quotes in here: a shell reads them.
import asyncio
import os
import websockets


async def main():
    async with websockets.connect("ws://%s:8765/echo" % os.environ["SERVER"], open_timeout=20, ping_interval=None) as socket:
        for i in range(100):
            await socket.send("message %d" % i)
            assert await socket.recv() == "message %d" % i
        large = os.urandom(900000)
        await socket.send(large)
        assert await socket.recv() == large
        await (await socket.ping())
    print("100 texts, %d bytes, a ping, closed with %d" % (len(large), socket.close_code))


asyncio.run(asyncio.wait_for(main(), 40))
