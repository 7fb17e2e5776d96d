#!/bin/sh
# Imports a `docker save` archive into the node and notes which image it was.
set -eu
ctr -n k8s.io images import "$1"
mkdir -p /run/loaded
id=${1%.tar}.id
[ ! -f "$id" ] || cp "$id" /run/loaded/
