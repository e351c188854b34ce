#!/bin/sh
# Stops the service, unless an upgrade follows. The first argument is "remove" (deb) or 0 (rpm).
set -e
service=@SERVICE@
case $1 in
remove | 0) ;;
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl stop $service.service || true
elif [ -x /etc/init.d/$service ]; then
	/etc/init.d/$service stop || true
fi
if [ "$1" = 0 ]; then
	systemctl --quiet disable $service.service || true
fi
