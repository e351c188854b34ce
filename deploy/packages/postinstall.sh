#!/bin/sh
# The first argument is "configure" (deb), or 1 for a first installation and 2 for an upgrade (rpm). For deb, the
# second one is the version before; it is empty the first time.
set -e
service=@SERVICE@
case $1 in
configure | 1 | 2) ;;
*) exit 0 ;;
esac

# The packages influxdb of Debian and Ubuntu delete /var/lib/influxdb and disable the service when they are purged, even
# long after Concord has taken over both. What is left of them must not do that any more.
left=/var/lib/dpkg/info/influxdb.postrm
if [ -f $left ] && grep -q 'rm -rf /var/lib/influxdb' $left; then
	sed -i -e 's,rm -rf /var/lib/influxdb,: Concord has /var/lib/influxdb now,' \
		-e 's,deb-systemd-helper purge,: Concord has the service,' $left
fi

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
if [ "$1$2" = configure ] || [ "$1" = 1 ]; then
	if command -v systemctl >/dev/null; then
		systemctl --quiet enable $service.service || true
	fi
	if [ -f /etc/init.d/$service ]; then
		chmod +x /etc/init.d/$service # Debian's package takes that from its own script, whose place this one has
		update-rc.d $service defaults >/dev/null || true
	fi
	echo "To start it: systemctl start $service, or without systemd: service $service start"
elif [ -d /run/systemd/system ]; then
	systemctl try-restart $service.service
elif [ -x /etc/init.d/$service ] && /etc/init.d/$service status >/dev/null; then
	/etc/init.d/$service restart
fi
