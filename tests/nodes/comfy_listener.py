"""Writes ComfyUI's websocket messages to standard output, one JSON line each; run by ComfyUI's own Python (aiohttp).

python comfy_listener.py ws://127.0.0.1:PORT/ws?clientId=NAME
"""

import asyncio
import json
import sys

import aiohttp


async def listen(address: str) -> None:
    """Print messages until the server closes; a picture becomes {"type": "preview", "bytes": n}."""
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        print(json.dumps({"type": "connected"}), flush=True)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                print(message.data, flush=True)
            elif message.type == aiohttp.WSMsgType.BINARY:
                print(json.dumps({"type": "preview", "bytes": len(message.data)}), flush=True)


asyncio.run(listen(sys.argv[1]))
