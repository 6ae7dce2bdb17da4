#!/bin/sh
# MURAL on emoji, from nothing to a report: launch/quickstart.sh DIR
# Goes on where it stopped when it is run again.
set -eu

here=$(dirname "$0")
folder=$1
data="$folder/data"
run="$folder/mural"

"$here/packages.sh"
mural prepare --config=emoji --data_dir="$data"
mural train --config=emoji --workdir="$run" --data_dir="$data"
mural evaluate --workdir="$run" --data_dir="$data"
mural report --workdir="$run"
cat <<END

Next, search the pictures in any of the languages; "mushuk" is a cat in Uzbek, which never met
a picture in training:
    .venv/bin/mural search --workdir=$run --query="mushuk"
and open $run/report.html
END
