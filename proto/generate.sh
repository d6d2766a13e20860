#!/bin/sh
# Regenerates all Go code below proto/ from the .proto files. Needs Go only;
# run twice, it changes nothing the second time.
set -eu
cd "$(dirname "$0")/../tools/protogen"
exec go run .
