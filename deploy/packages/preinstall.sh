#!/bin/sh
# Makes the user that the service runs as, with the same name and home as the packages of InfluxDB.
set -e
getent group influxdb >/dev/null || groupadd --system influxdb
getent passwd influxdb >/dev/null ||
	useradd --system --gid influxdb --home-dir /var/lib/influxdb --no-create-home --shell /bin/false influxdb
