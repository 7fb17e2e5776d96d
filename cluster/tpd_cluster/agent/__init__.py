"""The agent: sits in a pod, takes ports for links that hold a grant, serves environment and volumes, dials out."""
