package listeners

import (
	"bytes"
	"io"
	"testing"

	"collectd.org/network"
	"github.com/influxdata/influxdb/services/collectd"
	"github.com/influxdata/influxdb/services/graphite"
	"github.com/influxdata/influxdb/services/opentsdb"
	"github.com/influxdata/influxdb/services/udp"
	"go.uber.org/zap"
)

// quiet opens one listener, which logs nothing.
func quiet(f *testing.F, c Config) listener {
	f.Helper()
	l, err := Open(c, deps(newCluster(), zap.NewNop()))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	return l.list[0]
}

func FuzzGraphite(f *testing.F) {
	c := graphiteConfig("udp")
	c.Templates = []string{"servers.* .host.measurement.field*", "measurement*"}
	l := quiet(f, Config{Graphite: []graphite.Config{c}}).(*graphiteListener)
	for _, s := range []string{"servers.a.cpu.load 1 1700000000\n", "a;b=c 1 -1", "x NaN N", ";", "\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { l.packet(b) })
}

func FuzzCollectd(f *testing.F) {
	var all []*collectdListener
	for _, level := range []string{"none", "sign", "encrypt"} {
		c := collectdConfig(f)
		c.SecurityLevel = level
		all = append(all, quiet(f, Config{Collectd: []collectd.Config{c}}).(*collectdListener))
	}
	f.Add([]byte(values(f, func(*network.Buffer) {})))
	f.Add([]byte(values(f, func(b *network.Buffer) { b.Sign("me", "secret") })))
	f.Add([]byte(values(f, func(b *network.Buffer) { b.Encrypt("me", "secret") })))
	f.Add([]byte("\x01\x00\x00\x09hello"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, l := range all {
			l.packet(b)
		}
	})
}

func FuzzOpenTSDB(f *testing.F) {
	l := quiet(f, Config{OpenTSDB: []opentsdb.Config{opentsdbConfig()}}).(*opentsdbListener)
	for _, s := range []string{
		"put cpu 1700000000 4 host=a", "put cpu 1700000000123 x", `[{"metric":"m","timestamp":1,"value":"1"}]`, `{}`,
		"",
		string(zipped(`{"metric":"m","timestamp":1700000000,"value":1,"tags":{"a":"b"}}`)),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l.line(string(b), zap.Skip())
		for _, gz := range []bool{false, true} {
			points, err := decodePut(io.NopCloser(bytes.NewReader(b)), gz)
			if err != nil {
				continue
			}
			for _, p := range points {
				if point, err := p.point(); err == nil {
					l.batches.add(point)
				}
			}
		}
	})
}

func FuzzUDP(f *testing.F) {
	l := quiet(f, Config{UDP: []udp.Config{udpConfig()}}).(*udpListener)
	for _, s := range []string{"m v=1 1", "m,a=b v=1i,w=\"x\"\nn", "m v=", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { l.packet(b) })
}
