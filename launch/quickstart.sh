#!/bin/sh
# Prepares data, trains MURAL on emoji, evaluates it and writes a report: launch/quickstart.sh DIR
# If it is stopped and run again, it continues where it stopped.
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

Next, search the images in any of the languages. "mushuk" is Uzbek for cat; training showed no
image with Uzbek text:
    .venv/bin/mural search --workdir=$run --query="mushuk"
and open $run/report.html
END
