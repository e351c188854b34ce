// Package tlsmanager turns the TLS settings of a node into what its listeners and connections use. It needs the
// engine's TLS manager; package trust, which clients use too, does not.
package tlsmanager

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/influxdata/influxdb/pkg/tlsconfig"

	"concord/internal/trust"
)

// Peers says who connects to a listener.
type Peers bool

// Nodes have certificates, which are asked for when there is a CA. Anyone is operators, too.
const (
	Anyone Peers = false
	Nodes  Peers = true
)

// Base returns what [tls] says, or what is wrong with it. It is nil when the section says nothing.
func Base(p trust.Protocol) (*tls.Config, error) {
	return tlsconfig.Config{Ciphers: p.Ciphers, MinVersion: p.MinVersion, MaxVersion: p.MaxVersion}.Parse()
}

// NewMonitor returns what warns before certificates expire.
func NewMonitor(p trust.Protocol) *tlsconfig.TLSCertMonitor {
	return tlsconfig.NewTLSCertMonitor(tlsconfig.WithMonitorExpirationAdvanced(time.Duration(p.AdvancedExpiration)))
}

// Options are the settings as the engine's TLS manager takes them. Base must have found nothing wrong.
func Options(t trust.TLS, peers Peers) []tlsconfig.TLSConfigManagerOpt {
	base, _ := Base(t.Protocol)
	opts := []tlsconfig.TLSConfigManagerOpt{
		tlsconfig.WithBaseConfig(base),
		tlsconfig.WithUseTLS(t.HTTPSEnabled),
		tlsconfig.WithServerCertificate(t.HTTPSCertificate, t.HTTPSPrivateKey),
		tlsconfig.WithAllowInsecure(t.HTTPSInsecureTLS),
	}
	if t.HTTPSEnabled && t.HTTPSCA != "" {
		ca := &tlsconfig.CAConfig{Paths: []string{t.HTTPSCA}}
		opts = append(opts, tlsconfig.WithRootCA(ca))
		if peers == Nodes {
			opts = append(opts, tlsconfig.WithClientCA(ca), tlsconfig.WithClientAuth(tls.RequireAndVerifyClientCert))
		}
	}
	return opts
}

// New returns a manager that listens and dials with the settings; its certificates can be loaded
// anew. The monitor warns before they expire.
func New(
	t trust.TLS, monitor *tlsconfig.TLSCertMonitor, usage string, peers Peers,
) (*tlsconfig.TLSConfigManager, error) {
	if !t.HTTPSEnabled {
		return tlsconfig.NewDisabledTLSConfigManager(), nil
	}
	if _, err := Base(t.Protocol); err != nil {
		return nil, fmt.Errorf("[tls]: %w", err)
	}
	opts := append(Options(t, peers), tlsconfig.WithUsage(usage))
	return tlsconfig.NewClientServerTLSConfigManager(monitor, opts...)
}
