"""An SMTP server (Debian's aiosmtpd) on one port of both families; it prints every letter."""

import asyncio
import socket
import sys

from aiosmtpd.handlers import Debugging
from aiosmtpd.smtp import SMTP


async def main():
    listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Debugging(sys.stdout)), sock=listener)
    await server.serve_forever()


asyncio.run(main())
