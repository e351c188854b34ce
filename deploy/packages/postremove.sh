#!/bin/sh
# Forgets the service. What the node wrote stays, also when the package is purged: /var/lib/influxdb,
# /var/log/influxdb, and the user that owns them.
set -e
service=@SERVICE@
if [ "$1" = purge ]; then
	find /etc/systemd/system -lname "*/$service.service" -delete
	if command -v update-rc.d >/dev/null; then
		update-rc.d $service remove >/dev/null || true
	fi
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
