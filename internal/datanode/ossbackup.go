package datanode

import (
	"errors"
	"fmt"
	"net"

	"concord/internal/ossbackup"
)

// The values of oss-backup: who may use influxd backup and restore of InfluxDB OSS.
const (
	autoBackup  = "auto" // all where nothing asks for credentials, else nobody
	allBackup   = "all"
	localBackup = "local" // programs on this machine
	noBackup    = "none"
)

// openBackups serves influxd backup and restore of InfluxDB OSS, or refuses them.
func (n *Node) openBackups() error {
	s := ossbackup.New(ossbackup.Deps{Meta: n.Meta, Admit: n.cfg.admitBackup, Log: n.log})
	ln, done := n.listener.forBackups(), make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ln)
	}()
	n.onClose(func() error {
		ln.Close()
		<-done
		return s.Close()
	})
	return nil
}

// admitBackup is why a client may not use influxd backup and restore, whose protocol has no credentials.
func (c *Config) admitBackup(client net.Addr) error {
	switch c.Cluster.OSSBackup {
	case allBackup:
		return nil
	case localBackup:
		if tcp, ok := client.(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
			return nil
		}
		return errors.New(`[cluster] oss-backup is "local": run it on this machine, with -host 127.0.0.1:8088`)
	case autoBackup:
		if asks := c.asksForCredentials(); asks != "" {
			return fmt.Errorf("it has no credentials, and %s is set: set [cluster] oss-backup, or use influxd-ctl "+
				"backup", asks)
		}
		return nil
	}
	return fmt.Errorf("[cluster] oss-backup is %q", c.Cluster.OSSBackup)
}

// asksForCredentials names the setting that makes clients or nodes prove who they are; empty for none.
func (c *Config) asksForCredentials() string {
	switch {
	case c.HTTPD.AuthEnabled:
		return "[http] auth-enabled"
	case c.Meta.AuthEnabled:
		return "[meta] meta-auth-enabled"
	case c.Meta.InternalSharedSecret != "":
		return "[meta] meta-internal-shared-secret"
	case c.Cluster.HTTPSEnabled:
		return "[cluster] https-enabled"
	}
	return ""
}
