"""The HTTP server: a hardened protocol on aiohttp, the web process, and the supervisor of several of them."""
