"""What the laptop side and the cluster side of tpd share."""

__version__ = "0.1.0"
