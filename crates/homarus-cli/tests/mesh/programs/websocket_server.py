# Gives back what it gets. No single quotes in here: a shell reads them.
import asyncio
import websockets


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    async with websockets.serve(echo, "0.0.0.0", 8765):
        await asyncio.Future()


asyncio.run(main())
