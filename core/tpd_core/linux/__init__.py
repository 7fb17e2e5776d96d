"""Linux networking that the agent and the daemon share: kernel-owned nft tables, transparent sockets, local routes.

Nothing here is imported on the laptop's host.
"""
