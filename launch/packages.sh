#!/bin/sh
# Installs the Debian packages whose files become the data set emoji_cldr. Only root can install;
# for other users, prints the command.
set -eu

packages="fonts-noto-color-emoji unicode-cldr-core unicode-data"
missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Missing:$missing. This system has no apt-get: get the files another way and give their" >&2
    echo "paths: mural prepare ... --source font=FILE --source cldr=DIR --source unicode=DIR" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Missing:$missing. Install them with:" >&2
    echo "    sudo apt-get install$missing" >&2
    exit 1
fi
echo "installing$missing"
apt-get update -qq
# Unquoted, because each package is a word of its own.
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
