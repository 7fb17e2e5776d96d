"""How a link's bytes get to the manager's router: its endpoint, the API server's port-forward, or the CLI's relay."""
