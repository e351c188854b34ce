package tlsmanager

import (
	"crypto/tls"
	"testing"

	"concord/internal/trust"
)

func TestBaseIsWhatTheSectionSays(t *testing.T) {
	t.Parallel()
	base, err := Base(trust.Protocol{
		Ciphers: []string{"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"}, MinVersion: "tls1.2", MaxVersion: "tls1.3",
	})
	if err != nil || base.MinVersion != tls.VersionTLS12 || base.MaxVersion != tls.VersionTLS13 ||
		len(base.CipherSuites) != 1 || base.CipherSuites[0] != tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 {
		t.Errorf("%+v, %v", base, err)
	}
	if base, err := Base(trust.NewProtocol()); base != nil || err != nil {
		t.Errorf("the defaults are %+v, %v; want those of Go", base, err)
	}
	for _, bad := range []trust.Protocol{{Ciphers: []string{"x"}}, {MinVersion: "3"}, {MaxVersion: "tls9"}} {
		if _, err := Base(bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
		settings := trust.TLS{HTTPSEnabled: true, Protocol: bad}
		if m, err := New(settings, NewMonitor(bad), "test", Nodes); err == nil {
			m.Close()
			t.Errorf("a manager is made with %+v", bad)
		}
	}
}
