package datanode

import (
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/pkg/tlsconfig"

	"concord/internal/trust"
	"concord/internal/trust/tlsmanager"
)

// certificates are what this node shows to other nodes, and which of theirs it trusts.
type certificates struct {
	monitor *tlsconfig.TLSCertMonitor   // warns before one expires; also for clients and subscribers
	peers   *tlsconfig.TLSConfigManager // to and from data nodes
	meta    *tlsconfig.TLSConfigManager // to meta nodes
}

// open loads the certificates that cfg names. Close is due even when it fails.
func (c *certificates) open(cfg *Config) (err error) {
	c.monitor = tlsmanager.NewMonitor(cfg.TLS)
	if err := c.monitor.Open(); err != nil {
		return fmt.Errorf("start the certificate monitor: %w", err)
	}
	if c.peers, err = tlsmanager.New(cfg.clusterTLS(), c.monitor, "cluster", tlsmanager.Nodes); err != nil {
		return fmt.Errorf("[cluster] https: %w", err)
	}
	if c.meta, err = tlsmanager.New(cfg.metaTLS(), c.monitor, "meta", tlsmanager.Anyone); err != nil {
		return fmt.Errorf("[meta] meta-tls: %w", err)
	}
	return nil
}

// Close ends the watch over the certificates.
func (c *certificates) Close() error {
	var errs []error
	for _, m := range []*tlsconfig.TLSConfigManager{c.meta, c.peers} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	c.monitor.Close()
	return errors.Join(errs...)
}

// prepare loads the certificates that cfg names. They are used once the steps that it returns have run.
func (c *certificates) prepare(cfg *Config) (steps []func() error, err error) {
	for _, m := range []struct {
		manager *tlsconfig.TLSConfigManager
		tls     trust.TLS
		peers   tlsmanager.Peers
	}{{c.peers, cfg.clusterTLS(), tlsmanager.Nodes}, {c.meta, cfg.metaTLS(), tlsmanager.Anyone}} {
		if !m.manager.UseTLS() {
			continue
		}
		apply, err := m.manager.PrepareReconfigure(tlsmanager.Options(m.tls, m.peers)...)
		if err != nil {
			return nil, fmt.Errorf("reload certificates: %w", err)
		}
		steps = append(steps, apply)
	}
	return steps, nil
}
