"""The cluster's side of tpd: the manager and the agent."""
