"""tpd-manager: identity, grants, injection of agents, and the router that carries links to them."""
