"""Everything that the asyncio parts of tpd share: loop, tasks, TLS contexts, links, streams, relays."""
