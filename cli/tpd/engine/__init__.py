"""The container engine on the laptop: one adapter over the Docker SDK, with its own errors."""
