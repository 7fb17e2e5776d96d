"""The developer's side of tpd: the command line, the engine, compose, and the daemon container."""
