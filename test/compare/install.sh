#!/usr/bin/env bash
# Installs the real clients that `make compare` asks through, where they are
# missing: Debian's influx shell, python3-influxdb and prometheus, and npm's
# influx. One that cannot be had is told, and the test skips it.
set -uo pipefail
cd "$(dirname "$0")/clients"

apt() {
  command -v apt-get >/dev/null || { echo "$1: there is no apt-get here"; return; }
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get install -y --no-install-recommends "$1" >/dev/null || echo "$1: apt-get cannot install it"
}

command -v influx >/dev/null || apt influxdb-client
/usr/bin/python3 -c 'import influxdb' 2>/dev/null || apt python3-influxdb
command -v prometheus >/dev/null || apt prometheus
if ! [ -d node_modules/influx ]; then
  if command -v npm >/dev/null; then
    npm install --no-save --no-audit --no-fund influx@5 >/dev/null || echo "influx of npm: npm cannot install it"
  else
    echo "influx of npm: there is no npm here"
  fi
fi
exit 0
