package server

import (
	"fmt"

	"github.com/influxdata/influxdb/pkg/tlsconfig"

	"concord/internal/meta/metaconfig"
	"concord/internal/trust"
	"concord/internal/trust/tlsmanager"
)

// certificates are those of a meta node, for each of its listeners and for its calls.
type certificates struct {
	monitor *tlsconfig.TLSCertMonitor   // warns before a certificate expires
	http    *tlsconfig.TLSConfigManager // of the HTTP API, and to that of other meta nodes
	raft    *tlsconfig.TLSConfigManager // of Raft, both ways
	data    *tlsconfig.TLSConfigManager // to data nodes
}

// openCertificates loads the certificates. When it fails, nothing is left open.
func openCertificates(cfg *metaconfig.Config) (_ *certificates, err error) {
	c := &certificates{monitor: tlsmanager.NewMonitor(cfg.TLS)}
	if err := c.monitor.Open(); err != nil {
		return nil, fmt.Errorf("start the certificate monitor: %w", err)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.http, err = tlsmanager.New(cfg.MetaTLS(), c.monitor, "meta", tlsmanager.Anyone); err != nil {
		return nil, fmt.Errorf("[meta] https-enabled, for the HTTP API: %w", err)
	}
	if c.raft, err = tlsmanager.New(cfg.MetaTLS(), c.monitor, "raft", tlsmanager.Nodes); err != nil {
		return nil, fmt.Errorf("[meta] https-enabled, for Raft: %w", err)
	}
	if c.data, err = tlsmanager.New(cfg.DataTLS(), c.monitor, "meta to data", tlsmanager.Nodes); err != nil {
		return nil, fmt.Errorf("[meta] data-use-tls: %w", err)
	}
	return c, nil
}

func (c *certificates) close() {
	c.monitor.Close()
	for _, m := range []*tlsconfig.TLSConfigManager{c.http, c.raft, c.data} {
		if m != nil {
			m.Close()
		}
	}
}

// reload loads the certificates anew.
func (c *certificates) reload(cfg *metaconfig.Config) error {
	for _, m := range []struct {
		manager *tlsconfig.TLSConfigManager
		tls     trust.TLS
		peers   tlsmanager.Peers
	}{
		{c.http, cfg.MetaTLS(), tlsmanager.Anyone},
		{c.raft, cfg.MetaTLS(), tlsmanager.Nodes},
		{c.data, cfg.DataTLS(), tlsmanager.Nodes},
	} {
		if !m.manager.UseTLS() {
			continue
		}
		apply, err := m.manager.PrepareReconfigure(tlsmanager.Options(m.tls, m.peers)...)
		if err == nil {
			err = apply()
		}
		if err != nil {
			return fmt.Errorf("reload certificates: %w", err)
		}
	}
	return nil
}
