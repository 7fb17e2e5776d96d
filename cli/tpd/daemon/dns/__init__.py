"""Names: which questions the cluster answers, which the world does, and the server that asks both."""
