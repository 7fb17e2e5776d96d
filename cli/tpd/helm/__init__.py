"""The chart and the `helm` binary."""
